"""Changes of sharpness: blur, low resolution, median filter, sharpening (recipe 7, rows 3, 6; recipe 16, DA5).

Every step draws its choices with `draw` and changes image (B, C, *patch) in place with `apply`, chosen channels only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch.nn import functional

from segflow.augmentation.draws import Draws, check_probability, checked_range, select, selected, uniform, whole


@dataclass(kw_only=True, slots=True)
class BlurSettings:
    """Gaussian blur.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        sigma: Range of the standard deviation in voxels.
        same_for_axes: One standard deviation for all axes of a channel.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    sigma: tuple[float, float] = (0.5, 1.0)
    same_for_axes: bool = False

    def __post_init__(self) -> None:
        check_probability("blur", probability=self.probability, channel_probability=self.channel_probability)
        self.sigma = checked_range("blur", "sigma", self.sigma, 1e-3)


class Blur:
    """Blur along one axis after the other."""

    def __init__(self, settings: BlurSettings, dims: int) -> None:
        self.settings = settings
        self.dims = dims

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` (B, C) and ``sigma`` (B, C, d)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        shape = (samples, channels, 1 if settings.same_for_axes else self.dims)
        sigma = uniform(shape, settings.sigma, generator).expand(samples, channels, self.dims)
        return {"selected": chosen, "sigma": sigma}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Blur."""
        for at in selected(draws):
            values = image[at]
            for axis, sigma in enumerate(draws["sigma"][at].tolist()):
                values = blur_axis(values, axis, sigma)
            image[at].copy_(values)


def gaussian_kernel(sigma: float) -> list[float]:
    """Weights of a Gaussian at whole voxels, summing to 1; its length is the odd number nearest 6 sigma + 0.5."""
    length = 6 * sigma + 0.5
    half = max(0, round((length - 1) / 2))
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-half, half + 1)]
    return [weight / sum(weights) for weight in weights]


def blur_axis(values: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    """Convolve with a Gaussian along one axis; beyond the border the values are mirrored about the last voxel."""
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


@dataclass(kw_only=True, slots=True)
class LowResolutionSettings:
    """Simulated low resolution.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        scale: Range of the share of voxels that is kept along each axis.
    """

    probability: float = 0.25
    channel_probability: float = 0.5
    scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        check_probability("low_resolution", probability=self.probability, channel_probability=self.channel_probability)
        self.scale = checked_range("low_resolution", "scale", self.scale, 0.01)


class LowResolution:
    """Drop voxels (nearest) and interpolate them anew (linear). In dummy-2D, the first axis keeps its own."""

    def __init__(self, settings: LowResolutionSettings, dummy_2d: bool) -> None:
        self.settings = settings
        self.dummy_2d = dummy_2d

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``scale``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "scale": uniform((samples, channels), settings.scale, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Resample forth and back."""
        mode = "trilinear" if image.ndim == 5 else "bilinear"
        for at in selected(draws):
            shape = image[at].shape
            small = [max(1, round(n * float(draws["scale"][at]))) for n in shape]
            if self.dummy_2d:
                small[0] = shape[0]
            reduced = functional.interpolate(image[at][None, None], small, mode="nearest-exact")
            image[at].copy_(functional.interpolate(reduced, shape, mode=mode, align_corners=False)[0, 0])


@dataclass(kw_only=True, slots=True)
class MedianSettings:
    """Median filter.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        size: Range of the edge of the filter in voxels, both ends included.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    size: tuple[int, int] = (2, 7)

    def __post_init__(self) -> None:
        check_probability("median", probability=self.probability, channel_probability=self.channel_probability)
        self.size = checked_range("median", "size", self.size, 1)


class Median:
    """Median filter, on the CPU."""

    def __init__(self, settings: MedianSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``size``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "size": whole((samples, channels), settings.size, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Filter."""
        for at in selected(draws):
            filtered = ndimage.median_filter(image[at].cpu().numpy(), size=int(draws["size"][at]))
            image[at].copy_(torch.from_numpy(filtered))


@dataclass(kw_only=True, slots=True)
class SharpenSettings:
    """Sharpening.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        strength: Range of the factor of the negative Laplacian that is added.
    """

    probability: float = 0.2
    channel_probability: float = 0.5
    strength: tuple[float, float] = (0.1, 1.0)

    def __post_init__(self) -> None:
        check_probability("sharpen", probability=self.probability, channel_probability=self.channel_probability)
        self.strength = checked_range("sharpen", "strength", self.strength, 0)


class Sharpen:
    """Subtract a share of the Laplacian; beyond the border the last voxel goes on."""

    def __init__(self, settings: SharpenSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``strength``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "strength": uniform((samples, channels), settings.strength, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Sharpen."""
        for at in selected(draws):
            image[at].sub_(laplacian(image[at]), alpha=float(draws["strength"][at]))


def laplacian(values: torch.Tensor) -> torch.Tensor:
    """Sum over the axes of the differences to both neighbours; there is none beyond the border."""
    result = torch.zeros_like(values)
    for axis in range(values.ndim):
        count = values.shape[axis] - 1
        step = values.narrow(axis, 1, count) - values.narrow(axis, 0, count)
        result.narrow(axis, 0, count).add_(step)
        result.narrow(axis, 1, count).sub_(step)
    return result
