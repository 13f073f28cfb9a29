"""The input of a cascade's network: the image, and the previous stage's labels as channels (recipe 11.2)."""

from __future__ import annotations

import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import Labels
from segflow.core.voxels import LabelSource, VoxelSource


class CascadeSource:
    """An image with the previous stage's labels as further channels.

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
        """The voxels (C, Z, Y, X) of a box; see `VoxelSource`."""
        return np.concatenate((self._image.read(box), one_hot(self._label.read(box), self._labels)))


def one_hot(label: np.ndarray, labels: Labels) -> np.ndarray:
    """A channel for each foreground label, float32 (labels, Z, Y, X), of a label map (Z, Y, X)."""
    return np.stack([label == value for value in labels.foreground_labels]).astype(np.float32)
