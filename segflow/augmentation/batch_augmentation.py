"""The augmentation of training batches (recipe 7): its settings, and its use on batches of one patch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from segflow.augmentation.cascade import CascadeSettings, PreviousStage, to_one_hot
from segflow.augmentation.draws import Draws, is_selection, named, part
from segflow.augmentation.one_of import OneOf
from segflow.augmentation.orientation import MirrorSettings, Orientation, TurnSettings
from segflow.augmentation.spatial import Spatial, SpatialSettings
from segflow.augmentation.step import CONTRACT, Step, checked_steps
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import Labels


@dataclass(kw_only=True)
class Augmentation:
    """Settings of the augmentation. Called with a patch size, they give the augmentation of such patches.

    Args:
        steps: Changes of grey values by name, applied in order after the spatial part. null switches a step off.
        spatial: Rotation and scaling.
        turn: Quarter turns and exchange of axes.
        mirror: Mirroring.
        cascade: Changes of the previous stage's label.

    Raises:
        SegflowError: An entry is not a step.
    """

    steps: Mapping[str, Step | None] = field(default_factory=dict)
    spatial: SpatialSettings = field(default_factory=SpatialSettings)
    turn: TurnSettings = field(default_factory=TurnSettings)
    mirror: MirrorSettings = field(default_factory=MirrorSettings)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)

    def __post_init__(self) -> None:
        self.steps = checked_steps(self.steps, "augmentation.steps")

    def __call__(
        self,
        patch_size: Sequence[int],
        *,
        labels: Labels,
        use_mask_for_norm: Sequence[bool],
        previous_stage: bool,
        left_right_axis: int | None = None,
    ) -> BatchAugmentation:
        """The augmentation of patches of one size.

        Args:
            patch_size: Voxels of the final patch, (z, y, x) or (y, x).
            labels: The label definition.
            use_mask_for_norm: For each image channel, whether voxels outside the non-zero mask stay 0.
            previous_stage: Label channel 1 is the label of a previous stage.
            left_right_axis: Plan axis from left to right, or None if unknown; see `MirrorSettings.keep_sides`.

        Raises:
            SegflowError: An option does not fit the patch, or a step breaks its contract.
        """
        patch_size = tuple(int(n) for n in patch_size)
        mirror_axes = self.mirror.patch_axes(len(patch_size), labels, left_right_axis)
        orientation = Orientation(patch_size, mirror_axes, self.mirror, self.turn)
        spatial = Spatial(patch_size, self.spatial, orientation)
        steps = {
            name: step.bind(patch_size, spatial.dummy_2d)
            for name, step in checked_steps(self.steps, "augmentation.steps").items()
        }
        for name, step in steps.items():
            step.check(f"augmentation.steps.{name}")
        return BatchAugmentation(
            spatial,
            steps,
            foreground_labels=labels.foreground_labels,
            masked_channels=[channel for channel, masked in enumerate(use_mask_for_norm) if masked],
            previous=PreviousStage(self.cascade, len(labels.foreground_labels)) if previous_stage else None,
        )


class BatchAugmentation:
    """Turns batches of loader patches into the network's input and target, on the batch's device.

    Args:
        spatial: Rotation, scaling and orientation.
        steps: Changes of grey values by name, bound to the patch size.
        foreground_labels: Foreground labels of the dataset.
        masked_channels: Image channels that stay 0 where the label is -1.
        previous: Changes of the previous stage's label, which is label channel 1; None without one.

    Attributes:
        patch_size: Voxels of the final patch, (z, y, x) or (y, x).
        loader_patch_size: Voxels of the patches that it needs.
        mirror_axes: Axes of the patch that it mirrors.
    """

    def __init__(
        self,
        spatial: Spatial,
        steps: Mapping[str, Step],
        *,
        foreground_labels: Sequence[int],
        masked_channels: Sequence[int] = (),
        previous: PreviousStage | None = None,
    ) -> None:
        self.spatial = spatial
        self.steps = dict(steps)
        self.foreground_labels = tuple(foreground_labels)
        self.masked_channels = tuple(masked_channels)
        self.previous = previous
        self.patch_size = spatial.patch_size
        self.loader_patch_size = spatial.loader_patch_size
        self.mirror_axes = spatial.orientation.mirror_axes
        self._untried = set(self.steps)

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw for a batch and apply; see `draw` and `apply`."""
        return self.apply(image, label, self.draw(len(image), image.shape[1], generator))

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Make all random choices for a batch.

        Every tensor has the samples along axis 0. A process that computes a part of a batch draws for the whole batch
        and takes its share.

        Args:
            samples: Number B of samples.
            channels: Number of image channels.
            generator: A generator on the CPU.
        """
        result = named("spatial", self.spatial.draw(samples, generator))
        for name, step in self.steps.items():
            if not isinstance(step, OneOf):
                # A single alternative, so that a seed gives the same batches for a step alone and among others.
                torch.randint(1, (samples, 1), generator=generator)
            result |= named(f"steps/{name}", step.draw(samples, channels, generator))
        if self.previous is not None:
            result |= named("previous", self.previous.draw(samples, generator))
        return result

    def regions(self, draws: Draws) -> list[Box]:
        """The part of each sample's loader patch that `apply` uses. The rest need not be read."""
        return self.spatial.regions(part("spatial", draws))

    @torch.no_grad()
    def apply(self, image: torch.Tensor, label: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the choices of `draw`.

        Args:
            image: float32 (B, C, *loader patch), not changed.
            label: int16 (B, 1, *loader patch), or (B, 2, …) with a previous stage; -1 outside.
            draws: Choices for these B samples.

        Returns:
            image float32 (B, C, *patch), with a previous stage C + foreground labels channels; label int16
            (B, 1, *patch) with 0 outside.

        Raises:
            SegflowError: The batch does not have the loader's patch size, or a step breaks its contract.
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
        self.spatial.apply(image, label, part("spatial", draws), own, out_label)
        for name, step in self.steps.items():
            change = partial(self._try, name, step) if name in self._untried else step.apply
            change(own, part(f"steps/{name}", draws))
        for channel in self.masked_channels:
            own[:, channel].masked_fill_(out_label[:, 0] < 0, 0)
        if self.previous is not None:
            to_one_hot(out_label[:, 1], self.foreground_labels, out[:, channels:])
            self.previous.apply(out[:, channels:], part("previous", draws))
            out_label = out_label[:, :1].contiguous()
        return out, out_label.clamp_(min=0)

    def _try(self, name: str, step: Step, image: torch.Tensor, draws: Draws) -> None:
        """Apply a step for the first time; make sure that it leaves numbers, once it changes something."""
        selections = [values for key, values in draws.items() if is_selection(key)]
        changes = not selections or any(bool(values.any()) for values in selections)
        tell = changes and _is_finite(image)
        step.apply(image, draws)
        if not tell:
            return
        if not _is_finite(image):
            raise SegflowError(
                f"augmentation.steps.{name} makes values that are no numbers (infinite or NaN)",
                found=step.name,
                expected=CONTRACT,
            )
        self._untried.discard(name)


def _is_finite(values: torch.Tensor) -> bool:
    return bool(torch.isfinite(values).all())
