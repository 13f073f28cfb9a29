"""Cropping to the part of an image that is not zero (recipe 2.2)."""

from __future__ import annotations

from typing import NamedTuple

import fill_voids
import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE


class Cropped(NamedTuple):
    """A case after cropping.

    Attributes:
        image: (C, Z, Y, X) view of the image given.
        label: (Z, Y, X), a copy, with -1 where the label is 0 outside the non-zero mask.
        box: Where it lay in the array given.
    """

    image: np.ndarray
    label: np.ndarray
    box: Box


def nonzero_box(image: np.ndarray) -> Box:
    """The tight box of voxels that are not 0 in some channel; the whole array where there are none.

    Holes within cannot change it, so it costs no hole filling.

    Args:
        image: (C, Z, Y, X).
    """
    return _tight_box(_any_channel(image))


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """Voxels that are not 0 in some channel, holes filled.

    A hole is background without a path of face neighbours to the border of the array. An array that is one or two
    voxels thick has none: all of it is border.

    Args:
        image: (C, Z, Y, X).

    Returns:
        bool (Z, Y, X).
    """
    mask = _any_channel(image)
    box = _tight_box(mask)
    mask[box.slices] = _fill_holes(mask[box.slices])
    return mask


def crop_to_nonzero(image: np.ndarray, label: np.ndarray | None) -> Cropped:
    """Cut image and label down to the box of the non-zero mask and mark the label outside the mask.

    Args:
        image: (C, Z, Y, X).
        label: (Z, Y, X) of a signed type, or None: then 0 within the mask is taken for the label (int16).
    """
    mask = _any_channel(image)
    box = _tight_box(mask)
    # Background on a face of the box reaches the border of the array, so the holes of the part are those of the whole.
    inside = _fill_holes(mask[box.slices])
    cropped = np.zeros(box.shape, np.int16) if label is None else np.array(label[box.slices])
    if not inside.all():
        cropped[~inside & (cropped == 0)] = OUTSIDE
    return Cropped(image[(slice(None), *box.slices)], cropped, box)


def _any_channel(image: np.ndarray) -> np.ndarray:
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask


def _tight_box(mask: np.ndarray) -> Box:
    along_x, along_z = np.any(mask, axis=2), np.any(mask, axis=0)
    present = (np.any(along_x, axis=1), np.any(along_x, axis=0), np.any(along_z, axis=0))
    if not present[0].any():
        return Box.whole(mask.shape)
    ends = [np.flatnonzero(axis)[[0, -1]] for axis in present]
    return Box(tuple(int(a) for a, _ in ends), tuple(int(b) + 1 for _, b in ends))


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    if min(mask.shape) <= 2 or mask.all():
        return mask
    # The library overlooks paths that leave along an edge of the array; with a margin around there are none.
    padded = np.zeros(tuple(n + 2 for n in mask.shape), bool)
    inner = (slice(1, -1),) * mask.ndim
    padded[inner] = mask
    return fill_voids.fill(padded, in_place=True)[inner]
