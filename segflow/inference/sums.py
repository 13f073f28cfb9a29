"""Weighted sums of tiles over the planes that tiles may still change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from segflow.inference.planes import READ_BYTES, Planes, Room, planes_at_once
from segflow.inference.tiles import Window, gaussian_importance
from segflow.network.device_copies import sent


class RollingSums:
    """Sums of logits (K, planes, Y, X) over the padded image, and of weights if tiles overlap.

    Tiles are added in the order of their first axis. Before a tile is added that needs planes beyond ``end``, what no
    later tile changes must be handed on (`hand_on`).

    Args:
        window: The tiles.
        outputs: K.
        views: Mirrored views of a tile.
        share: Factor of each view's logits in a tile.
        gaussian: Weight voxels by their distance from the tile's centre.
        device: Where the networks are.
        dtype: Type of the sums, float32 or float16.
        room: Memory that they may take.

    Attributes:
        start: The first plane that was not handed on.
        depth: Planes that are kept.
    """

    def __init__(
        self,
        window: Window,
        outputs: int,
        views: int,
        share: float,
        *,
        gaussian: bool,
        device: torch.device,
        dtype: torch.dtype,
        room: Room,
    ) -> None:
        self.window = window
        self.start = 0
        self._views, self._share = views, share
        self._seen = 0
        self._tile: Planes | None = None
        self._repeated: Planes | None = None
        self._shape = (outputs, *window.patch)
        self._device, self._room = device, room
        self._one = torch.empty(window.patch)
        weights = torch.ones(window.patch)
        if gaussian:
            importance = gaussian_importance(window.patch[1:] if window.flat else window.patch)
            weights = torch.from_numpy(importance).reshape(window.patch)
        # Without overlap the weights cancel, but in float16 they leave rounding errors.
        weighted = window.overlapping or dtype == torch.float16
        self._importance = sent(weights, device) if weighted else None
        plane = math.prod(window.shape[1:]) * dtype.itemsize
        self.depth = planes_at_once(window, plane * (outputs + weighted), device, room.sums)
        shape = (outputs, self.depth, *window.shape[1:])
        self.logits = Planes(shape, dtype, device, room.sums, room.scratch)
        where = self.logits.values.device
        self.weights = Planes((1, *shape[1:]), dtype, where, room.sums, room.scratch) if weighted else None

    @property
    def end(self) -> int:
        """The plane after the last one that there is room for."""
        return self.start + self.depth

    @property
    def release(self) -> Callable[[], None]:
        """Frees the memory of sums that lie in a file."""
        return self.logits.release

    @torch.inference_mode()
    def add(self, start: Sequence[int], logits: Tensor, mirrored: Sequence[int], *, again: bool) -> None:
        """Add one view (K, \\*patch) of the tile at ``start``. The views of a tile are consecutive.

        If memory is lacking, it fails before it has changed anything.

        Args:
            start: First voxel of the tile.
            logits: Of the view. They may be changed.
            mirrored: Axes along which the view is mirrored; 0 is that of the outputs.
            again: The same tile will come again elsewhere, see `repeat`.
        """
        first, last = self._seen == 0, self._seen == self._views - 1
        logits = logits.to(self._device)
        if self._views == 1:
            values = logits.unsqueeze(1) if self.window.flat else logits
            self._add_tile(start, values, again=again)
            return
        if self._tile is None:
            self._tile = self._one_tile()
        tile = self._tile.values
        # On a CPU, a single output stays in the cache between mirroring and adding.
        step = 1 if tile.device.type == "cpu" else len(logits)
        for output in range(0, len(logits), step):
            view = logits[output : output + step]
            view = view.flip(list(mirrored)) if mirrored else view
            target = tile[output : output + step]
            target = target[:, 0] if self.window.flat else target
            target.copy_(view) if first else target.add_(view)
            self._tile.release()
        self._seen = 0 if last else self._seen + 1
        if last:
            self._add_tile(start, tile, again=again)

    def repeat(self, start: Sequence[int]) -> None:
        """Add the last tile that was added with ``again``, at another place."""
        if self._repeated is not None:
            self._add_weighted(start, self._repeated.values.__getitem__, self._repeated.release)

    def hand_on(self, stop: int) -> Iterator[tuple[int, Tensor, bool]]:
        """Divide the sums of the planes before ``stop`` by their weights, and make room for later ones.

        Yields:
            Number of the first plane; logits (K, planes, Y, X) that are overwritten when the next are asked for, unless
            all planes were kept; and whether they are finite.
        """
        for place, part in self.logits.spans(self.start, stop):
            values = self.logits.values[:, place]
            weights = None if self.weights is None else self.weights.values[0, place]
            yield self.start + part.start, values, self._divided(values, weights)
            if stop < self.window.shape[0]:
                for planes in (self.logits, self.weights):
                    if planes is not None:
                        for output in planes.values[:, place]:
                            for few in _few_planes(output):
                                output[few].zero_()
                                planes.release()
        self.start = stop

    def move_to_main_memory(self) -> bool:
        """Move the sums to main memory, so that the network gets the device's. False if they are there already."""
        if self.logits.values.device.type == "cpu":
            return False
        self.logits.move_to_main_memory()
        if self.weights is not None:
            self.weights.move_to_main_memory()
        return True

    def _one_tile(self) -> Planes:
        return Planes(self._shape, torch.float32, self._device, self._room.sums, self._room.scratch)

    def _add_tile(self, start: Sequence[int], tile: Tensor, *, again: bool) -> None:
        if again and self._repeated is None:
            self._repeated = self._one_tile()

        def weighted(which: int | slice) -> Tensor:
            # On a CPU, the outputs of a voxel lie side by side: one copy in order is quicker than several looks.
            values = tile[which].float() if isinstance(which, slice) else self._one.copy_(tile[which])
            if self._share != 1:
                values.mul_(self._share)
            if self._importance is not None:
                values.mul_(self._importance)
            if again and self._repeated is not None:
                self._repeated.values[which].copy_(values)
            return values

        def release() -> None:
            for planes in (self._tile, self._repeated):
                if planes is not None:
                    planes.release()

        self._add_weighted(start, weighted, release)

    def _add_weighted(
        self, start: Sequence[int], weighted: Callable[[int | slice], Tensor], release: Callable[[], None]
    ) -> None:
        """Add a tile whose outputs ``weighted`` gives one by one, or all at once on a device."""
        sums = self.logits.values
        together = None if self._device.type == "cpu" else weighted(slice(None)).to(sums.device)
        for output, channel in enumerate(sums):
            values = weighted(output) if together is None else together[output]
            for target, part in self._targets(self.logits, channel, start):
                source = values[part]
                # Torch is slow with mixed types. Converting, adding and converting back is faster and rounds alike.
                target.copy_(target.to(source.dtype).add_(source)) if target.dtype != source.dtype else target.add_(
                    source
                )
            self.logits.release()
            release()
        if self.weights is not None and self._importance is not None:
            for target, part in self._targets(self.weights, self.weights.values[0], start):
                target.add_(self._importance[part].to(target.device))
            self.weights.release()

    def _targets(self, planes: Planes, values: Tensor, start: Sequence[int]) -> Iterator[tuple[Tensor, slice]]:
        y, x = (slice(s, s + p) for s, p in zip(start[1:], self.window.patch[1:], strict=True))
        for place, part in planes.spans(start[0], start[0] + self.window.patch[0]):
            yield values[place, y, x], part

    def _divided(self, values: Tensor, weights: Tensor | None) -> bool:
        """Divide the sums in place. Returns whether all are finite."""
        if values.device.type != "cpu":
            if weights is not None:
                values.div_(weights)
            return bool(torch.isfinite(values.flatten(1).sum(1, dtype=torch.float32)).all())
        finite = True
        for output in values:
            for few in _few_planes(output):
                if weights is not None:
                    output[few].div_(weights[few])
                finite &= bool(torch.isfinite(output[few].sum(dtype=torch.float32)))
                self.logits.release()
                if self.weights is not None:
                    self.weights.release()
        return finite


def _few_planes(planes: Tensor) -> Iterator[slice]:
    """Places of planes (Z, Y, X), few at a time, since sums in a file should not be in memory as a whole."""
    step = max(1, READ_BYTES // (planes[0].numel() * planes.element_size()))
    for start in range(0, len(planes), step):
        yield slice(start, start + step)
