"""From plan space back to image space: resample, decide, paste, transpose (recipe 11.5). Undoes `preprocess_case`.

No function holds all outputs at full size. Label maps are decided slab by slab, one output after another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.execution.threads import for_each
from segflow.network.device_memory import give_back, is_out_of_memory
from segflow.preprocessing.device_slabs import DeviceSlabResampler
from segflow.preprocessing.resampling import Interpolation, interpolation_of
from segflow.preprocessing.slabs import Progression, Range, SlabResampler, axis_orders

logger = logging.getLogger(__name__)

_PLACED_VOXELS = 2**24
"""Most voxels outside the crop box that are written at once."""

WRONG_SHAPE = "the prediction has another shape than the preprocessed case"


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
    result = np.zeros(spatial.shape_original, label_type(labels))
    inside = result.transpose(spatial.axis_order)[spatial.crop.slices]
    _whole(Restorer.to_image(spatial, plan, labels), logits).decide(inside)
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
    return _each_probability(_whole(Restorer.to_image(spatial, plan, labels), logits), spatial, labels)


def _each_probability(part: RestoredPart, spatial: SpatialRecord, labels: Labels) -> Iterator[np.ndarray]:
    for output in range(labels.num_outputs):
        result = np.full(spatial.shape_original, outside_probability(output, labels), np.float32)
        part.probability(output, result.transpose(spatial.axis_order)[spatial.crop.slices])
        yield result


def outside_probability(output: int, labels: Labels) -> int:
    """The probability of an output outside the crop box, 0 or 1."""
    return int(output == 0 and not labels.has_regions)


def _whole(restorer: Restorer, logits: torch.Tensor) -> RestoredPart:
    """All of an image's logits at once."""
    part = restorer.take(0, logits)
    if part is None or not restorer.finished:
        raise SegflowError(WRONG_SHAPE, found=tuple(logits.shape[1:]), expected=restorer.shape)
    return part


class Restorer:
    """Brings logits to another grid, slab by slab as they come along the first axis.

    Args:
        shape: Voxels of the logits along z, y, x.
        new_shape: Voxels of the grid.
        interpolation: See `SlabResampler`.
        labels: The label definition.

    Attributes:
        shape: Voxels of the logits along z, y, x.

    Raises:
        SegflowError: As for `SlabResampler`.
    """

    def __init__(
        self, shape: Sequence[int], new_shape: Sequence[int], interpolation: Interpolation | None, labels: Labels
    ) -> None:
        self.shape = tuple(shape)
        self._new_shape = tuple(new_shape)
        self._interpolation = interpolation
        self._labels = labels
        order = axis_orders(self.shape, self._new_shape, interpolation)[0]
        self._progression = Progression(self.shape[0], self._new_shape[0], order)
        self._kept: list[tuple[int, torch.Tensor]] = []

    @classmethod
    def to_image(cls, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels) -> Restorer:
        """To the crop box of a case's image, before the transposition back to the original axes."""
        spacings = (spatial.spacing_plan, spatial.spacing_transposed)
        interpolation = interpolation_of(plan.resampling_probabilities, *spacings)
        return cls(spatial.shape_plan, spatial.shape_cropped, interpolation, labels)

    @property
    def finished(self) -> bool:
        """Whether all of the grid was computed."""
        return self._progression.done == self._new_shape[0]

    def take(self, start: int, logits: torch.Tensor, release: Callable[[], None] = lambda: None) -> RestoredPart | None:
        """Take the next planes.

        Args:
            start: The first plane, which follows on the last one of the call before.
            logits: float (K, planes, Y, X), on any device. They are needed until the next call, and a few planes are
                copied for it.
            release: Is called when memory of the logits may be freed for a while, see `ScratchArray.release`.

        Returns:
            The part of the grid that can be computed now; None if more planes are needed.

        Raises:
            SegflowError: The logits do not fit the grid or the labels.
        """
        _check(logits, self.shape, start, self._labels)
        pieces = [*self._kept, (start, logits)]
        stop = start + logits.shape[1]
        rows, needed = self._progression.take(stop)
        part = None
        if rows[0] < rows[1]:
            part = RestoredPart(rows, pieces, self.shape[0], self._new_shape, self._interpolation, self._labels)
            part.release = release
        rest = [(max(at, needed), planes[:, max(needed - at, 0) :]) for at, planes in pieces]
        self._kept = [(at, planes.clone()) for at, planes in rest if planes.shape[1]]
        return part


