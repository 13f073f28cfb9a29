"""The previous stage's label as extra image channels, made worse at random (recipe 7, rows 12-14).

A network that trains on its own training cases' predictions would trust them more than it may on new cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch

from segflow.augmentation.draws import Draws, chance, uniform
from segflow.augmentation.options import check_probability, check_types, checked_range
from segflow.core.errors import SegflowError

FAR = 2**14
"""Squared distance of a voxel to nothing, in int16."""

LARGEST_RADIUS = 90
"""Squared, it is less than `FAR` and fits into int16 together with it."""


@dataclass(kw_only=True, slots=True)
class CascadeSettings:
    """What is done to the previous stage's channels.

    Attributes:
        morphology_probability, morphology_label_probability: Of a sample, and of each of its labels, to be dilated,
            eroded, closed or opened.
        radius: Range of the radius of the ball in voxels.
        removal_probability, removal_label_probability: Of a sample, and of each of its labels, to lose a component.
        removal_largest: Components that fill this share of the patch or more are kept.
    """

    morphology_probability: float = 0.4
    morphology_label_probability: float = 0.5
    radius: tuple[float, float] = (1.0, 8.0)
    removal_probability: float = 0.2
    removal_label_probability: float = 0.5
    removal_largest: float = 0.15

    def __post_init__(self) -> None:
        check_types(self, "augmentation.cascade")
        check_probability(
            "augmentation.cascade",
            morphology_probability=self.morphology_probability,
            morphology_label_probability=self.morphology_label_probability,
            removal_probability=self.removal_probability,
            removal_label_probability=self.removal_label_probability,
        )
        self.radius = checked_range("augmentation.cascade", "radius", self.radius, 0)
        if self.radius[1] > LARGEST_RADIUS:
            raise SegflowError(
                "augmentation.cascade.radius is too large", found=self.radius[1], expected=f"at most {LARGEST_RADIUS}"
            )


def to_one_hot(label: torch.Tensor, labels: Sequence[int], out: torch.Tensor) -> None:
    """One channel of 0 and 1 for each label.

    Args:
        label: integer (B, *patch).
        labels: Foreground labels, in the order of the channels.
        out: float (B, len(labels), *patch), written.
    """
    for channel, value in enumerate(labels):
        out[:, channel] = label == value


class PreviousStage:
    """Changes one-hot channels (B, n, *patch) in place.

    Args:
        settings: How.
        labels: Number n of channels.
    """

    def __init__(self, settings: CascadeSettings, labels: int) -> None:
        self.settings = settings
        self.labels = labels

    def draw(self, samples: int, generator: torch.Generator) -> Draws:
        """Choose for both changes an order of the labels and which of them are changed, and how."""
        settings, shape = self.settings, (samples, self.labels)
        morphology = chance((samples, 1), settings.morphology_probability, generator)
        removal = chance((samples, 1), settings.removal_probability, generator)
        return {
            "morphology_order": torch.rand(shape, generator=generator).argsort(1),
            "morphology": morphology & chance(shape, settings.morphology_label_probability, generator),
            "operation": torch.randint(4, shape, generator=generator),
            "radius": uniform(shape, settings.radius, generator),
            "removal_order": torch.rand(shape, generator=generator).argsort(1),
            "removal": removal & chance(shape, settings.removal_label_probability, generator),
            "component": torch.rand(shape, generator=generator),
        }

    def apply(self, channels: torch.Tensor, draws: Draws) -> None:
        """Change them, sample by sample and label by label, since a label may take voxels from the others."""
        for sample, values in enumerate(channels):
            for label in draws["morphology_order"][sample].tolist():
                if draws["morphology"][sample, label]:
                    operation, radius = int(draws["operation"][sample, label]), float(draws["radius"][sample, label])
                    self._change(values, label, operation, radius)
            for label in draws["removal_order"][sample].tolist():
                if draws["removal"][sample, label]:
                    self._remove(values[label], float(draws["component"][sample, label]))

    def _change(self, values: torch.Tensor, label: int, operation: int, radius: float) -> None:
        before = values[label] > 0
        after = OPERATIONS[operation](before, radius)
        others = [other for other in range(self.labels) if other != label]
        for other in others:
            values[other].masked_fill_(after & ~before, 0)
        values[label].copy_(after)

    def _remove(self, values: torch.Tensor, choice: float) -> None:
        components = cc3d.connected_components((values > 0).cpu().numpy(), connectivity=8 if values.ndim == 2 else 26)
        sizes = np.bincount(components.ravel())
        largest = self.settings.removal_largest * values.numel()
        small = [component for component in range(1, len(sizes)) if sizes[component] < largest]
        if small:
            chosen = components == small[int(choice * len(small))]
            values.masked_fill_(torch.from_numpy(chosen).to(values.device), 0)


def dilate(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Voxels no farther than a radius from the mask. Nothing lies beyond the border.

    The squared distance is found along one axis after the other, no farther than the radius.

    Args:
        mask: bool (*patch).
        radius: Voxels.

    Returns:
        bool (*patch).
    """
    distance = torch.full(mask.shape, FAR, dtype=torch.int16, device=mask.device).masked_fill_(mask, 0)
    for axis in range(mask.ndim):
        along = distance.clone()
        for offset in range(1, min(int(radius), mask.shape[axis] - 1) + 1):
            count = mask.shape[axis] - offset
            farther = along + offset * offset
            low, high = distance.narrow(axis, 0, count), distance.narrow(axis, offset, count)
            torch.minimum(low, farther.narrow(axis, offset, count), out=low)
            torch.minimum(high, farther.narrow(axis, 0, count), out=high)
    return distance <= radius * radius


def erode(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Voxels farther than a radius from what is not the mask; beyond the border all counts as mask. See `dilate`."""
    return ~dilate(~mask, radius)


def close(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Dilate, then erode. See `dilate`."""
    return erode(dilate(mask, radius), radius)


def open_(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Erode, then dilate. See `dilate`."""
    return dilate(erode(mask, radius), radius)


OPERATIONS = (dilate, erode, close, open_)
