"""Changes of grey values: noise, brightness, contrast and gamma (recipe 7, rows 2, 4, 5, 7, 8; recipe 16, DA5).

Every step draws its choices with `draw` and changes image (B, C, *patch) in place with `apply`, chosen channels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segflow.augmentation.draws import (
    Draws,
    check_probability,
    checked_range,
    factor,
    seeds,
    select,
    selected,
    uniform,
)

SMALLEST = 1e-7
"""Stands in for a range or deviation of 0 in a denominator."""


@dataclass(kw_only=True, slots=True)
class NoiseSettings:
    """Gaussian noise.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        sigma: Range of the standard deviation.
        same_for_channels: One standard deviation for all channels, with independent noise.
    """

    probability: float = 0.1
    channel_probability: float = 1.0
    sigma: tuple[float, float] = (0.0, 0.1)
    same_for_channels: bool = True

    def __post_init__(self) -> None:
        check_probability("noise", probability=self.probability, channel_probability=self.channel_probability)
        self.sigma = checked_range("noise", "sigma", self.sigma, 0)


class Noise:
    """Add Gaussian noise."""

    def __init__(self, settings: NoiseSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected``, ``sigma`` and ``seed``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        sigma = uniform((samples, 1 if settings.same_for_channels else channels), settings.sigma, generator)
        return {
            "selected": chosen,
            "sigma": sigma.expand(samples, channels),
            "seed": seeds((samples, channels), generator),
        }

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Add it."""
        for at in selected(draws):
            generator = torch.Generator(image.device).manual_seed(int(draws["seed"][at]))
            field = torch.empty_like(image[at]).normal_(generator=generator)
            image[at].add_(field, alpha=float(draws["sigma"][at]))


@dataclass(kw_only=True, slots=True)
class BrightnessSettings:
    """Brightness as a factor.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        factor: Range, half of the draws on either side of 1.
    """

    probability: float = 0.15
    channel_probability: float = 1.0
    factor: tuple[float, float] = (0.75, 1.25)

    def __post_init__(self) -> None:
        check_probability("brightness", probability=self.probability, channel_probability=self.channel_probability)
        self.factor = checked_range("brightness", "factor", self.factor)


class Brightness:
    """Multiply by a factor."""

    def __init__(self, settings: BrightnessSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``factor``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "factor": factor((samples, channels), settings.factor, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Multiply."""
        for at in selected(draws):
            image[at].mul_(float(draws["factor"][at]))


@dataclass(kw_only=True, slots=True)
class BrightnessShiftSettings:
    """Brightness as a summand.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        mean, sigma: Of the Gaussian that it is drawn from.
    """

    probability: float = 0.1
    channel_probability: float = 0.5
    mean: float = 0.0
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_probability(
            "brightness_shift", probability=self.probability, channel_probability=self.channel_probability
        )


class BrightnessShift:
    """Add a constant."""

    def __init__(self, settings: BrightnessShiftSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``shift``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        shift = torch.randn((samples, channels), generator=generator) * settings.sigma + settings.mean
        return {"selected": chosen, "shift": shift}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Add it."""
        for at in selected(draws):
            image[at].add_(float(draws["shift"][at]))


@dataclass(kw_only=True, slots=True)
class ContrastSettings:
    """Contrast about the mean of the channel.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        factor: Range, half of the draws on either side of 1.
        keep_range: Clamp to the channel's minimum and maximum of before.
    """

    probability: float = 0.15
    channel_probability: float = 1.0
    factor: tuple[float, float] = (0.75, 1.25)
    keep_range: bool = True

    def __post_init__(self) -> None:
        check_probability("contrast", probability=self.probability, channel_probability=self.channel_probability)
        self.factor = checked_range("contrast", "factor", self.factor, 0)


class Contrast:
    """Spread or shrink about the mean."""

    def __init__(self, settings: ContrastSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``factor``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "factor": factor((samples, channels), settings.factor, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Change it."""
        for at in selected(draws):
            values, spread = image[at], float(draws["factor"][at])
            mean = values.mean()
            low, high = torch.aminmax(values)
            values.mul_(spread).add_(mean * (1 - spread))
            if self.settings.keep_range:
                values.clamp_(low, high)


@dataclass(kw_only=True, slots=True)
class GammaSettings:
    """Gamma, on the channel's range of grey values.

    Attributes:
        probability, channel_probability: Of a sample, and of each of its channels.
        gamma: Range, half of the draws on either side of 1.
        inverted: Apply it to the negative of the image.
        keep_statistics: Restore the channel's mean and standard deviation.
    """

    probability: float = 0.3
    channel_probability: float = 1.0
    gamma: tuple[float, float] = (0.7, 1.5)
    inverted: bool = False
    keep_statistics: bool = True

    def __post_init__(self) -> None:
        check_probability("gamma", probability=self.probability, channel_probability=self.channel_probability)
        self.gamma = checked_range("gamma", "gamma", self.gamma, 0)


class Gamma:
    """Raise the channel, brought to 0 to 1, to a power."""

    def __init__(self, settings: GammaSettings) -> None:
        self.settings = settings

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` and ``gamma``, each (B, C)."""
        settings = self.settings
        chosen = select(samples, channels, settings.probability, settings.channel_probability, generator)
        return {"selected": chosen, "gamma": factor((samples, channels), settings.gamma, generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Change it."""
        for at in selected(draws):
            values = image[at]
            if self.settings.inverted:
                values.neg_()
            low, high = torch.aminmax(values)
            extent, mean = high - low, values.mean()
            deviation = torch.linalg.vector_norm(values - mean)
            values.sub_(low).div_(extent.clamp(min=SMALLEST)).pow_(float(draws["gamma"][at]))
            if self.settings.keep_statistics:
                # Restoring mean and deviation undoes any other scale and offset.
                values.sub_(values.mean())
                now = torch.linalg.vector_norm(values).clamp(min=SMALLEST)
                values.mul_(deviation / now).add_(mean)
            else:
                values.mul_(extent).add_(low)
            if self.settings.inverted:
                values.neg_()
