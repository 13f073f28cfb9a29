"""Images in plan space that are read box by box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.core.voxels import VoxelSource


@dataclass(frozen=True, slots=True)
class PlanImage:
    """A case in plan space that may be larger than memory.

    Attributes:
        case_id: Name of the case.
        source: float32 (C, Z, Y, X), normalised, with a cascade's channels of the previous stage.
        spatial: How it got here from image space.
    """

    case_id: str
    source: VoxelSource
    spatial: SpatialRecord


class LabelSource(Protocol):
    """A label map (Z, Y, X) that is read box by box."""

    def read(self, box: Box) -> np.ndarray:
        """Labels within a box, an integer type."""


class CascadeSource:
    """An image with the previous stage's labels as further channels (recipe 11.2).

    Args:
        image: The image in plan space.
        label: The previous stage's label map on the same grid.
        labels: The label definition.
    """

    def __init__(self, image: VoxelSource, label: LabelSource, labels: Labels) -> None:
        self._image, self._label, self._labels = image, label, labels

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        channels, z, y, x = self._image.shape
        return channels + len(self._labels.foreground_labels), z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `VoxelSource`."""
        return np.concatenate((self._image.read(box), one_hot(self._label.read(box), self._labels)))


def one_hot(label: np.ndarray, labels: Labels) -> np.ndarray:
    """A channel for each foreground label, float32 (labels, Z, Y, X), of a label map (Z, Y, X)."""
    return np.stack([label == value for value in labels.foreground_labels]).astype(np.float32)