class RestoredPart:
    """Slices of the new grid that can be computed.

    Args:
        rows: The slices along the first axis.
        pieces, planes, new_shape, interpolation: See `SlabResampler`; the pieces are tensors (K, planes, Y, X) on any
            device.
        labels: The label definition.

    Attributes:
        rows: The slices along the first axis.
        shape: Their number, and voxels along y, x.
    """

    def __init__(
        self,
        rows: Range,
        pieces: Sequence[tuple[int, torch.Tensor]],
        planes: int,
        new_shape: Sequence[int],
        interpolation: Interpolation | None,
        labels: Labels,
    ) -> None:
        self.rows = rows
        self.shape = (rows[1] - rows[0], *new_shape[1:])
        self.release: Callable[[], None] = lambda: None
        self._pieces = pieces
        self._grid = (planes, new_shape, interpolation)
        self._labels = labels
        self._softmax: _Softmax | None = None

    def decide(self, target: np.ndarray | None = None) -> np.ndarray:
        """The labels, uint8 or uint16 (slices, Y, X) of `shape`; written into ``target`` if that is given."""
        labels = self._labels
        target = np.zeros(self.shape, label_type(labels)) if target is None else target
        values = np.array(labels.regions_class_order if labels.has_regions else labels.all_labels, target.dtype)
        if self._pieces[-1][1].device.type != "cpu" and self._decide_on_device(values, target):
            return target
        resampler = self._resampler()
        decide = _paint if labels.has_regions else _largest

        def decide_slab(slab: Range) -> None:
            decide(resampler, slab, values, target[slab[0] - self.rows[0] : slab[1] - self.rows[0]])
            self.release()

        for_each(decide_slab, resampler.slabs(self.rows), torch.get_num_threads())
        return target

    def probability(self, output: int, target: np.ndarray | None = None) -> np.ndarray:
        """The probabilities of one output, float32 (slices, Y, X); written into ``target`` if that is given."""
        target = np.empty(self.shape, np.float32) if target is None else target
        if self._softmax is None:
            self._softmax = _Softmax(self._resampler(), self.rows, self.release)
            if not self._labels.has_regions:
                self._softmax.normalise(np.empty(self.shape, np.float32), self._labels.num_outputs)
        self._softmax.fill(output, target)
        return target

    def _resampler(self) -> SlabResampler:
        return SlabResampler([(at, _as_array(logits)) for at, logits in self._pieces], *self._grid)

    def _decide_on_device(self, values: np.ndarray, target: np.ndarray) -> bool:
        """Like `decide`, computed where the logits are. False if its memory does not suffice."""
        decide = _paint_on_device if self._labels.has_regions else _largest_on_device
        device = self._pieces[-1][1].device
        try:
            resampler = DeviceSlabResampler([(at, planes.to(device)) for at, planes in self._pieces], *self._grid)
            for slab in resampler.slabs(self.rows):
                target[slab[0] - self.rows[0] : slab[1] - self.rows[0]] = decide(resampler, slab, values)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("out of memory on %s; the label map is decided in main memory, more slowly", device)
        give_back(device)  # here, where the error no longer holds what was computed
        return False


