"""Changes of sharpness: blur, low resolution, median filter, sharpening (recipe 7, rows 3, 6; recipe 16, DA5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch.nn import functional

from segflow.augmentation.draws import Draws, uniform, whole
from segflow.augmentation.step import ChannelStep


@dataclass(kw_only=True)
class Blur(ChannelStep):
    """Gaussian blur along one axis after the other.

    Args:
        sigma: Range of the standard deviation in voxels.
        same_for_axes: Take one standard deviation for all axes of a channel.
    """

    sigma: tuple[float, float] = (0.5, 1.0)
    same_for_axes: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("sigma", 1e-3)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``sigma`` (B, C, d)."""
        dims = len(self.patch_size)
        sigma = uniform((*shape, 1 if self.same_for_axes else dims), self.sigma, generator)
        return {"sigma": sigma.expand(*shape, dims)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        for axis, sigma in enumerate(choices["sigma"].tolist()):
            values = blur_axis(values, axis, sigma)
        return values


def gaussian_kernel(sigma: float) -> list[float]:
    """Weights of a Gaussian at whole voxels, with sum 1. The length is the odd number nearest to 6 sigma + 0.5."""
    length = 6 * sigma + 0.5
    half = max(0, round((length - 1) / 2))
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-half, half + 1)]
    return [weight / sum(weights) for weight in weights]


def blur_axis(values: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    """Convolve with a Gaussian along one axis; beyond the border, values are mirrored about the last voxel.

    Args:
        values: float32 (*patch).
        axis: Axis of the values.
        sigma: Standard deviation in voxels.
    """
    kernel = gaussian_kernel(sigma)
    half, count = len(kernel) // 2, values.shape[axis]
    index = torch.arange(-half, count + half, device=values.device)
    period = max(1, 2 * (count - 1))
    index = index.remainder(period)
    padded = values.index_select(axis, torch.minimum(index, period - index).clamp_(max=count - 1))
    result = values * kernel[half]
    for offset, weight in enumerate(kernel):
        if offset != half:
            result.add_(padded.narrow(axis, offset, count), alpha=weight)
    return result


@dataclass(kw_only=True)
class LowResolution(ChannelStep):
    """Drop voxels (nearest) and interpolate them again (linear). In dummy-2D the first axis stays as it is.

    Args:
        scale: Range of the share of voxels to keep along each axis.
    """

    scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("scale", 0.01)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``scale`` (B, C)."""
        return {"scale": uniform(shape, self.scale, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        shape = values.shape
        small = [max(1, round(n * float(choices["scale"]))) for n in shape]
        if self.dummy_2d:
            small[0] = shape[0]
        mode = "trilinear" if len(shape) == 3 else "bilinear"
        reduced = functional.interpolate(values[None, None], small, mode="nearest-exact")
        return functional.interpolate(reduced, shape, mode=mode, align_corners=False)[0, 0]


@dataclass(kw_only=True)
class Median(ChannelStep):
    """Median filter, on the CPU.

    Args:
        size: Range of the filter's edge in voxels, both ends included.
    """

    size: tuple[int, int] = (2, 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("size", 1)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``size`` (B, C)."""
        return {"size": whole(shape, self.size, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        return torch.from_numpy(ndimage.median_filter(values.cpu().numpy(), size=int(choices["size"])))


@dataclass(kw_only=True)
class Sharpen(ChannelStep):
    """Subtract a share of the Laplacian. Beyond the border the last voxel is repeated.

    Args:
        strength: Range of the factor on the Laplacian.
    """

    strength: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("strength", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``strength`` (B, C)."""
        return {"strength": uniform(shape, self.strength, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        return values.sub_(laplacian(values), alpha=float(choices["strength"]))


def laplacian(values: torch.Tensor) -> torch.Tensor:
    """Sum of the differences to both neighbours along each axis, (*patch). Beyond the border the difference is 0."""
    result = torch.zeros_like(values)
    for axis in range(values.ndim):
        count = values.shape[axis] - 1
        step = values.narrow(axis, 1, count) - values.narrow(axis, 0, count)
        result.narrow(axis, 0, count).add_(step)
        result.narrow(axis, 1, count).sub_(step)
    return result
