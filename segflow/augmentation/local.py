"""Changes of a part of the patch: blank rectangles, brightness gradients, local gamma (recipe 16, DA5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segflow.augmentation.draws import Draws, chance, uniform, whole
from segflow.augmentation.step import ChannelStep
from segflow.network.device_copies import sent

SMALLEST = 1e-8
"""Smallest denominator, in place of a range of 0."""


@dataclass(kw_only=True)
class Rectangles(ChannelStep):
    """Fill rectangles with the mean of their voxels.

    Args:
        count: Range of the number of rectangles, both ends included.
        size: Range of their edges as a share of the patch.
    """

    count: tuple[int, int] = (1, 4)
    size: tuple[float, float] = (0.1, 1 / 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("count", 1)
        self.check_range("size", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``count`` (B, C), ``start`` and ``size`` (B, C, most, d) in voxels."""
        count = whole(shape, self.count, generator)
        each = (*shape, self.count[1], len(self.patch_size))
        extent = torch.tensor(self.patch_size)
        smallest = (extent * self.size[0] + 1e-4).long().clamp_(min=1)
        beyond = torch.maximum((extent * self.size[1] + 1e-4).long(), smallest + 1)
        size = smallest + (torch.rand(each, generator=generator) * (beyond - smallest)).long()
        start = (torch.rand(each, generator=generator) * (extent - size + 1)).long()
        return {"count": count, "start": start, "size": size}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """Fill the rectangles one after the other. See `ChannelStep.change`."""
        count = int(choices["count"])
        starts, sizes = choices["start"][:count].tolist(), choices["size"][:count].tolist()
        for start, size in zip(starts, sizes, strict=True):
            part = values[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
            part.fill_(part.mean())
        return values


@dataclass(kw_only=True)
class BumpStep(ChannelStep):
    """A step whose strength is a Gaussian bump in or near the patch.

    Args:
        width: Range of the bump's standard deviation as a share of the patch; its logarithm is uniform.
        location: Range of the bump's centre as a share of the patch; it may lie outside.
    """

    width: tuple[float, float] = (1 / 6, 1.0)
    location: tuple[float, float] = (-0.5, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("width", 0)
        self.check_range("location")

    def choose_bump(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``centre`` and ``width`` (B, C, d) in voxels."""
        each = (*shape, len(self.patch_size))
        extent = torch.tensor(self.patch_size, dtype=torch.float32)
        low = (extent * self.width[0] + 1e-4).floor().clamp_(min=1).log()
        high = torch.maximum((extent * self.width[1]).log(), low)
        return {
            "centre": uniform(each, self.location, generator) * extent,
            "width": (low + torch.rand(each, generator=generator) * (high - low)).exp(),
        }

    def bump(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """The chosen bump of a channel: float32 (*patch)."""
        return bump(values.shape, choices["centre"], choices["width"], values.device)


def bump(shape: Sequence[int], centre: torch.Tensor, width: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A Gaussian bump, scaled to 0 to 1 within the patch: float32 of this shape.

    The value of a voxel is the Gaussian's mass between its borders; the first voxel reaches from -0.5 to 0.5.

    Args:
        shape: Shape of the patch, (z, y, x) or (y, x).
        centre, width: float (axes,) in voxels; the width is the standard deviation.
        device: Device of the result.
    """
    result = torch.ones((), dtype=torch.float32, device=device)
    for size, middle, sigma in zip(shape, centre.double(), width.double(), strict=True):
        borders = torch.arange(size + 1, dtype=torch.float64) - 0.5
        mass = torch.special.ndtr((borders - middle) / sigma).diff()
        result = result.unsqueeze(-1) * sent(mass.float(), device)
    low, high = torch.aminmax(result)
    return result.sub_(low).div_((high - low).clamp(min=torch.finfo(torch.float32).tiny))


@dataclass(kw_only=True)
class Gradient(BumpStep):
    """Add a bump: a brightness gradient.

    Args:
        strength: Range of the bump's height; the sign is random.
    """

    strength: tuple[float, float] = (1.0, 5.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("strength", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``strength`` (B, C), ``centre`` and ``width`` (B, C, d)."""
        strength = uniform(shape, self.strength, generator)
        strength = torch.where(chance(shape, 0.5, generator), -strength, strength)
        return {"strength": strength, **self.choose_bump(shape, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        return values.add_(self.bump(values, choices), alpha=float(choices["strength"]))


@dataclass(kw_only=True)
class LocalGamma(BumpStep):
    """Gamma within a bump, which fades into the unchanged image.

    Args:
        low: Range of gamma below 1, as likely as ``high``.
        high: Range of gamma above 1.
    """

    low: tuple[float, float] = (0.01, 0.8)
    high: tuple[float, float] = (1.5, 4.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("low", 0)
        self.check_range("high", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``gamma`` (B, C), ``centre`` and ``width`` (B, C, d)."""
        low, high = uniform(shape, self.low, generator), uniform(shape, self.high, generator)
        gamma = torch.where(chance(shape, 0.5, generator), low, high)
        return {"gamma": gamma, **self.choose_bump(shape, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """Blend the channel with its gamma, both scaled to 0 to 1. See `ChannelStep.change`."""
        low, high = torch.aminmax(values)
        extent = (high - low).clamp(min=SMALLEST)
        weight = self.bump(values, choices)
        values.sub_(low).div_(extent)
        return values.lerp_(values.pow(float(choices["gamma"])), weight).mul_(extent).add_(low)
