"""From plan space back to image space: resample, decide, paste, transpose (recipe 11.5). Undoes `preprocess_case`.

Nothing here holds all classes at full size: label maps are decided slab by slab while the classes pass by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.plans import ConfigurationPlan
from segflow.core.preprocessed import SpatialRecord
from segflow.preprocessing.resampling import interpolation_of
from segflow.preprocessing.slabs import Slab, SlabResampler

_THRESHOLD = 0.5


def restore_labels(logits: torch.Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels) -> np.ndarray:
    """The label map that logits mean, in image space.

    Args:
        logits: float (K, Z, Y, X) in plan space, on any device; K as `Labels.num_outputs`.
        spatial: The case's way to plan space.
        plan: The configuration; says how probabilities are resampled.
        labels: What the channels mean.

    Returns:
        uint8 or uint16 (Z, Y, X) in original axes; 0 outside the crop box.

    Raises:
        SegflowError: The logits do not fit the record or the labels.
    """
    _check(logits, spatial, labels)
    result = np.zeros(spatial.shape_original, _label_type(labels))
    inside = result.transpose(spatial.axis_order)[spatial.crop.slices]
    _decide(logits, spatial.spacing_plan, spatial.spacing_transposed, plan, labels, inside)
    return result


def labels_on_grid(
    logits: torch.Tensor,
    new_shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    plan: ConfigurationPlan,
    labels: Labels,
) -> np.ndarray:
    """The label map that logits mean on another grid in plan axes, such as the next stage's of a cascade.

    Args:
        logits: float (K, Z, Y, X) in plan space.
        new_shape: Voxels wanted along z, y, x.
        spacing, new_spacing: mm of both grids; they decide whether an axis is treated separately.
        plan: The configuration that the logits come from.
        labels: What the channels mean.

    Returns:
        uint8 or uint16 (\\*new_shape).
    """
    result = np.zeros(tuple(new_shape), _label_type(labels))
    _decide(logits, spacing, new_spacing, plan, labels, result)
    return result


def restore_probabilities(
    logits: torch.Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels
) -> np.ndarray:
    """The probabilities that logits mean, in image space.

    Args:
        logits, spatial, plan, labels: As for `restore_labels`.

    Returns:
        float32 (K, Z, Y, X) in original axes. Outside the crop box background is certain (recipe 11.5): its channel is
        1 there, and where there are regions all channels are 0.
    """
    _check(logits, spatial, labels)
    result = np.zeros((len(logits), *spatial.shape_original), np.float32)
    if not labels.has_regions:
        result[0] = 1
    inside = result.transpose(0, *(axis + 1 for axis in spatial.axis_order))[(slice(None), *spatial.crop.slices)]
    interpolation = interpolation_of(plan.resampling_probabilities, spatial.spacing_plan, spatial.spacing_transposed)
    resampler = SlabResampler(logits, inside.shape[1:], interpolation)
    for slab in resampler.slabs(channels_at_once=len(logits)):
        for number, (start, stop) in enumerate(slab.chunks):
            part = Slab(start, stop, (slab.chunks[number],))
            values = torch.stack([next(resampler.channel(k, part)) for k in range(len(logits))])
            probabilities = torch.sigmoid(values) if labels.has_regions else torch.softmax(values, 0)
            inside[:, start:stop] = probabilities.cpu().numpy()
    return result


def labels_from_probabilities(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """The label map that probabilities mean: the largest, or every region above one half in the order of painting.

    Args:
        probabilities: float (K, Z, Y, X).
        labels: What the channels mean.

    Returns:
        uint8 or uint16 (Z, Y, X).
    """
    _check_channels(len(probabilities), labels)
    result = np.zeros(probabilities.shape[1:], _label_type(labels))
    if labels.has_regions:
        for probability, value in zip(probabilities, labels.regions_class_order or (), strict=True):
            result[probability > _THRESHOLD] = value
        return result
    values = np.array(labels.all_labels, result.dtype)
    for index, target in enumerate(result):
        target[...] = values[probabilities[:, index].argmax(0)]
    return result


def _decide(
    logits: torch.Tensor,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    plan: ConfigurationPlan,
    labels: Labels,
    target: np.ndarray,
) -> None:
    """Write the label map of the resampled logits into ``target`` (Z', Y', X')."""
    _check_channels(len(logits), labels)
    interpolation = interpolation_of(plan.resampling_probabilities, spacing, new_spacing)
    resampler = SlabResampler(logits, target.shape, interpolation)
    decide = _paint_regions if labels.has_regions else _largest
    for slab in resampler.slabs():
        target[slab.start : slab.stop] = decide(resampler, slab, target.shape[1:], logits, labels)


def _largest(
    resampler: SlabResampler, slab: Slab, plane: Sequence[int], logits: torch.Tensor, labels: Labels
) -> np.ndarray:
    """The label of the largest logit; of equal ones the first, as argmax has it."""
    shape = (slab.stop - slab.start, *plane)
    kind = torch.uint8 if len(logits) <= 256 else torch.int16
    best = torch.empty(shape, dtype=torch.float32, device=logits.device)
    winner = torch.zeros(shape, dtype=kind, device=logits.device)
    for channel in range(len(logits)):
        for (start, stop), values in zip(slab.chunks, resampler.channel(channel, slab), strict=True):
            rows = slice(start - slab.start, stop - slab.start)
            if channel == 0:
                best[rows] = values
                continue
            better = values > best[rows]
            torch.maximum(best[rows], values, out=best[rows])
            # Channels come in ascending order, so the one that wins now is the largest number so far.
            torch.maximum(winner[rows], better.to(kind).mul_(channel), out=winner[rows])
    indices = winner.cpu().numpy()
    if labels.all_labels == tuple(range(len(logits))):
        return indices
    return np.array(labels.all_labels, _label_type(labels))[indices]


def _paint_regions(
    resampler: SlabResampler, slab: Slab, plane: Sequence[int], logits: torch.Tensor, labels: Labels
) -> np.ndarray:
    """Each region that is more likely than not, painted one over the other in order (recipe 1.2)."""
    painted = torch.zeros((slab.stop - slab.start, *plane), dtype=torch.int32, device=logits.device)
    for channel, value in enumerate(labels.regions_class_order or ()):
        for (start, stop), values in zip(slab.chunks, resampler.channel(channel, slab), strict=True):
            rows = slice(start - slab.start, stop - slab.start)
            painted[rows].masked_fill_(values > 0, value)  # a sigmoid above one half
    return painted.cpu().numpy()


def _label_type(labels: Labels) -> type[np.unsignedinteger]:
    highest = max(*labels.all_labels, *(labels.regions_class_order or (0,)))
    return np.uint8 if highest < 256 else np.uint16


def _check(logits: torch.Tensor, spatial: SpatialRecord, labels: Labels) -> None:
    _check_channels(len(logits), labels)
    if tuple(logits.shape[1:]) != tuple(spatial.shape_plan):
        raise SegflowError(
            "the prediction has another shape than the preprocessed case",
            found=tuple(logits.shape[1:]),
            expected=tuple(spatial.shape_plan),
        )


def _check_channels(channels: int, labels: Labels) -> None:
    if channels != labels.num_outputs:
        raise SegflowError(
            "the prediction has another number of channels than the labels", found=channels, expected=labels.num_outputs
        )
