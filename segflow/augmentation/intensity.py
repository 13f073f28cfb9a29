"""Changes of grey values: noise, brightness, contrast and gamma (recipe 7, rows 2, 4, 5, 7, 8; recipe 16, DA5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segflow.augmentation.draws import Draws, factor, seeds, uniform
from segflow.augmentation.step import ChannelStep

SMALLEST = 1e-7
"""Smallest denominator, in place of a range or deviation of 0."""


@dataclass(kw_only=True)
class Noise(ChannelStep):
    """Add Gaussian noise.

    Args:
        sigma: Range of the standard deviation.
        same_for_channels: Take one standard deviation for all channels. The noise is independent.
    """

    sigma: tuple[float, float] = (0.0, 0.1)
    same_for_channels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("sigma", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``sigma`` and ``seed``, each (B, C)."""
        samples, channels = shape
        sigma = uniform((samples, 1 if self.same_for_channels else channels), self.sigma, generator)
        return {"sigma": sigma.expand(shape), "seed": seeds(shape, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        generator = torch.Generator(values.device).manual_seed(int(choices["seed"]))
        field = torch.empty_like(values).normal_(generator=generator)
        return values.add_(field, alpha=float(choices["sigma"]))


@dataclass(kw_only=True)
class Brightness(ChannelStep):
    """Multiply by a factor.

    Args:
        factor: Range of the factor, with half of the draws on either side of 1.
    """

    factor: tuple[float, float] = (0.75, 1.25)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("factor")

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``factor`` (B, C)."""
        return {"factor": factor(shape, self.factor, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        return values.mul_(float(choices["factor"]))


@dataclass(kw_only=True)
class BrightnessShift(ChannelStep):
    """Add a constant.

    Args:
        mean: Mean of the Gaussian from which the constant is drawn.
        sigma: Standard deviation of this Gaussian.
    """

    mean: float = 0.0
    sigma: float = 0.5

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``shift`` (B, C)."""
        return {"shift": torch.randn(shape, generator=generator) * self.sigma + self.mean}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        return values.add_(float(choices["shift"]))


@dataclass(kw_only=True)
class Contrast(ChannelStep):
    """Spread or shrink values about the mean of the channel.

    Args:
        factor: Range of the factor, with half of the draws on either side of 1.
        keep_range: Clip to the channel's former minimum and maximum.
    """

    factor: tuple[float, float] = (0.75, 1.25)
    keep_range: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("factor", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``factor`` (B, C)."""
        return {"factor": factor(shape, self.factor, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        spread, mean = float(choices["factor"]), values.mean()
        low, high = torch.aminmax(values)
        values.mul_(spread).add_(mean * (1 - spread))
        return values.clamp_(low, high) if self.keep_range else values


@dataclass(kw_only=True)
class Gamma(ChannelStep):
    """Scale the channel to 0 to 1 and raise it to a power.

    Args:
        gamma: Range of the power, with half of the draws on either side of 1.
        inverted: Apply it to the negative of the image.
        keep_statistics: Restore the channel's mean and standard deviation.
    """

    gamma: tuple[float, float] = (0.7, 1.5)
    inverted: bool = False
    keep_statistics: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("gamma", 0)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Choose ``gamma`` (B, C)."""
        return {"gamma": factor(shape, self.gamma, generator)}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """See `ChannelStep.change`."""
        if self.inverted:
            values.neg_()
        low, high = torch.aminmax(values)
        extent, mean = high - low, values.mean()
        deviation = torch.linalg.vector_norm(values - mean)
        values.sub_(low).div_(extent.clamp(min=SMALLEST)).pow_(float(choices["gamma"]))
        if self.keep_statistics:
            # Restoring mean and deviation would undo any other scale and offset.
            values.sub_(values.mean())
            now = torch.linalg.vector_norm(values).clamp(min=SMALLEST)
            values.mul_(deviation / now).add_(mean)
        else:
            values.mul_(extent).add_(low)
        return values.neg_() if self.inverted else values
