"""The whole augmentation of a training batch (recipe 7), and the little that a validation batch needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch

from segflow.augmentation.cascade import CascadeSettings, PreviousStage, to_one_hot
from segflow.augmentation.draws import Draws
from segflow.augmentation.intensity import (
    Brightness,
    BrightnessSettings,
    BrightnessShift,
    BrightnessShiftSettings,
    Contrast,
    ContrastSettings,
    Gamma,
    GammaSettings,
    Noise,
    NoiseSettings,
)
from segflow.augmentation.local import (
    Gradient,
    GradientSettings,
    LocalGamma,
    LocalGammaSettings,
    Rectangles,
    RectanglesSettings,
)
from segflow.augmentation.orientation import MirrorSettings, Orientation, TurnSettings
from segflow.augmentation.resolution import (
    Blur,
    BlurSettings,
    LowResolution,
    LowResolutionSettings,
    Median,
    MedianSettings,
    Sharpen,
    SharpenSettings,
)
from segflow.augmentation.spatial import Spatial, SpatialSettings
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import Labels

NNUNET_STEPS = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")


class Step(Protocol):
    """A change of grey values."""

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose; ``selected`` (B, C) says what is changed."""
        ...

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Change image (B, C, *patch) in place."""
        ...


@dataclass(kw_only=True, slots=True)
class AugmentationSettings:
    """Every probability and range of the augmentation. The defaults are nnU-Net's (recipe 7).

    Attributes:
        steps: Changes of grey values in their order; a name may come twice, and of ``a|b`` one is drawn for each
            sample. They follow the spatial part, which is always the first.
        spatial: Rotation and scaling.
        turn: Quarter turns and exchange of axes.
        mirror: Mirroring.
        cascade: Changes of the previous stage's label.
        noise, blur, brightness, contrast, low_resolution, gamma_inverted, gamma, median, brightness_shift,
            contrast_free, rectangles, gradient, local_gamma, sharpen: The steps.
    """

    steps: list[str] = field(default_factory=lambda: list(NNUNET_STEPS))
    spatial: SpatialSettings = field(default_factory=SpatialSettings)
    turn: TurnSettings = field(default_factory=TurnSettings)
    mirror: MirrorSettings = field(default_factory=MirrorSettings)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    blur: BlurSettings = field(default_factory=BlurSettings)
    brightness: BrightnessSettings = field(default_factory=BrightnessSettings)
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    low_resolution: LowResolutionSettings = field(default_factory=LowResolutionSettings)
    gamma_inverted: GammaSettings = field(default_factory=lambda: GammaSettings(probability=0.1, inverted=True))
    gamma: GammaSettings = field(default_factory=GammaSettings)
    median: MedianSettings = field(default_factory=MedianSettings)
    brightness_shift: BrightnessShiftSettings = field(default_factory=BrightnessShiftSettings)
    contrast_free: ContrastSettings = field(default_factory=lambda: ContrastSettings(keep_range=False))
    rectangles: RectanglesSettings = field(default_factory=RectanglesSettings)
    gradient: GradientSettings = field(default_factory=GradientSettings)
    local_gamma: LocalGammaSettings = field(default_factory=LocalGammaSettings)
    sharpen: SharpenSettings = field(default_factory=SharpenSettings)

    def __post_init__(self) -> None:
        known = [f.name for f in fields(self) if f.name not in ("steps", "spatial", "turn", "mirror", "cascade")]
        unknown = [name for entry in self.steps for name in entry.split("|") if name not in known]
        if unknown:
            raise SegflowError("augmentation.steps names unknown steps", found=unknown, expected=known)


class Augmentation:
    """From loader patches to what the network is trained on, batched, on the batch's device.

    Args:
        patch_size: Voxels of the final patch, (z, y, x) or (y, x).
        settings: All probabilities and ranges.
        labels: Of the dataset.
        use_mask_for_norm: For each image channel, whether what lies outside the non-zero mask stays 0.
        previous_stage: Whether label channel 1 is the label of a previous stage.
        left_right_axis: Plan axis from left to right, where known; see `MirrorSettings.keep_sides`.
        extra_steps: Further changes of grey values, after those of the settings.

    Attributes:
        loader_patch_size: Voxels of the patches that it wants to be given.
        mirror_axes: Axes of the patch that it mirrors.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        settings: AugmentationSettings,
        *,
        labels: Labels,
        use_mask_for_norm: Sequence[bool],
        previous_stage: bool,
        left_right_axis: int | None = None,
        extra_steps: Sequence[Step] = (),
    ) -> None:
        self.patch_size = tuple(int(n) for n in patch_size)
        self.settings = settings
        self.mirror_axes = settings.mirror.patch_axes(len(self.patch_size), labels, left_right_axis)
        orientation = Orientation(self.patch_size, self.mirror_axes, settings.mirror, settings.turn)
        self.spatial = Spatial(self.patch_size, settings.spatial, orientation)
        self.loader_patch_size = self.spatial.loader_patch_size
        self.masked_channels = [channel for channel, masked in enumerate(use_mask_for_norm) if masked]
        self.foreground_labels = labels.foreground_labels
        self.previous = PreviousStage(settings.cascade, len(self.foreground_labels)) if previous_stage else None
        self.steps = [[self._step(name) for name in entry.split("|")] for entry in settings.steps]
        self.steps += [[step] for step in extra_steps]

    def _step(self, name: str) -> Step:
        settings, dims = getattr(self.settings, name), len(self.patch_size)
        builders: dict[type, Any] = {
            NoiseSettings: Noise,
            BlurSettings: lambda s: Blur(s, dims),
            BrightnessSettings: Brightness,
            BrightnessShiftSettings: BrightnessShift,
            ContrastSettings: Contrast,
            LowResolutionSettings: lambda s: LowResolution(s, self.spatial.dummy_2d),
            GammaSettings: Gamma,
            MedianSettings: Median,
            SharpenSettings: Sharpen,
            RectanglesSettings: lambda s: Rectangles(s, self.patch_size),
            GradientSettings: lambda s: Gradient(s, self.patch_size),
            LocalGammaSettings: lambda s: LocalGamma(s, self.patch_size),
        }
        return builders[type(settings)](settings)

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw for a batch and apply; see `draw` and `apply`."""
        return self.apply(image, label, self.draw(len(image), image.shape[1], generator))

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Make all random choices for a batch.

        Every tensor has the samples along axis 0: a process that computes a part of a batch draws for all of it and
        takes its share.

        Args:
            samples: B.
            channels: Image channels.
            generator: On the CPU.
        """
        result = _named("spatial", self.spatial.draw(samples, generator))
        for at, alternatives in enumerate(self.steps):
            choice = torch.randint(len(alternatives), (samples, 1), generator=generator)
            for which, step in enumerate(alternatives):
                draws = step.draw(samples, channels, generator)
                draws["selected"] = draws["selected"] & (choice == which)
                result |= _named(f"{at}.{which}", draws)
        if self.previous is not None:
            result |= _named("previous", self.previous.draw(samples, generator))
        return result

    def regions(self, draws: Draws) -> list[Box]:
        """The part of each sample's loader patch that `apply` will look at; the rest need not be read."""
        return self.spatial.regions(_part("spatial", draws))

    @torch.no_grad()
    def apply(self, image: torch.Tensor, label: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Do what `draw` chose.

        Args:
            image: float32 (B, C, *loader patch), left as it is.
            label: int16 (B, 1, *loader patch), or (B, 2, …) with a previous stage; -1 outside.
            draws: For these B samples.

        Returns:
            image float32 (B, C, *patch), with a previous stage C + foreground labels channels; label int16
            (B, 1, *patch) with 0 outside.

        Raises:
            SegflowError: The batch does not have the loader's patch size.
        """
        if tuple(image.shape[2:]) != self.loader_patch_size:
            raise SegflowError(
                "the augmentation was given patches of another size",
                found=list(image.shape[2:]),
                expected=list(self.loader_patch_size),
            )
        samples, channels = image.shape[:2]
        more = 0 if self.previous is None else len(self.foreground_labels)
        out = image.new_empty((samples, channels + more, *self.patch_size))
        out_label = label.new_empty((samples, label.shape[1], *self.patch_size))
        own = out[:, :channels]
        self.spatial.apply(image, label, _part("spatial", draws), own, out_label)
        for at, alternatives in enumerate(self.steps):
            for which, step in enumerate(alternatives):
                step.apply(own, _part(f"{at}.{which}", draws))
        for channel in self.masked_channels:
            own[:, channel].masked_fill_(out_label[:, 0] < 0, 0)
        if self.previous is not None:
            to_one_hot(out_label[:, 1], self.foreground_labels, out[:, channels:])
            self.previous.apply(out[:, channels:], _part("previous", draws))
            out_label = out_label[:, :1].contiguous()
        return out, out_label.clamp_(min=0)


class ValidationTransform:
    """The centre of the patch, nothing random; called like `Augmentation`.

    Args:
        patch_size: Voxels of the final patch.
        labels: Of the dataset.
        previous_stage: Whether label channel 1 is the label of a previous stage.
    """

    def __init__(self, patch_size: Sequence[int], *, labels: Labels, previous_stage: bool) -> None:
        self.loader_patch_size = self.patch_size = tuple(int(n) for n in patch_size)
        self.foreground_labels = labels.foreground_labels
        self.previous_stage = previous_stage

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crop, turn -1 into 0, and append the previous stage's one-hot channels.

        Args:
            image: float32 (B, C, *larger or equal).
            label: int16 (B, 1 or 2, *as image).
            generator: Not used.
        """
        starts = [size // 2 - n // 2 for size, n in zip(image.shape[2:], self.patch_size, strict=True)]
        centre = (..., *(slice(a, a + n) for a, n in zip(starts, self.patch_size, strict=True)))
        image, label = image[centre], label[centre]
        if self.previous_stage:
            shape = (len(image), len(self.foreground_labels), *self.patch_size)
            one_hot = image.new_empty(shape)
            to_one_hot(label[:, 1], self.foreground_labels, one_hot)
            image, label = torch.cat([image, one_hot], 1), label[:, :1]
        return image.contiguous(), label.clamp(min=0)


def _named(prefix: str, draws: Draws) -> Draws:
    return {f"{prefix}/{name}": values for name, values in draws.items()}


def _part(prefix: str, draws: Draws) -> Draws:
    return {name.split("/", 1)[1]: values for name, values in draws.items() if name.startswith(f"{prefix}/")}
