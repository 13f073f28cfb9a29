"""An image or label map in plan axes, cut to a box, as it is read box by box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segflow.core.geometry import Box, invert_axis_order, permute
from segflow.core.voxels import LabelSource, VoxelSource


class TurnedImage:
    """An image in plan axes, cut to a box. A `VoxelSource`.

    Args:
        image: In original axes.
        axis_order: Permutation to plan axes.
        crop: The box, in plan axes.
    """

    def __init__(self, image: VoxelSource, axis_order: Sequence[int], crop: Box) -> None:
        self._image = image
        self._axes = tuple(axis_order)
        self._crop = crop

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        z, y, x = self._crop.shape
        return self._image.shape[0], z, y, x

    def read(self, box: Box) -> np.ndarray:
        """Values (C, Z, Y, X) of a box, see `VoxelSource`."""
        values = self._image.read(_original(box, self._crop, self._axes))
        return np.ascontiguousarray(values.transpose(0, *(axis + 1 for axis in self._axes)))


class TurnedLabel:
    """A label map in plan axes, cut to a box. A `LabelSource`.

    Args:
        label: In original axes.
        axis_order, crop: See `TurnedImage`.
    """

    def __init__(self, label: LabelSource, axis_order: Sequence[int], crop: Box) -> None:
        self._label = label
        self._axes = tuple(axis_order)
        self._crop = crop

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LabelSource`."""
        z, y, x = self._crop.shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """Labels (Z, Y, X) of a box, see `LabelSource`."""
        values = self._label.read(_original(box, self._crop, self._axes))
        return np.ascontiguousarray(values.transpose(self._axes))


def _original(box: Box, crop: Box, axis_order: Sequence[int]) -> Box:
    """A box of the cut array, in original axes."""
    back = invert_axis_order(axis_order)
    box = box.moved(crop.start)
    return Box(permute(box.start, back), permute(box.stop, back))
