"""The previous stage's label as extra image channels with random errors (recipe 7, rows 12-14).

Predictions of training cases are better than those of new cases. Without errors the network would trust them too much.
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
from segflow.network.device_copies import sent

FAR = 2**14
"""Squared distance of a voxel without any mask voxel in reach; fits int16."""

LARGEST_RADIUS = 90
"""Largest radius: its square is below `FAR`, and their sum fits int16."""


@dataclass(kw_only=True, slots=True)
class CascadeSettings:
    """Random errors in the previous stage's channels.

    Attributes:
        morphology_probability, morphology_label_probability: Probability of a sample, and of each of its labels, to be
            dilated, eroded, closed or opened.
        radius: Range of the radius of the ball in voxels.
        removal_probability, removal_label_probability: Probability of a sample, and of each of its labels, to lose a
            component.
        removal_largest: Share of the patch from which on components are kept.
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
        settings: Settings of the changes.
        labels: Number n of channels.
    """

    def __init__(self, settings: CascadeSettings, labels: int) -> None:
        self.settings = settings
        self.labels = labels

    def draw(self, samples: int, generator: torch.Generator) -> Draws:
        """Choose for both changes the order of the labels, the labels to change, and how to change them."""
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
        """Change the channels (B, labels, *patch), each label by itself, since a label may take voxels from others."""
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
            values.masked_fill_(sent(torch.from_numpy(chosen), values.device), 0)


def dilate(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Voxels within a radius of the mask. There is no mask beyond the border.

    The squared distance is computed along one axis after the other, up to the radius.

    Args:
        mask: bool (*patch).
        radius: Radius in voxels.

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
    """Voxels with no background within a radius. Beyond the border everything counts as mask. See `dilate`."""
    return ~dilate(~mask, radius)


def close(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Dilate, then erode. See `dilate`."""
    return erode(dilate(mask, radius), radius)


def open_(mask: torch.Tensor, radius: float) -> torch.Tensor:
    """Erode, then dilate. See `dilate`."""
    return dilate(erode(mask, radius), radius)


OPERATIONS = (dilate, erode, close, open_)
