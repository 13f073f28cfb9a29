"""Changes of a part of the patch: blank rectangles, brightness gradients, local gamma (recipe 16, DA5).

Every step draws its choices with `draw` and changes image (B, C, *patch) in place with `apply`, chosen channels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segflow.augmentation.draws import Draws, chance, check_probability, checked_range, select, selected, uniform, whole

SMALLEST = 1e-8
"""Stands in for a range of 0 in a denominator."""


@dataclass(kw_only=True, slots=True)
class RectanglesSettings:
    """Rectangles that are replaced by their mean.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        count: Range of their number, both ends included.
        size: Range of their edges as a share of the patch.
    """

    probability: float = 0.4
    channel_probability: float = 0.5
    count: tuple[int, int] = (1, 4)
    size: tuple[float, float] = (0.1, 1 / 3)

    def __post_init__(self) -> None:
        check_probability("rectangles", probability=self.probability, channel_probability=self.channel_probability)
        self.count = checked_range("rectangles", "count", self.count, 1)
        self.size = checked_range("rectangles", "size", self.size, 0)


class Rectangles:
    """Fill rectangles with the mean of what was there."""

    def __init__(self, settings: RectanglesSettings, patch_size: Sequence[int]) -> None:
        self.settings = settings
        self.patch_size = tuple(patch_size)

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``count`` (B, C), ``start`` and ``size`` (B, C, most, d) in voxels."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        count = whole((samples, channels), settings.count, generator)
        shape = (samples, channels, int(settings.count[1]), len(self.patch_size))
        extent = torch.tensor(self.patch_size)
        smallest = (extent * settings.size[0] + 1e-4).long().clamp_(min=1)
        beyond = torch.maximum((extent * settings.size[1] + 1e-4).long(), smallest + 1)
        size = smallest + (torch.rand(shape, generator=generator) * (beyond - smallest)).long()
        start = (torch.rand(shape, generator=generator) * (extent - size + 1)).long()
        return {"selected": chosen, "count": count, "start": start, "size": size}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Fill them, one after the other."""
        for at in selected(draws):
            count = int(draws["count"][at])
            starts, sizes = draws["start"][at][:count].tolist(), draws["size"][at][:count].tolist()
            for start, size in zip(starts, sizes, strict=True):
                part = image[at][tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
                part.fill_(part.mean())


def draw_bump(
    samples: int,
    channels: int,
    patch_size: Sequence[int],
    width: Sequence[float],
    location: Sequence[float],
    generator: torch.Generator,
) -> Draws:
    """Choose ``centre`` and ``width`` (B, C, d) in voxels of a Gaussian bump.

    Args:
        samples, channels: B and C.
        patch_size: Voxels of the patch.
        width: Range of the standard deviation as a share of the patch; its logarithm is uniform.
        location: Range of the centre as a share of the patch.
        generator: Source of randomness.
    """
    shape = (samples, channels, len(patch_size))
    extent = torch.tensor(patch_size, dtype=torch.float32)
    low = (extent * width[0] + 1e-4).floor().clamp_(min=1).log()
    high = torch.maximum((extent * width[1]).log(), low)
    return {
        "centre": uniform(shape, location, generator) * extent,
        "width": (low + torch.rand(shape, generator=generator) * (high - low)).exp(),
    }


def bump(shape: Sequence[int], centre: torch.Tensor, width: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A Gaussian bump brought to 0 to 1 within the patch: float32 of this shape.

    Each voxel has the Gaussian's mass between its borders; the first voxel reaches from -0.5 to 0.5.
    """
    result = torch.ones((), dtype=torch.float32, device=device)
    for size, middle, sigma in zip(shape, centre.double(), width.double(), strict=True):
        borders = torch.arange(size + 1, dtype=torch.float64) - 0.5
        mass = torch.special.ndtr((borders - middle) / sigma).diff()
        result = result.unsqueeze(-1) * mass.float().to(device)
    low, high = torch.aminmax(result)
    return result.sub_(low).div_((high - low).clamp(min=torch.finfo(torch.float32).tiny))


@dataclass(kw_only=True, slots=True)
class GradientSettings:
    """A brightness gradient: a Gaussian bump that is added.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        width: Range of the bump's standard deviation as a share of the patch; its logarithm is uniform.
        location: Range of its centre as a share of the patch; it may lie outside.
        strength: Range of its height, with either sign.
    """

    probability: float = 0.3
    channel_probability: float = 0.5
    width: tuple[float, float] = (1 / 6, 1.0)
    location: tuple[float, float] = (-0.5, 1.5)
    strength: tuple[float, float] = (1.0, 5.0)

    def __post_init__(self) -> None:
        check_probability("gradient", probability=self.probability, channel_probability=self.channel_probability)
        self.width = checked_range("gradient", "width", self.width, 0)
        self.location = checked_range("gradient", "location", self.location)
        self.strength = checked_range("gradient", "strength", self.strength, 0)


class Gradient:
    """Add a bump."""

    def __init__(self, settings: GradientSettings, patch_size: Sequence[int]) -> None:
        self.settings = settings
        self.patch_size = tuple(patch_size)

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``strength`` (B, C), ``centre`` and ``width`` (B, C, d)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        strength = uniform((samples, channels), settings.strength, generator)
        strength = torch.where(chance((samples, channels), 0.5, generator), -strength, strength)
        where = draw_bump(samples, channels, self.patch_size, settings.width, settings.location, generator)
        return {"selected": chosen, "strength": strength, **where}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Add it."""
        for at in selected(draws):
            field = bump(self.patch_size, draws["centre"][at], draws["width"][at], image.device)
            image[at].add_(field, alpha=float(draws["strength"][at]))


@dataclass(kw_only=True, slots=True)
class LocalGammaSettings:
    """Gamma within a Gaussian bump, fading into the unchanged image.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        width: Range of the bump's standard deviation as a share of the patch; its logarithm is uniform.
        location: Range of its centre as a share of the patch; it may lie outside.
        low, high: Two ranges of gamma, chosen alike.
    """

    probability: float = 0.3
    channel_probability: float = 0.5
    width: tuple[float, float] = (1 / 6, 1.0)
    location: tuple[float, float] = (-0.5, 1.5)
    low: tuple[float, float] = (0.01, 0.8)
    high: tuple[float, float] = (1.5, 4.0)

    def __post_init__(self) -> None:
        check_probability("local_gamma", probability=self.probability, channel_probability=self.channel_probability)
        self.width = checked_range("local_gamma", "width", self.width, 0)
        self.low = checked_range("local_gamma", "low", self.low, 0)
        self.high = checked_range("local_gamma", "high", self.high, 0)
        self.location = checked_range("local_gamma", "location", self.location)


class LocalGamma:
    """Blend with the gamma of the channel, brought to 0 to 1."""

    def __init__(self, settings: LocalGammaSettings, patch_size: Sequence[int]) -> None:
        self.settings = settings
        self.patch_size = tuple(patch_size)

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``gamma`` (B, C), ``centre`` and ``width`` (B, C, d)."""
        settings, shape = self.settings, (samples, channels)
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        low, high = uniform(shape, settings.low, generator), uniform(shape, settings.high, generator)
        gamma = torch.where(chance(shape, 0.5, generator), low, high)
        where = draw_bump(samples, channels, self.patch_size, settings.width, settings.location, generator)
        return {"selected": chosen, "gamma": gamma, **where}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Blend."""
        for at in selected(draws):
            values = image[at]
            low, high = torch.aminmax(values)
            extent = (high - low).clamp(min=SMALLEST)
            weight = bump(self.patch_size, draws["centre"][at], draws["width"][at], image.device)
            values.sub_(low).div_(extent)
            values.lerp_(values.pow(float(draws["gamma"][at])), weight).mul_(extent).add_(low)
