"""All scores of one case from its two label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import LabelKey, Labels
from segflow.evaluation.evaluate_settings import ScoreSettings
from segflow.evaluation.label_maps import ArrayMap, LabelMap, mask_of, physical_spacing, slabs_of
from segflow.evaluation.lesions import count_lesions
from segflow.evaluation.overlap import JointCounts, Overlap, check_pair
from segflow.evaluation.scan import scan_maps
from segflow.evaluation.surface import SurfaceDistances, surface_distances
from segflow.execution.machine import check_room

BOX_BYTES_PER_VOXEL = 8
"""Memory in bytes for each voxel of a label's box: two masks, and two maps of surfaces or of components."""


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
    check_pair(reference, prediction)
    return score_maps(ArrayMap(reference), ArrayMap(prediction), spacing, labels, settings)[0]


def score_maps(
    reference: LabelMap, prediction: LabelMap, spacing: Sequence[float], labels: Labels, settings: ScoreSettings
) -> tuple[dict[LabelKey, dict[str, float]], JointCounts]:
    """Like `score_case`, for label maps that are read box by box. Also gives the counts of all pairs of labels.

    Args:
        reference, prediction: Label maps of one shape.
        spacing: mm along z, y, x.
        labels, settings: See `score_case`.

    Raises:
        SegflowError: The box of a label does not fit into memory.
    """
    keys = labels.foreground_keys
    highest = max((max(_members(key)) for key in keys), default=0)
    scan = scan_maps(reference, prediction, highest)
    overlaps = {key: scan.counts.overlap(key, labels.ignore_label) for key in keys}
    scores = {key: _overlap_scores(overlap, settings) for key, overlap in overlaps.items()}
    if settings.volume:
        voxel_mm3 = float(np.prod(physical_spacing(spacing, reference.shape)))
        for key, overlap in overlaps.items():
            scores[key].update(_volume_scores(overlap, voxel_mm3))
    if not settings.surface and not settings.lesions:
        return scores, scan.counts
    for key, overlap in overlaps.items():
        box = scan.box(_members(key)) or Box((0, 0, 0), (0, 0, 0))
        check_room(BOX_BYTES_PER_VOXEL * math.prod(box.shape), f"label {labels.name_of(key)}", found=_extent(box))
        masks = [_mask(label_map, box, _members(key)) for label_map in (reference, prediction)]
        if labels.ignore_label is not None:
            scored = ~_mask(reference, box, (labels.ignore_label,))
            masks = [np.logical_and(mask, scored, out=mask) for mask in masks]
        if settings.surface:
            scores[key].update(_surface_scores(masks[0], masks[1], spacing, reference.shape, overlap, settings))
        if settings.lesions:
            scores[key].update(_lesion_scores(masks[0], masks[1], settings))
    return scores, scan.counts


def told_scores(
    scores: Mapping[LabelKey, dict[str, float]], absent: Sequence[LabelKey]
) -> dict[LabelKey, dict[str, float]]:
    """The scores of `score_case`, NaN for labels or regions of which the reference tells nothing.

    Args:
        scores: Of one case.
        absent: Labels or regions that were not drawn in it, see `Labels.absent_keys`.
    """
    return {key: dict.fromkeys(own, float("nan")) if key in absent else own for key, own in scores.items()}


def _members(key: LabelKey) -> tuple[int, ...]:
    return (key,) if isinstance(key, int) else key


def _extent(box: Box) -> str:
    return f"a box of {' × '.join(map(str, box.shape))} voxels"


def _mask(label_map: LabelMap, box: Box, members: Sequence[int]) -> np.ndarray:
    """Where a label map has one of some labels within a box, bool (Z, Y, X)."""
    parts = [mask_of(label_map.read(part), members) for part in slabs_of(box)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(box.shape, dtype=bool)


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
