"""Operations on label maps: largest component, minimum size, holes (recipe 13.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cc3d
import fill_voids
import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.postprocessing import PostprocessingStep
from segflow.evaluation.label_maps import LabelBoxes, box_of, boxes_of_labels, mask_of, physical_spacing
from segflow.evaluation.lesions import component_sizes

BYTES_PER_VOXEL = 12
"""Memory per voxel in bytes for a step on a label map: as read, the result, the changed part, mask and components."""


def postprocess_label_map(
    label_map: np.ndarray, steps: Iterable[PostprocessingStep], spacing: Sequence[float]
) -> np.ndarray:
    """Apply steps in order.

    Args:
        label_map: Whole numbers (Z, Y, X); it is not changed.
        steps: The steps.
        spacing: mm along z, y, x.

    Returns:
        A new array of the same type.
    """
    result = label_map.copy()
    for step in steps:
        box, part = apply_step(result, step, spacing)
        result[box.slices] = part
    return result


def apply_step(
    label_map: np.ndarray, step: PostprocessingStep, spacing: Sequence[float], boxes: LabelBoxes | None = None
) -> tuple[Box, np.ndarray]:
    """Apply one step, and return the box that it may have changed.

    Args:
        label_map: Whole numbers (Z, Y, X); it is not changed.
        step: The step.
        spacing: mm along z, y, x.
        boxes: `boxes_of_labels` of the map, if the caller has them.

    Returns:
        The bounding box of the step's labels, empty if they do not occur; and its new content.

    Raises:
        SegflowError: The type of the map cannot hold the label that fills holes.
    """
    box = box_of(step.labels, [boxes_of_labels(label_map) if boxes is None else boxes])
    if box is None:
        box = Box((0, 0, 0), (0, 0, 0))
        return box, label_map[box.slices]
    part = label_map[box.slices].copy()
    mask = mask_of(part, step.labels)
    if step.kind == "keep_largest":
        part[mask & ~largest_components(mask)] = 0
    elif step.kind == "remove_small":
        voxel_mm3 = float(np.prod(physical_spacing(spacing, label_map.shape)))
        part[mask & ~components_from(mask, step.min_volume_mm3 / voxel_mm3)] = 0
    else:
        if step.fill_with > np.iinfo(label_map.dtype).max:
            raise SegflowError(
                "the label map cannot hold the label that holes are filled with",
                found=step.fill_with,
                expected=f"at most {np.iinfo(label_map.dtype).max}",
            )
        part[fill_holes(mask, flat=label_map.shape[0] == 1) & (part == 0)] = step.fill_with
    return box, part


def largest_components(mask: np.ndarray) -> np.ndarray:
    """The largest connected component, with diagonal neighbours, and all of the same size; bool (Z, Y, X)."""
    components, sizes = _components(mask)
    return _selected(components, sizes == sizes.max(initial=0))


def components_from(mask: np.ndarray, min_voxels: float) -> np.ndarray:
    """The connected components, with diagonal neighbours, of at least ``min_voxels``; bool (Z, Y, X)."""
    components, sizes = _components(mask)
    return _selected(components, sizes >= min_voxels)


def fill_holes(mask: np.ndarray, *, flat: bool = False) -> np.ndarray:
    """The mask with its holes: background that no path of face neighbours joins to the border. bool (Z, Y, X).

    Args:
        mask: bool (Z, Y, X).
        flat: It is a 2D image with one slice, so that only paths within the plane count.
    """
    if flat:
        return np.asarray(fill_voids.fill(mask[0]), dtype=bool)[np.newaxis]
    return np.asarray(fill_voids.fill(mask), dtype=bool)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each voxel's component, 0 for background; and the voxels of component 1, 2, …"""
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    return components, component_sizes(components, mask, count)


def _selected(components: np.ndarray, keep: np.ndarray) -> np.ndarray:
    selected: np.ndarray = np.concatenate([[False], keep])[components]
    return selected
