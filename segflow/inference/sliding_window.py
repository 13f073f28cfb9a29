"""Prediction of images larger than the patch: the weighted mean over tiles and mirrored views (recipe 11.4)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.voxels import ArraySource, VoxelSource
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.inference.planes import ImagePlanes, Room
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.sums import RollingSums
from segflow.inference.tiles import Window, constant_of, mirrored_views
from segflow.network.cpu.passes import in_order, passes_that_fit, shared
from segflow.network.device_memory import free_bytes, give_back, is_out_of_memory
from segflow.network.levels import logits_of_levels
from segflow.network.precision import (
    AUTOCAST,
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    autocast,
    choose_precision,
    has_precision,
)

logger = logging.getLogger(__name__)

CPU_VOXELS_PER_PASS = 3 * 2**16
"""Voxels of a forward pass on one thread of a CPU, half as many as on several. More gain nothing; fewer pay the fixed
cost of layers too often."""

CPU_VOXELS_PER_BATCH = 2**22
"""Voxels of a batch on a CPU for each thread, so that none is idle for long at the end of a batch."""

GPU_BYTES_PER_VOXEL = 2048
"""Bytes per voxel for the activations of 32 features at the finest level in float16, with concatenation and logits."""

GPU_SHARE_OF_FREE_MEMORY = 0.4
"""Share of the free memory for the activations. The sums need the rest."""

LARGEST_BATCH = 64


class NotFiniteError(SegflowError):
    """The logits of an image are NaN or infinite."""


@dataclass(frozen=True, slots=True)
class LogitSlab:
    """Logits of consecutive planes that no later tile changes.

    Attributes:
        start: The first plane, in plan space.
        logits: (K, planes, Y, X): the mean of all networks. Unless the slab is the whole image, it is overwritten when
            the next one is asked for.
        of_networks: The same of each network, where they were asked for.
        release: Frees memory that was taken to look at the logits, see `ScratchArray.release`.
    """

    start: int
    logits: Tensor
    of_networks: tuple[Tensor, ...] = ()
    release: Callable[[], None] = lambda: None


def logit_slabs(
    networks: Sequence[nn.Module],
    source: VoxelSource,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int],
    settings: SlidingWindowSettings | None = None,
    *,
    room: Room | None = None,
    of_networks: bool = False,
    progress: Progress = silent,
) -> Iterator[LogitSlab]:
    """The mean logits of one or several networks over a whole image, slab by slab along the first axis.

    Logits, not probabilities, are averaged over views, tiles and networks, as nnU-Net does. The sums lie on the
    networks' device, or in main memory if that is too small. If memory runs out, the batch is halved and prediction
    continues with the next tile. An image whose sums fit into its room comes as one slab.

    Args:
        networks: One per fold, in evaluation mode, on one device. Each maps (B, C, *patch) to (B, K, *patch), or to a
            list of logits, finest first.
        source: The image (C, Z, Y, X) in plan space.
        patch_size: Voxels of the patch, (z, y, x), or (y, x) for networks that see one slice at a time.
        mirror_axes: Axes of the patch (0 is its first) along which views may be mirrored.
        settings: See `SlidingWindowSettings`.
        room: Memory for the image and the sums; None takes the usual shares.
        of_networks: Also give each network's logits. They are then averaged as those of separate predictions.
        progress: Called after each batch with the number of finished tiles.

    Yields:
        Slabs in order, float32 or float16, the type of the sums.

    Raises:
        SegflowError: The image is empty, the device lacks the precision, or memory does not suffice for one tile.
        NotFiniteError: The logits are not finite.
    """
    settings = SlidingWindowSettings() if settings is None else settings
    if not networks or not all(source.shape):
        raise SegflowError(
            "there is nothing to predict", found=f"{len(networks)} networks and an image of {list(source.shape)}"
        )
    window = Window.over(source.shape[1:], patch_size, settings.overlap)
    # In float16 the mean of each network is rounded before the networks are averaged (recipe 11.4, step 9).
    apart = of_networks or settings.sums == "float16"
    groups = [[network] for network in networks] if apart else [list(networks)]
    run = _Pass(groups, source, window, mirror_axes, settings, Room.of_machine() if room is None else room)
    return run.slabs(progress, of_networks=of_networks)


def predict_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int],
    settings: SlidingWindowSettings | None = None,
    *,
    progress: Progress = silent,
) -> Tensor:
    """The slabs of `logit_slabs` as one tensor.

    Args:
        image: float32 (C, Z, Y, X) in plan space, in main memory.
        networks, patch_size, mirror_axes, settings, progress: See `logit_slabs`.

    Returns:
        float32 or float16 (K, Z, Y, X), the type of the sums.

    Raises:
        SegflowError, NotFiniteError: See `logit_slabs`.
    """
    if image.ndim != 4:
        raise SegflowError("there is nothing to predict", found=f"an image of {list(image.shape)}")
    source = ArraySource(image.detach().cpu().numpy())
    return gathered(logit_slabs(networks, source, patch_size, mirror_axes, settings, progress=progress), image.shape[1])


def gathered(slabs: Iterable[LogitSlab], planes: int) -> Tensor:
    """Slabs of an image with this number of planes as one tensor (K, Z, Y, X)."""
    whole: Tensor | None = None
    for slab in slabs:
        if slab.logits.shape[1] == planes:
            return slab.logits
        if whole is None:
            outputs, _, *plane = slab.logits.shape
            whole = torch.empty((outputs, planes, *plane), dtype=slab.logits.dtype, device=slab.logits.device)
        whole[:, slab.start : slab.start + slab.logits.shape[1]].copy_(slab.logits)
        slab.release()
    if whole is None:
        raise SegflowError("there is nothing to predict", found="no slabs")
    return whole


def mean_logits(several: Sequence[Tensor], release: Callable[[], None] = lambda: None) -> Tensor:
    """The mean of logits (K, Z, Y, X), added one by one in their own precision. It changes the first.

    It lies on their device, or in main memory if some do because the device was too small for them.
    """
    if len(several) == 1:
        return several[0]
    if len({one.device for one in several}) > 1:
        several = [one.cpu() for one in several]
    parts = zip(*several, strict=True) if several[0].device.type == "cpu" else [tuple(several)]
    for total, *others in parts:
        for one in others:
            total.add_(one)
        total.div_(len(several))
        release()
    return several[0]


_Tile = tuple[Tensor, tuple[int, ...]]
"""(C, *patch), and the axes along which it is to be mirrored."""


class _Job(NamedTuple):
    """One tile in one view. The jobs of a tile are consecutive.

    Attributes:
        start: First voxel of the tile.
        tile: (C, *patch); None if it is equal to the last tile that comes ``again``.
        view: Axes along which it is mirrored.
        again: The tile is constant, so it may come again.
    """

    start: tuple[int, ...]
    tile: Tensor | None
    view: tuple[int, ...] = ()
    again: bool = False


class _Pass:
    """One pass over one image, with groups of networks whose logits are summed together."""

    def __init__(
        self,
        groups: Sequence[Sequence[nn.Module]],
        source: VoxelSource,
        window: Window,
        mirror_axes: Sequence[int],
        settings: SlidingWindowSettings,
        room: Room,
    ) -> None:
        self.groups = groups
        self.window = window
        self.gaussian = settings.gaussian
        self.dtype = torch.float16 if settings.sums == "float16" else torch.float32
        self.views = mirrored_views(mirror_axes if settings.mirroring else ())
        weight = next((p for group in groups for network in group for p in network.parameters()), None)
        self.device = torch.device("cpu") if weight is None else weight.device
        # Weights of another type, as in a training with 16-true, decide the precision themselves.
        self.own_type = None if weight is None or weight.dtype == torch.float32 else weight.dtype
        self.precision = FLOAT32 if self.own_type else choose_precision(settings.precision, self.device)
        self.batch_size = _automatic(window, self.device) if settings.batch_size == "auto" else int(settings.batch_size)
        self.image = ImagePlanes(source, window, self.device, room)
        self.room = replace(room, sums=room.sums // len(groups))
        self.sums: dict[int, RollingSums] = {}
        self.done = 0

    def slabs(self, progress: Progress, *, of_networks: bool) -> Iterator[LogitSlab]:
        """Run all jobs, batch by batch, and hand on what is finished whenever the next tile needs its room."""
        batch: list[_Job] = []
        last: tuple[float, ...] | None = None
        progress(ProgressEvent("tiles", "", 0, len(self.window.starts)))
        for start in self.window.starts:
            stop = start[0] + self.window.patch[0]
            if stop > self._end():
                self._run(batch, progress)
                batch = []
                if stop > self._end():
                    yield from self._hand_on(start[0], of_networks=of_networks)
            here, tile = self.image.tile(start)
            constant = constant_of(here)
            if constant is not None and constant == last:
                batch.append(_Job(start, None))
                continue
            last = last if constant is None else constant
            for view in self.views:
                batch.append(_Job(start, tile, view, again=constant is not None))
                if len(batch) >= self.batch_size:
                    self._run(batch, progress)
                    batch = []
        self._run(batch, progress)
        yield from self._hand_on(self.window.shape[0], of_networks=of_networks)

    def _end(self) -> int:
        """The plane up to which tiles may be added. How many outputs there are is known after the first batch."""
        return self.sums[0].end if self.sums else self.window.patch[0]

    def _run(self, batch: Sequence[_Job], progress: Progress) -> None:
        """Compute jobs and add their logits. If memory runs out, go on with fewer at a time."""
        for group in range(len(self.groups)):
            done = 0
            while done < len(batch):
                part = batch[done : done + self.batch_size]
                computed = [job for job in part if job.tile is not None]
                try:
                    with closing(self._forward(group, computed)) as logits:
                        for job in part:
                            self._add(group, job, None if job.tile is None else next(logits))
                            done += 1
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    self._need_less(error)
        self.done += sum(job.tile is None or job.view == self.views[-1] for job in batch)
        if batch:
            progress(ProgressEvent("tiles", "", self.done, len(self.window.starts)))

    def _forward(self, group: int, batch: Sequence[_Job]) -> Generator[Tensor, None, None]:
        """For each job the logits (K, *patch) summed over a group's networks, mirrored like their input."""
        networks = self.groups[group]
        tiles = [(job.tile, job.view) for job in batch if job.tile is not None]
        size, most = self._passes(networks, tiles)
        parts = [tiles[first : first + size] for first in range(0, len(tiles), size)]
        calls = [partial(self._logits, network, part) for part in parts for network in networks]
        with closing(in_order(calls, most, self._modes)) as logits:
            for _ in parts:
                total = next(logits)
                for _ in networks[1:]:
                    total = total.float() + next(logits)
                yield from total
                del total  # before the next pass needs memory

    def _passes(self, networks: Sequence[nn.Module], tiles: Sequence[_Tile]) -> tuple[int, int]:
        """Tiles of a pass, and how many passes may compute at the same time. Together they are a batch at most."""
        if self.device.type != "cpu" or not tiles:
            return max(len(tiles), 1), 1
        fitting = min(passes_that_fit(networks, (1, *tiles[0][0].shape)), self.batch_size)
        passes, threads = shared(torch.get_num_threads(), fitting)
        size = CPU_VOXELS_PER_PASS * min(threads, 2) // math.prod(self.window.patch)
        return max(1, min(size, (fitting if passes > 1 else self.batch_size) // passes)), passes

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self.device, self.precision):
            yield

    def _logits(self, network: nn.Module, tiles: Sequence[_Tile]) -> Tensor:
        """Logits (B, K, *patch) of one network."""
        views = []
        for tile, view in tiles:
            tile = tile[:, 0] if self.window.flat else tile
            views.append(tile.flip(_channel_first(view)) if view else tile)
        inputs = torch.stack(views).to(self.device)
        return logits_of_levels(network(inputs if self.own_type is None else inputs.to(self.own_type)))[0]

    def _add(self, group: int, job: _Job, logits: Tensor | None) -> None:
        if logits is None:
            self.sums[group].repeat(job.start)
            return
        if group not in self.sums:
            where = torch.device("cpu") if self.device.type == "mps" else self.device  # restored there, in float64 too
            self.sums[group] = RollingSums(
                self.window,
                len(logits),
                len(self.views),
                1.0 / (len(self.views) * len(self.groups[group])),
                gaussian=self.gaussian,
                device=where,
                dtype=self.dtype,
                room=self.room,
            )
        self.sums[group].add(job.start, logits, _channel_first(job.view), again=job.again)

    def _hand_on(self, stop: int, *, of_networks: bool) -> Iterator[LogitSlab]:
        """The mean of all groups up to a plane, without the padding."""
        z, y, x = self.window.inside
        for parts in zip(*(self.sums[group].hand_on(stop) for group in range(len(self.groups))), strict=True):
            start, several = parts[0][0], [values for _, values, _ in parts]
            if not all(finite for *_, finite in parts):
                raise self._not_finite()
            first, last = max(z.start, start), min(z.stop, start + several[0].shape[1])
            if first >= last:
                continue
            several = [values[:, first - start : last - start, y, x] for values in several]
            separate = tuple(several) if of_networks else ()
            if of_networks and len(several) > 1:
                several[0] = several[0].clone()
            yield LogitSlab(first - z.start, mean_logits(several, self._release), separate, self._release)

    def _release(self) -> None:
        for sums in self.sums.values():
            sums.release()

    def _not_finite(self) -> NotFiniteError:
        """The error that says in which precision the logits are not finite, and which settings have a wider range."""
        wider = []
        if self.precision in AUTOCAST:
            bfloat16 = self.precision == FLOAT16 and has_precision(self.device, BFLOAT16)
            wider.append("inference.precision=32 (or bf16)" if bfloat16 else "inference.precision=32")
        if self.dtype == torch.float16:
            wider.append("inference.sums=float32")
        advice = "Look for NaN or extreme intensities in the image, or a training that diverged."
        return NotFiniteError(
            "the network's output is not finite",
            found=f"computed in {_IN_WORDS[self.precision]} and summed in {str(self.dtype).removeprefix('torch.')}",
            fix=f"Try {' and '.join(wider)}. Else l{advice[1:]}" if wider else advice,
        )

    def _need_less(self, error: BaseException) -> None:
        """Free memory after a failed allocation: take a smaller batch, then put sums into main memory, else raise."""
        give_back(self.device)
        if self.batch_size > 1:
            self.batch_size //= 2
            logger.warning("out of memory; going on with %d tiles at a time", self.batch_size)
        elif any(sums.move_to_main_memory() for sums in self.sums.values()):
            logger.warning("out of memory; going on with the sums in main memory")
        else:
            raise SegflowError(
                "memory does not suffice for one tile",
                found=f"patch {list(self.window.patch)} on {self.device}",
                fix="End other programs on it, or predict with inference.device=cpu."
                if self.device.type != "cpu"
                else "End other programs.",
            ) from error


_IN_WORDS = {FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT32: "float32"}


def _channel_first(view: Sequence[int]) -> list[int]:
    return [axis + 1 for axis in view]


def _automatic(window: Window, device: torch.device) -> int:
    """Tiles of a batch."""
    voxels = window.patch[0] * window.patch[1] * window.patch[2]
    if device.type != "cuda":
        threads = torch.get_num_threads()
        return min(max(CPU_VOXELS_PER_BATCH // voxels, 1) * threads, max(LARGEST_BATCH, threads))
    tiles = int(free_bytes(device) * GPU_SHARE_OF_FREE_MEMORY) // (voxels * GPU_BYTES_PER_VOXEL)
    return min(max(tiles, 1), LARGEST_BATCH)
