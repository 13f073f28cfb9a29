"""Label maps that are read box by box, and bounding boxes of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segflow.core.geometry import Box

SLAB_VOXELS = 1 << 20
"""Voxels of a slab that is read and looked at as a whole."""


class LabelMap(Protocol):
    """A label map whose voxels are read box by box, such as `OpenedLabel`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""

    def read(self, box: Box) -> np.ndarray:
        """Whole numbers (Z, Y, X) within a box inside the map, not to be changed."""


@dataclass(frozen=True, slots=True)
class ArrayMap:
    """An array of whole numbers (Z, Y, X) as a `LabelMap`."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LabelMap`."""
        z, y, x = self.array.shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `LabelMap`."""
        return self.array[box.slices]


def slabs_of(box: Box) -> Iterator[Box]:
    """Consecutive parts of a box along its first axis, of about `SLAB_VOXELS` each."""
    (first, *starts), (last, *stops) = box.start, box.stop
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(box.shape[1:], dtype=np.int64))))
    for start in range(first, last, step):
        yield Box((start, *starts), (min(start + step, last), *stops))


LabelBoxes = Sequence[tuple[slice, ...] | None]
"""Bounding boxes of label 1, 2, …; None for a label that does not occur."""


def boxes_of_labels(label_map: np.ndarray) -> LabelBoxes:
    """Bounding boxes of all labels from 1 on. ``label_map`` is (Z, Y, X), whole numbers."""
    from scipy import ndimage  # slow to load

    boxes: LabelBoxes = ndimage.find_objects(label_map)
    return boxes


def box_of(labels: Iterable[int], boxes: Iterable[LabelBoxes]) -> Box | None:
    """Bounding box of some labels together, in one or several maps of the same shape; None if none of them occurs."""
    members = tuple(labels)
    found = [maps[value - 1] for maps in boxes for value in members if 0 < value <= len(maps)]
    present = [box for box in found if box is not None]
    if not present:
        return None
    start = tuple(min(box[axis].start for box in present) for axis in range(3))
    stop = tuple(max(box[axis].stop for box in present) for axis in range(3))
    return Box(start, stop)


def mask_of(label_map: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Mask of the voxels that have one of the labels; bool, same shape as the map (Z, Y, X)."""
    return label_map == labels[0] if len(labels) == 1 else np.isin(label_map, labels)


def physical_spacing(spacing: Sequence[float], shape: Sequence[int]) -> tuple[float, float, float]:
    """The spacing in mm, with 1 mm instead of a 2D image's artificial thickness (recipe 1.5), so that mm³ mean mm²."""
    z, y, x = spacing
    return (1.0, y, x) if shape[0] == 1 and z > 100 * max(y, x) else (z, y, x)