def placed_in_image(
    values: np.ndarray, rows: Range, spatial: SpatialRecord, outside: float = 0
) -> Iterator[tuple[Box, np.ndarray]]:
    """Slices of the crop box as whole planes of the image along the first plan axis.

    The first slices bring what lies before the crop box, and the last ones what lies behind it, so that all slices
    together fill the image, in order.

    Args:
        values: (slices, Y, X) in plan axes.
        rows: Their numbers along the first plan axis, from the crop box's first.
        spatial: How the case came to plan space.
        outside: Value of voxels outside the crop box.

    Yields:
        A box in image space, and its values, both in the image's original axes.
    """
    crop, (depth, *plane) = spatial.crop, spatial.shape_transposed
    back = np.argsort(spatial.axis_order)

    def box(start: int, stop: int) -> Box:
        corners = ((start, 0, 0), (stop, *plane))
        low, high = (tuple(int(corner[axis]) for axis in back) for corner in corners)
        return Box(low, high)

    def empty(start: int, stop: int) -> Iterator[tuple[Box, np.ndarray]]:
        step = max(1, _PLACED_VOXELS // (plane[0] * plane[1]))
        for first in range(start, stop, step):
            last = min(first + step, stop)
            yield box(first, last), np.full((last - first, *plane), outside, values.dtype).transpose(back)

    begin = crop.start[0]
    if rows[0] == 0:
        yield from empty(0, begin)
    whole = values
    if tuple(values.shape[1:]) != tuple(plane):
        whole = np.full((len(values), *plane), outside, values.dtype)
        whole[(slice(None), *crop.slices[1:])] = values
    yield box(begin + rows[0], begin + rows[1]), whole.transpose(back)
    if rows[1] == crop.shape[0]:
        yield from empty(crop.stop[0], depth)


class _Softmax:
    """Probabilities of resampled logits; sigmoids until `normalise` is called."""

    def __init__(self, resampler: SlabResampler, rows: Range, release: Callable[[], None]) -> None:
        self._resampler = resampler
        self._rows = rows
        self._release = release
        self._denominator: np.ndarray | None = None

    def normalise(self, denominator: np.ndarray, outputs: int) -> None:
        """Write the logarithm of the softmax's denominator into a float32 (Z, Y, X)."""

        def add_up(slab: Range) -> None:
            target = denominator[slab[0] - self._rows[0] : slab[1] - self._rows[0]]
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
            self._release()

        for_each(add_up, self._resampler.slabs(self._rows), torch.get_num_threads())
        self._denominator = denominator

    def fill(self, output: int, target: np.ndarray) -> None:
        """Write one output's probabilities into a float32 (Z, Y, X)."""

        def fill_slab(slab: Range) -> None:
            begin = slab[0] - self._rows[0]
            for number, values in enumerate(self._resampler.channel(output, slab), begin):
                if self._denominator is None:
                    with np.errstate(over="ignore"):  # the probability of a very negative logit is 0
                        target[number] = np.reciprocal(np.exp(-values) + 1)
                else:
                    target[number] = np.exp(values - self._denominator[number])
            self._release()

        for_each(fill_slab, self._resampler.slabs(self._rows), torch.get_num_threads())


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


def written_type(labels: Labels) -> type[np.unsignedinteger]:
    """The type that holds all values of predicted label maps."""
    return np.uint8 if labels.highest_written < 256 else np.uint16


def label_type(labels: Labels) -> type[np.unsignedinteger]:
    """The type of classes that are decided here."""
    highest = max(*labels.all_labels, *(labels.regions_class_order or (0,)))
    return np.uint8 if highest < 256 else np.uint16


def _check(logits: torch.Tensor, shape: Sequence[int], start: int, labels: Labels) -> None:
    if len(logits) != labels.num_outputs:
        raise SegflowError(
            "the prediction has another number of channels than the labels",
            found=len(logits),
            expected=labels.num_outputs,
        )
    found = tuple(logits.shape[1:])
    if found[1:] != tuple(shape[1:]) or start + found[0] > shape[0]:
        raise SegflowError(WRONG_SHAPE, found=found, expected=tuple(shape))
