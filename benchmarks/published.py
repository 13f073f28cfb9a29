"""Scores of label maps as a user of the surface-distance package computes them."""

from __future__ import annotations


def surfaces_of_files(case: tuple[str, str, tuple[int, ...], float]) -> dict[int, tuple[float, float, float]]:
    """HD95, mean surface distance and surface Dice of the labels of a case, in a worker process.

    Args:
        case: Files of reference and prediction, the labels, and the tolerance in mm.
    """
    import SimpleITK as sitk
    import surface_distance

    reference_file, prediction_file, labels, tolerance = case
    image = sitk.ReadImage(reference_file)
    spacing = image.GetSpacing()[::-1]
    reference, prediction = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(sitk.ReadImage(prediction_file))
    scores = {}
    for label in labels:
        found = surface_distance.compute_surface_distances(reference == label, prediction == label, spacing)
        there, back = surface_distance.compute_average_surface_distance(found)
        scores[label] = (
            float(surface_distance.compute_robust_hausdorff(found, 95)),
            float(there + back) / 2,
            float(surface_distance.compute_surface_dice_at_tolerance(found, tolerance)),
        )
    return scores
