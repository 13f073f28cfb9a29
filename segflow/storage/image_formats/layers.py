"""One label map from several layers; 3D Slicer saves segments that may overlap as layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segflow.core.errors import SegflowError

EXPORT = "Export it as one label map (3D Slicer, Segmentations: Export to new labelmap, then save that)."


def one_layer(layers: np.ndarray, file: Path) -> np.ndarray:
    """Merge the layers of a segmentation.

    Args:
        layers: (L, Z, Y, X). A segment is the voxels of one value in one layer.
        file: Named in the error.

    Returns:
        (1, Z, Y, X) of the same type.

    Raises:
        SegflowError: Segments overlap, or segments of two layers have the same value.
    """
    if layers.shape[0] == 1:
        return layers
    filled = (layers != 0).sum(axis=0)
    if overlapping := int((filled > 1).sum()):
        raise _layered(file, layers, f"whose segments overlap in {overlapping} voxels")
    seen: dict[float, int] = {}
    for number, layer in enumerate(layers):
        for value in np.unique(layer[layer != 0]).tolist():
            if value in seen:
                found = f"whose segments have the same value: {value:g} in layers {seen[value]} and {number}"
                raise _layered(file, layers, found)
            seen[value] = number
    one: np.ndarray = layers.sum(axis=0, keepdims=True, dtype=layers.dtype)
    return one


def _layered(file: Path, layers: np.ndarray, found: str) -> SegflowError:
    return SegflowError(
        f"{file.name} is a layered segmentation, not one label map",
        found=f"{layers.shape[0]} layers, {found}",
        expected="one number per voxel",
        fix=EXPORT,
    )
