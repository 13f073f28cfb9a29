"""From plan space back to image space: resample, decide, paste, transpose (recipe 11.5). Undoes `preprocess_case`.

Nothing here holds all classes at full size: label maps are decided slab by slab while the classes pass by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.plans import ConfigurationPlan
from segflow.core.preprocessed import SpatialRecord
from segflow.preprocessing.device_slabs import DeviceSlabResampler
from segflow.preprocessing.resampling import interpolation_of
from segflow.preprocessing.slabs import Range, SlabResampler

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
    if logits.device.type != "cpu":
        on_device = DeviceSlabResampler(logits, inside.shape[1:], interpolation)
        for slab in on_device.slabs(channels_at_once=len(logits)):
            values = torch.stack([on_device.channel(k, slab) for k in range(len(logits))])
            probabilities = torch.sigmoid(values) if labels.has_regions else torch.softmax(values, 0)
            inside[:, slice(*slab)] = probabilities.cpu().numpy()
        return result
    resampler = SlabResampler(_as_array(logits), inside.shape[1:], interpolation)

    def fill(slab: Range) -> None:
        target = inside[:, slice(*slab)]
        for channel in range(len(logits)):
            for plane, values in zip(target[channel], resampler.channel(channel, slab), strict=True):
                plane[...] = values
        for number in range(target.shape[1]):
            _to_probabilities(target[:, number], labels)

    _for_each_slab(fill, resampler.slabs())
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
    values = np.array(labels.regions_class_order if labels.has_regions else labels.all_labels, target.dtype)
    if logits.device.type != "cpu":
        on_device = DeviceSlabResampler(logits, target.shape, interpolation)
        decide_there = _paint_on_device if labels.has_regions else _largest_on_device
        for slab in on_device.slabs():
            target[slice(*slab)] = decide_there(on_device, slab, values)
        return
    resampler = SlabResampler(_as_array(logits), target.shape, interpolation)
    decide = _paint if labels.has_regions else _largest
    _for_each_slab(lambda slab: decide(resampler, slab, values, target[slice(*slab)]), resampler.slabs())


def _largest(resampler: SlabResampler, slab: Range, labels: np.ndarray, target: np.ndarray) -> None:
    """The label of the largest logit; of equal ones the first, as argmax has it."""
    best = np.full(target.shape, -np.inf, np.float32)
    winner = np.zeros(target.shape, np.uint8 if len(labels) <= 256 else np.uint16)
    for channel in range(len(labels)):
        for values, best_here, winner_here in zip(resampler.channel(channel, slab), best, winner, strict=True):
            better = np.greater(values, best_here)
            np.maximum(values, best_here, out=best_here)
            # Channels come in ascending order, so the one that wins now is the largest number so far.
            np.maximum(winner_here, better * winner.dtype.type(channel), out=winner_here)
    target[...] = labels[winner]


def _paint(resampler: SlabResampler, slab: Range, labels: np.ndarray, target: np.ndarray) -> None:
    """Each region that is more likely than not, painted one over the other in order (recipe 1.2)."""
    painted = np.zeros(target.shape, target.dtype)
    for channel, label in enumerate(labels):
        for values, painted_here in zip(resampler.channel(channel, slab), painted, strict=True):
            painted_here[values > 0] = label  # a sigmoid above one half
    target[...] = painted


def _largest_on_device(resampler: DeviceSlabResampler, slab: Range, labels: np.ndarray) -> np.ndarray:
    best = resampler.channel(0, slab)
    winner = torch.zeros(best.shape, dtype=torch.uint8 if len(labels) <= 256 else torch.int16, device=best.device)
    for channel in range(1, len(labels)):
        values = resampler.channel(channel, slab)
        winner.masked_fill_(values > best, channel)
        best = torch.maximum(best, values)
    return labels[winner.cpu().numpy()]


def _paint_on_device(resampler: DeviceSlabResampler, slab: Range, labels: np.ndarray) -> np.ndarray:
    painted = None
    for channel, label in enumerate(labels):
        is_more_likely = resampler.channel(channel, slab) > 0
        if painted is None:
            painted = torch.zeros(is_more_likely.shape, dtype=torch.int32, device=is_more_likely.device)
        painted.masked_fill_(is_more_likely, int(label))
    return np.zeros(0, labels.dtype) if painted is None else painted.cpu().numpy().astype(labels.dtype)


def _to_probabilities(values: np.ndarray, labels: Labels) -> None:
    """Softmax over channels, or sigmoids where there are regions; in place. float32 (K, Y, X)."""
    if labels.has_regions:
        with np.errstate(over="ignore"):  # a very negative logit: its probability is 0
            np.exp(-values, out=values)
        values += 1
        np.reciprocal(values, out=values)
        return
    values -= values.max(axis=0)
    np.exp(values, out=values)
    values /= values.sum(axis=0)


def _as_array(logits: torch.Tensor) -> np.ndarray:
    return (logits if logits.dtype in (torch.float16, torch.float32) else logits.float()).detach().numpy()


def _for_each_slab(function: Callable[[Range], None], slabs: Sequence[Range]) -> None:
    """On as many threads as torch may use: numpy lets them run together."""
    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(slabs)))) as pool:
        for _ in pool.map(function, slabs):
            pass  # an exception of a thread is raised here


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
