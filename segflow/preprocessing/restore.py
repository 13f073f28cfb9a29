"""From plan space back to image space: resample, decide, paste, transpose (recipe 11.5). Undoes `preprocess_case`.

No function holds all outputs at full size. Label maps are decided slab by slab, one output after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.network.device_memory import give_back, is_out_of_memory
from segflow.preprocessing.device_slabs import DeviceSlabResampler
from segflow.preprocessing.resampling import Interpolation, interpolation_of
from segflow.preprocessing.slabs import Range, SlabResampler

logger = logging.getLogger(__name__)


def restore_labels(logits: torch.Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels) -> np.ndarray:
    """The label map of logits, in image space.

    Args:
        logits: float (K, Z, Y, X) in plan space, on any device; K as `Labels.num_outputs`.
        spatial: How the case came to plan space.
        plan: The configuration, for the resampling of probabilities.
        labels: The label definition.

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
    """The label map of logits on another grid in plan axes, such as that of a cascade's next stage.

    Args:
        logits: float (K, Z, Y, X) in plan space.
        new_shape: Voxels of the grid along z, y, x.
        spacing, new_spacing: mm of both grids; they decide whether an axis is treated separately.
        plan: The configuration that the logits come from.
        labels: The label definition.

    Returns:
        uint8 or uint16 (\\*new_shape).
    """
    result = np.zeros(tuple(new_shape), _label_type(labels))
    _decide(logits, spacing, new_spacing, plan, labels, result)
    return result


def restore_probabilities(
    logits: torch.Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels
) -> Iterator[np.ndarray]:
    """The probabilities of logits in image space, one output after another, computed in main memory.

    A softmax needs all outputs at once. Here the logarithm of its denominator is computed first, so that memory holds
    only a few volumes of the image's size, for any number of outputs.

    Args:
        logits, spatial, plan, labels: As in `restore_labels`.

    Returns:
        K times float32 (Z, Y, X) in original axes. Outside the crop box the probability of background is 1; with
        regions all probabilities are 0 there (recipe 11.5).

    Raises:
        SegflowError: The logits do not fit the record or the labels.
    """
    _check(logits, spatial, labels)
    return _each_probability(logits, spatial, plan, labels)


def _each_probability(
    logits: torch.Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels
) -> Iterator[np.ndarray]:
    shape = spatial.shape_cropped
    interpolation = interpolation_of(plan.resampling_probabilities, spatial.spacing_plan, spatial.spacing_transposed)
    softmax = _Softmax(SlabResampler(_as_array(logits), shape, interpolation))
    if not labels.has_regions:
        softmax.normalise(np.empty(shape, np.float32), len(logits))
    for output in range(len(logits)):
        result = np.zeros(spatial.shape_original, np.float32)
        if output == 0 and not labels.has_regions:
            result[...] = 1
        softmax.fill(output, result.transpose(spatial.axis_order)[spatial.crop.slices])
        yield result


class _Softmax:
    """Probabilities of resampled logits; sigmoids until `normalise` is called."""

    def __init__(self, resampler: SlabResampler) -> None:
        self._resampler = resampler
        self._denominator: np.ndarray | None = None

    def normalise(self, denominator: np.ndarray, outputs: int) -> None:
        """Write the logarithm of the softmax's denominator into a float32 (Z, Y, X)."""

        def add_up(slab: Range) -> None:
            target = denominator[slice(*slab)]
            highest = np.full(target.shape, -np.inf, np.float32)
            total = np.zeros(target.shape, np.float32)
            for output in range(outputs):
                for values, top, total_here in zip(self._resampler.channel(output, slab), highest, total, strict=True):
                    higher = np.maximum(top, values)
                    total_here *= np.exp(top - higher)  # relative to the highest so far, so that nothing overflows
                    total_here += np.exp(values - higher)
                    top[...] = higher
            np.log(total, out=target)
            target += highest

        _for_each_slab(add_up, self._resampler.slabs())
        self._denominator = denominator

    def fill(self, output: int, target: np.ndarray) -> None:
        """Write one output's probabilities into a float32 (Z, Y, X)."""

        def fill_slab(slab: Range) -> None:
            for number, values in zip(range(*slab), self._resampler.channel(output, slab), strict=True):
                if self._denominator is None:
                    with np.errstate(over="ignore"):  # the probability of a very negative logit is 0
                        target[number] = np.reciprocal(np.exp(-values) + 1)
                else:
                    target[number] = np.exp(values - self._denominator[number])

        _for_each_slab(fill_slab, self._resampler.slabs())


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
    if logits.device.type != "cpu" and _decide_on_device(logits, interpolation, labels.has_regions, values, target):
        return
    resampler = SlabResampler(_as_array(logits), target.shape, interpolation)
    decide = _paint if labels.has_regions else _largest
    _for_each_slab(lambda slab: decide(resampler, slab, values, target[slice(*slab)]), resampler.slabs())


