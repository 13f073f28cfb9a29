"""Prediction of images larger than the patch: the weighted mean over tiles and mirrored views (recipe 11.4)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.execution.machine import check_room
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.tiles import Window, gaussian_importance, group_identical_tiles, mirrored_views
from segflow.network.device_copies import sent
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

CPU_VOXELS_PER_BATCH = 3 * 2**17
"""Voxels of a batch on a CPU. Larger batches gain nothing; smaller ones pay the fixed cost of layers too often."""

GPU_BYTES_PER_VOXEL = 2048
"""Bytes per voxel for the activations of 32 features at the finest level in float16, with concatenation and logits."""

GPU_SHARE_OF_FREE_MEMORY = 0.4
"""Share of the free memory for the activations. The sums need the rest."""

LARGEST_BATCH = 64


class NotFiniteError(SegflowError):
    """The logits of an image are NaN or infinite."""


def predict_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch_size: Sequence[int],
    mirror_axes: Sequence[int],
    settings: SlidingWindowSettings | None = None,
    *,
    progress: Progress = silent,
) -> Tensor:
    """The mean logits of one or several networks over a whole image.

    Logits, not probabilities, are averaged over views, tiles and networks, as nnU-Net does. The sums lie on the
    networks' device, or in main memory if that is too small. If memory runs out, the batch is halved and prediction
    continues with the next tile.

    Args:
        networks: One per fold, in evaluation mode, on one device. Each maps (B, C, *patch) to (B, K, *patch), or to a
            list of logits, finest first.
        image: float32 (C, Z, Y, X) in plan space.
        patch_size: Voxels of the patch, (z, y, x), or (y, x) for networks that see one slice at a time.
        mirror_axes: Axes of the patch (0 is its first) along which views may be mirrored.
        settings: See `SlidingWindowSettings`.
        progress: Called after each batch with the number of finished tiles.

    Returns:
        float32 or float16 (K, Z, Y, X), the type of the sums.

    Raises:
        SegflowError: The image is empty, the device lacks the precision, or memory does not suffice for one tile.
        NotFiniteError: The logits are not finite.
    """
    settings = SlidingWindowSettings() if settings is None else settings
    if not networks or image.ndim != 4 or not image.numel():
        raise SegflowError(
            "there is nothing to predict", found=f"{len(networks)} networks and an image of {list(image.shape)}"
        )
    window = Window.over(image.shape[1:], patch_size, settings.overlap)
    padded = functional.pad(image, window.padding) if any(window.padding) else image
    # In float16 the mean of each network is rounded before the networks are averaged (recipe 11.4, step 9).
    groups = [[network] for network in networks] if settings.sums == "float16" else [networks]
    logits = mean_logits(_Pass(group, padded, window, mirror_axes, settings).run(progress) for group in groups)
    return logits[(slice(None), *window.inside)]


def mean_logits(several: Iterable[Tensor]) -> Tensor:
    """The mean of logits (K, Z, Y, X), added one by one in their own precision. It may change the first.

    It lies on their device, or in main memory if some do because the device was too small for them.
    """
    logits = iter(several)
    total, count = next(logits), 1
    for one in logits:
        if one.device != total.device:
            total, one = total.cpu(), one.cpu()
        total.add_(one)
        count += 1
    return total.div_(count) if count > 1 else total


class _Pass:
    """One pass over one image. A job is one tile in one view; the jobs of a tile are consecutive."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        image: Tensor,
        window: Window,
        mirror_axes: Sequence[int],
        settings: SlidingWindowSettings,
    ) -> None:
        self.networks = networks
        self.window = window
        self.gaussian = settings.gaussian
        self.dtype = torch.float16 if settings.sums == "float16" else torch.float32
        self.views = mirrored_views(mirror_axes if settings.mirroring else ())
        self.groups = group_identical_tiles(image, window)
        weight = next((p for network in networks for p in network.parameters()), image)
        self.device = weight.device
        # Weights of another type, as in a training with 16-true, decide the precision themselves.
        self.own_type = None if weight.dtype == torch.float32 else weight.dtype
        self.precision = FLOAT32 if self.own_type else choose_precision(settings.precision, self.device)
        self.batch_size = _automatic(window, self.device) if settings.batch_size == "auto" else int(settings.batch_size)
        self.image = _where_it_fits(image, self.device)
        self.sums: _Sums | None = None

    def run(self, progress: Progress) -> Tensor:
        """Run all jobs, batch by batch. Returns float32 (K, Z, Y, X) of the padded image."""
        jobs = [(group, view) for group in range(len(self.groups)) for view in self.views]
        done = 0
        progress(ProgressEvent("tiles", "", 0, len(self.groups)))
        while done < len(jobs):
            batch = jobs[done : done + self.batch_size]
            try:
                for (group, view), logits in zip(batch, self._forward(batch), strict=True):
                    self._add(group, view, logits)
                    done += 1
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._need_less(error)
            progress(ProgressEvent("tiles", "", done // len(self.views), len(self.groups)))
        if self.sums is None:
            raise SegflowError("the image has no tiles", found=list(self.window.shape))
        logits = self.sums.mean()
        if not bool(torch.isfinite(logits.flatten(1).sum(1, dtype=torch.float32)).all()):
            raise self._not_finite()
        return logits

    @torch.inference_mode()
    def _forward(self, batch: Sequence[tuple[int, tuple[int, ...]]]) -> Tensor:
        """Logits summed over the networks, (B, K, *patch), mirrored like their input."""
        tiles = []
        for group, view in batch:
            tile = self.window.tile(self.image, self.groups[group][0])
            tile = tile[:, 0] if self.window.flat else tile
            tiles.append(tile.flip(_channel_first(view)) if view else tile)
        inputs = torch.stack(tiles).to(self.device)
        inputs = inputs if self.own_type is None else inputs.to(self.own_type)
        with autocast(self.device, self.precision):
            total = logits_of_levels(self.networks[0](inputs))[0]
            for network in self.networks[1:]:
                total = total.float() + logits_of_levels(network(inputs))[0]
        return total

    def _add(self, group: int, view: tuple[int, ...], logits: Tensor) -> None:
        if self.sums is None:
            where = torch.device("cpu") if self.device.type == "mps" else self.device  # restored there, in float64 too
            self.sums = _Sums(self.window, len(logits), self.gaussian, where, self.dtype)
            self.sums.share = 1.0 / (len(self.views) * len(self.networks))
        self.sums.add(self.groups[group], logits, _channel_first(view))

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
        elif self.sums is not None and self.sums.logits.device.type != "cpu":
            self.sums.move_to_main_memory()
            logger.warning("out of memory; going on with the sums in main memory")
        else:
            raise SegflowError(
                "memory does not suffice for one tile",
                found=f"patch {list(self.window.patch)} on {self.device}",
                fix="End other programs on it, or predict with inference.device=cpu."
                if self.device.type != "cpu"
                else "End other programs.",
            ) from error


class _Sums:
    """Weighted sums over the padded image: logits (K, Z, Y, X), and weights (Z, Y, X) if tiles overlap."""

    def __init__(self, window: Window, outputs: int, gaussian: bool, device: torch.device, dtype: torch.dtype) -> None:
        self.window = window
        self.share = 1.0
        self.starts: Sequence[tuple[int, ...]] = ()
        self.tile = torch.empty((outputs, *window.patch), device=device)
        weights = torch.ones(window.patch)
        if gaussian:
            importance = gaussian_importance(window.patch[1:] if window.flat else window.patch)
            weights = torch.from_numpy(importance).reshape(window.patch)
        # Without overlap the weights cancel, but in float16 they leave rounding errors.
        weighted = window.overlapping or dtype == torch.float16
        self.importance = sent(weights, device) if weighted else None
        shape = (outputs, *window.shape)
        if device.type == "cpu":
            check_room(math.prod(shape) * dtype.itemsize, "the sum of the logits", found=f"{list(shape)}")
        try:
            self.logits = torch.zeros(shape, dtype=dtype, device=device)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
            logger.warning("the logits of the whole image do not fit on %s; they are summed in main memory", device)
            self.logits = torch.zeros(shape, dtype=dtype)
        self.weights = torch.zeros(window.shape, dtype=dtype, device=self.logits.device) if weighted else None

    def add(self, starts: Sequence[tuple[int, ...]], logits: Tensor, mirrored: list[int]) -> None:
        """Add one view (K, *patch) of the tile at ``starts``. The views of a tile are consecutive.

        If memory is lacking, it fails before it has changed anything.
        """
        # On a CPU, a single channel stays in the cache between mirroring and adding.
        step = 1 if self.tile.device.type == "cpu" else len(logits)
        first = starts is not self.starts
        for channel in range(0, len(logits), step):
            view = logits[channel : channel + step]
            view = view.flip(mirrored) if mirrored else view
            if starts is not self.starts:
                self._finish_tile()
                self.starts = starts
            target = self.tile[channel : channel + step]
            target = target[:, 0] if self.window.flat else target
            target.copy_(view) if first else target.add_(view)

    def _finish_tile(self) -> None:
        if not self.starts:
            return
        self.tile.mul_(self.share)
        if self.importance is not None:
            self.tile.mul_(self.importance)
        tile = self.tile.to(self.logits.device)
        for start in self.starts:
            for sums, channel in zip(self.window.tile(self.logits, start), tile, strict=True):
                # Torch is slow with mixed types. Converting, adding and converting back is faster and rounds alike.
                sums.copy_(sums.to(channel.dtype).add_(channel)) if sums.dtype != channel.dtype else sums.add_(channel)
            if self.weights is not None and self.importance is not None:
                self.window.tile(self.weights, start).add_(self.importance.to(self.weights.device))
        self.starts = ()

    def move_to_main_memory(self) -> None:
        """Move the sums to main memory, so that the network gets the device's memory."""
        self.logits = self.logits.cpu()
        self.weights = None if self.weights is None else self.weights.cpu()

    def mean(self) -> Tensor:
        """The sums divided by the weights, in place."""
        self._finish_tile()
        if self.weights is not None:
            self.logits.div_(self.weights)
        return self.logits


_IN_WORDS = {FLOAT16: "float16", BFLOAT16: "bfloat16", FLOAT32: "float32"}


def _channel_first(view: Sequence[int]) -> list[int]:
    return [axis + 1 for axis in view]


def _automatic(window: Window, device: torch.device) -> int:
    """Tiles in one forward pass."""
    voxels = window.patch[0] * window.patch[1] * window.patch[2]
    if device.type != "cuda":
        return min(max(CPU_VOXELS_PER_BATCH // voxels, 1), LARGEST_BATCH)
    tiles = int(free_bytes(device) * GPU_SHARE_OF_FREE_MEMORY) // (voxels * GPU_BYTES_PER_VOXEL)
    return min(max(tiles, 1), LARGEST_BATCH)


def _where_it_fits(image: Tensor, device: torch.device) -> Tensor:
    """The image on the device, or unchanged if the device is too small for it."""
    try:
        return image.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return image
