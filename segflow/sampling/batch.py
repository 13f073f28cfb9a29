"""What a loader hands over: a batch of patches, and how one patch is read from a stored case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE, LabelKey


class PatchBatch(NamedTuple):
    """A batch of patches.

    Attributes:
        image: float32 (B, C, *patch).
        label: int16 (B, 1, *patch); (B, 2, *patch) where channel 1 is the label of a previous stage that no transform
            has consumed yet.
        case_ids: The case of each sample.
    """

    image: torch.Tensor
    label: torch.Tensor
    case_ids: list[str]


class Locations(Protocol):
    """Where the foreground of a stored case lies."""

    @property
    def keys(self) -> tuple[LabelKey, ...]:
        """Labels and regions that the case has voxels of."""
        ...

    def count(self, key: LabelKey) -> int:
        """How many voxels are stored for a key."""
        ...

    def location(self, key: LabelKey, index: int) -> Sequence[int]:
        """One of them as (z, y, x), plan axes."""
        ...


class LabelSource(Protocol):
    """Something with a label map that can be read in parts."""

    def read_label(self, box: Box) -> np.ndarray:
        """int16 (*box); the box lies inside the case."""
        ...


class PatchSource(LabelSource, Protocol):
    """A stored case as sampling sees it; `segflow.storage.preprocessed.StoredCase` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels (z, y, x)."""
        ...

    @property
    def channels(self) -> int:
        """Image channels."""
        ...

    @property
    def foreground(self) -> Locations:
        """Where its foreground lies."""
        ...

    def read_image(self, box: Box) -> np.ndarray:
        """float32 (C, *box); the box lies inside the case."""
        ...


def read_patch(
    case: PatchSource,
    box: Box,
    *,
    image: np.ndarray,
    label: np.ndarray,
    previous_stage: LabelSource | None = None,
) -> None:
    """Read one patch into arrays of the box's shape (recipe 6.2).

    What lies outside the case is 0 in the image and -1 in the label. Only the part that the case has is read from
    disk.

    Args:
        case: The stored case.
        box: Box in plan axes; may stick out of the case.
        image: float (C, *box.shape), overwritten.
        label: integer (1 or 2, *box.shape), overwritten; channel 1 takes the label of the previous stage.
        previous_stage: Label of the previous stage on the same grid, where label has a second channel.
    """
    inside = box.clip(case.shape)
    if inside != box:
        image[...] = 0
        label[...] = OUTSIDE
    if 0 in inside.shape:
        return
    target = tuple(slice(a - o, b - o) for a, b, o in zip(inside.start, inside.stop, box.start, strict=True))
    image[(slice(None), *target)] = case.read_image(inside)
    label[(0, *target)] = case.read_label(inside)
    if previous_stage is not None:
        label[(1, *target)] = previous_stage.read_label(inside)