def _decide_on_device(
    logits: torch.Tensor, interpolation: Interpolation | None, regions: bool, values: np.ndarray, target: np.ndarray
) -> bool:
    """Like `_decide`, computed where the logits are. False if its memory does not suffice."""
    decide = _paint_on_device if regions else _largest_on_device
    try:
        resampler = DeviceSlabResampler(logits, target.shape, interpolation)
        for slab in resampler.slabs():
            target[slice(*slab)] = decide(resampler, slab, values)
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("out of memory on %s; the label map is decided in main memory, more slowly", logits.device)
    give_back(logits.device)  # here, where the error no longer holds what was computed
    return False


def _largest(resampler: SlabResampler, slab: Range, labels: np.ndarray, target: np.ndarray) -> None:
    """Write the label of the largest logit; the first among equal ones, as argmax does."""
    best = np.full(target.shape, -np.inf, np.float32)
    winner = np.zeros(target.shape, np.uint8 if len(labels) <= 256 else np.uint16)
    for channel in range(len(labels)):
        for values, best_here, winner_here in zip(resampler.channel(channel, slab), best, winner, strict=True):
            better = np.greater(values, best_here)
            np.maximum(values, best_here, out=best_here)
            # Channels come in ascending order, so the channel that wins now has the largest number so far.
            np.maximum(winner_here, better * winner.dtype.type(channel), out=winner_here)
    target[...] = labels[winner]


def _paint(resampler: SlabResampler, slab: Range, labels: np.ndarray, target: np.ndarray) -> None:
    """Paint each region with a probability above 0.5, in order, one over the other (recipe 1.2)."""
    painted = np.zeros(target.shape, target.dtype)
    for channel, label in enumerate(labels):
        for values, painted_here in zip(resampler.channel(channel, slab), painted, strict=True):
            painted_here[values > 0] = label  # a sigmoid above 0.5
    target[...] = painted


def _largest_on_device(resampler: DeviceSlabResampler, slab: Range, labels: np.ndarray) -> np.ndarray:
    best = resampler.channel(0, slab)
    winner = torch.zeros(best.shape, dtype=torch.uint8 if len(labels) <= 256 else torch.int16, device=best.device)
    for channel in range(1, len(labels)):
        values = resampler.channel(channel, slab)
        winner.masked_fill_(values > best, channel)
        best = torch.maximum(best, values)
    label_map: np.ndarray = labels[winner.cpu().numpy()]
    return label_map


def _paint_on_device(resampler: DeviceSlabResampler, slab: Range, labels: np.ndarray) -> np.ndarray:
    painted = None
    for channel, label in enumerate(labels):
        is_more_likely = resampler.channel(channel, slab) > 0
        if painted is None:
            painted = torch.zeros(is_more_likely.shape, dtype=torch.int32, device=is_more_likely.device)
        painted.masked_fill_(is_more_likely, int(label))
    return np.zeros(0, labels.dtype) if painted is None else painted.cpu().numpy().astype(labels.dtype)


def _as_array(logits: torch.Tensor) -> np.ndarray:
    return (logits if logits.dtype in (torch.float16, torch.float32) else logits.float()).detach().cpu().numpy()


def _for_each_slab(function: Callable[[Range], None], slabs: Sequence[Range]) -> None:
    """Call a function for each slab, on as many threads as torch may use. numpy lets them run in parallel."""
    with ThreadPoolExecutor(max(1, min(torch.get_num_threads(), len(slabs)))) as pool:
        for _ in pool.map(function, slabs):
            pass  # raises the exception of a thread


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
