"""All scores of one case from its two label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segflow.core.labels import LabelKey, Labels
from segflow.evaluation.evaluate_settings import ScoreSettings
from segflow.evaluation.label_maps import box_of, boxes_of_labels, mask_of, physical_spacing
from segflow.evaluation.lesions import count_lesions
from segflow.evaluation.overlap import Overlap, count_pairs
from segflow.evaluation.surface import SurfaceDistances, surface_distances


def score_case(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], labels: Labels, settings: ScoreSettings
) -> dict[LabelKey, dict[str, float]]:
    """Score a prediction for every foreground label, or for every region if there are regions.

    Voxels whose reference is the ignore label are left out. For surfaces and lesions they are background.

    Args:
        reference: Whole numbers (Z, Y, X).
        prediction: Whole numbers, same shape.
        spacing: mm along z, y, x.
        labels: The label definition.
        settings: Which scores to compute.

    Returns:
        Label or region → metric → value: nnU-Net's metrics (recipe 12), and those of ``settings``.

    Raises:
        SegflowError: The shapes differ.
    """
    counts = count_pairs(reference, prediction)
    overlaps = {key: counts.overlap(key, labels.ignore_label) for key in labels.foreground_keys}
    scores = {key: _overlap_scores(overlap, settings) for key, overlap in overlaps.items()}
    if settings.volume:
        voxel_mm3 = float(np.prod(physical_spacing(spacing, reference.shape)))
        for key, overlap in overlaps.items():
            scores[key].update(_volume_scores(overlap, voxel_mm3))
    if not settings.surface and not settings.lesions:
        return scores
    ignored = None if labels.ignore_label is None else reference == labels.ignore_label
    boxes = [boxes_of_labels(label_map) for label_map in (reference, prediction)]
    for key, overlap in overlaps.items():
        members = (key,) if isinstance(key, int) else key
        box = box_of(members, boxes)
        part = np.s_[:0] if box is None else box.slices
        masks = [mask_of(label_map[part], members) for label_map in (reference, prediction)]
        if ignored is not None:
            masks = [mask & ~ignored[part] for mask in masks]
        if settings.surface:
            scores[key].update(_surface_scores(masks[0], masks[1], spacing, reference.shape, overlap, settings))
        if settings.lesions:
            scores[key].update(_lesion_scores(masks[0], masks[1], settings))
    return scores


def _overlap_scores(overlap: Overlap, settings: ScoreSettings) -> dict[str, float]:
    empty = not overlap.n_pred and not overlap.n_ref
    return {
        "Dice": settings.empty_score if empty else overlap.dice,
        "IoU": settings.empty_score if empty else overlap.iou,
        "TP": overlap.tp,
        "FP": overlap.fp,
        "FN": overlap.fn,
        "TN": overlap.tn,
        "n_pred": overlap.n_pred,
        "n_ref": overlap.n_ref,
    }


def _volume_scores(overlap: Overlap, voxel_mm3: float) -> dict[str, float]:
    difference = overlap.n_pred - overlap.n_ref
    return {
        "volume_difference": difference / overlap.n_ref if overlap.n_ref else float("nan"),
        "volume_difference_mm3": difference * voxel_mm3,
    }


def _surface_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Sequence[float],
    shape: Sequence[int],
    overlap: Overlap,
    settings: ScoreSettings,
) -> dict[str, float]:
    if not overlap.n_pred and not overlap.n_ref:
        distance = 0.0 if settings.both_empty == "one" else float("nan")
        return _named_surface_scores(distance, distance, settings.empty_score)
    if not overlap.n_pred or not overlap.n_ref:
        diagonal = float(np.linalg.norm(np.asarray(shape) * physical_spacing(spacing, shape)))
        distance = {"inf": float("inf"), "diagonal": diagonal, "nan": float("nan")}[settings.one_empty]
        return _named_surface_scores(distance, distance, 0.0)
    found = _measure_surfaces(reference, prediction, spacing, shape)
    return _named_surface_scores(found.percentile_mm(95), found.mean_mm(), found.dice(settings.tolerance_mm))


def _named_surface_scores(hd95: float, mean: float, dice: float) -> dict[str, float]:
    return {"hd95_mm": hd95, "mean_surface_distance_mm": mean, "surface_dice": dice}


def _measure_surfaces(
    reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float], shape: Sequence[int]
) -> SurfaceDistances:
    if shape[0] == 1:  # a plane has contours, not surfaces
        return surface_distances(reference[0], prediction[0], spacing[1:])
    return surface_distances(reference, prediction, spacing)


def _lesion_scores(reference: np.ndarray, prediction: np.ndarray, settings: ScoreSettings) -> dict[str, float]:
    counts = count_lesions(reference, prediction, settings.lesion_overlap)
    empty = not counts.found and not counts.missed and not counts.false
    return {
        "lesion_f1": settings.empty_score if empty else counts.f1,
        "lesions_found": counts.found,
        "lesions_missed": counts.missed,
        "lesions_false": counts.false,
    }
