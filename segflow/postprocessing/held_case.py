"""A case that is kept in memory, compressed, while postprocessing is chosen. Only changed voxels are scored again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import blosc2
import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import LabelKey, Labels
from segflow.core.postprocessing import PostprocessingStep
from segflow.evaluation.label_maps import box_of, boxes_of_labels, mask_of
from segflow.evaluation.label_pairs import LabelPair, read_pair
from segflow.evaluation.overlap import Overlap, count_pairs
from segflow.evaluation.undeclared import Undeclared, undeclared_values
from segflow.postprocessing.components import apply_step, postprocess_label_map
from segflow.storage.images import ImageIO

HOLD_BYTES_PER_VOXEL = 8
"""Memory per voxel of a case in bytes while it is read and compressed."""
TRY_BYTES_PER_VOXEL = 16
"""Memory per voxel of the held box in bytes while steps are tried."""


@dataclass(frozen=True, slots=True)
class HeldCase:
    """The part of a case that postprocessing can change, compressed.

    Attributes:
        case_id: Name of the case.
        prediction, reference: Label maps within the box of the predicted foreground, as blosc2 frames.
        spacing: mm along z, y, x.
        overlaps: Label or region → counts of the whole case, before postprocessing.
        undeclared: Values that are not labels.
        voxels: Number of voxels within the box.
        absent: Labels or regions of which the reference tells nothing, see `Labels.absent_keys`.
    """

    case_id: str
    prediction: bytes
    reference: bytes
    spacing: tuple[float, ...]
    overlaps: Mapping[LabelKey, Overlap]
    undeclared: Undeclared
    voxels: int
    absent: tuple[LabelKey, ...] = ()

    def dice(self, overlaps: Mapping[LabelKey, Overlap]) -> dict[LabelKey, float]:
        """Dice of each label or region from its counts; NaN where it is not defined."""
        return {key: math.nan if key in self.absent else overlap.dice for key, overlap in overlaps.items()}


def hold_case(pair: LabelPair, reader: ImageIO, labels: Labels) -> HeldCase:
    """Read a case and keep the part that postprocessing can change.

    Raises:
        SegflowError: A file cannot be read, or the two do not fit together.
    """
    reference, prediction, geometry = read_pair(pair, reader)
    counts = count_pairs(reference, prediction)
    overlaps = {key: counts.overlap(key, labels.ignore_label) for key in labels.foreground_keys}
    undeclared = undeclared_values(counts, labels)
    boxes = boxes_of_labels(prediction)
    tight = box_of(range(1, len(boxes) + 1), [boxes]) or Box((0, 0, 0), (0, 0, 0))
    # One more voxel, so that an object of one slice in a volume is not taken for a 2D image.
    box = Box(tuple(n - 1 for n in tight.start), tuple(n + 1 for n in tight.stop)).clip(prediction.shape)
    parts = [_compress(label_map[box.slices]) for label_map in (prediction, reference)]
    return HeldCase(
        pair.case_id,
        parts[0],
        parts[1],
        geometry.spacing,
        overlaps,
        undeclared,
        math.prod(box.shape),
        labels.absent_keys(pair.case_id),
    )


def try_steps(
    case: HeldCase,
    accepted: Sequence[PostprocessingStep],
    candidates: Sequence[PostprocessingStep],
    ignore_label: int | None,
) -> list[dict[LabelKey, float]]:
    """Dice of each label or region after the accepted steps and each candidate.

    Returns:
        One mapping per candidate, in their order.
    """
    prediction, reference = _expand(case.prediction), _expand(case.reference)
    current = postprocess_label_map(prediction, accepted, case.spacing)
    overlaps = _updated(case.overlaps, reference, prediction, current, ignore_label)
    boxes = boxes_of_labels(current)
    tried = []
    for step in candidates:
        box, part = apply_step(current, step, case.spacing, boxes)
        changed = _updated(overlaps, reference[box.slices], current[box.slices], part, ignore_label)
        tried.append(case.dice(changed))
    return tried


def _updated(
    overlaps: Mapping[LabelKey, Overlap],
    reference: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    ignore_label: int | None,
) -> dict[LabelKey, Overlap]:
    """The counts after ``old`` has become ``new``, computed from the changed voxels only."""
    changed = old != new
    if ignore_label is not None:
        changed &= reference != ignore_label
    reference, old, new = reference[changed], old[changed], new[changed]
    updated = {}
    for key, overlap in overlaps.items():
        members = (key,) if isinstance(key, int) else key
        wanted, was, is_now = (mask_of(values, members) for values in (reference, old, new))
        gained = int(np.count_nonzero(wanted & is_now)) - int(np.count_nonzero(wanted & was))
        wrong = int(np.count_nonzero(~wanted & is_now)) - int(np.count_nonzero(~wanted & was))
        tp, fp = overlap.tp + gained, overlap.fp + wrong
        updated[key] = Overlap(tp, fp, overlap.fn - gained, overlap.tn - wrong)
    return updated


def _compress(label_map: np.ndarray) -> bytes:
    frame: bytes = blosc2.asarray(np.ascontiguousarray(label_map), cparams={"clevel": 1}).to_cframe()
    return frame


def _expand(frame: bytes) -> np.ndarray:
    label_map: np.ndarray = blosc2.ndarray_from_cframe(frame)[:]
    return label_map
