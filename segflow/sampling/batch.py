"""Batches of patches, and reading of a patch from a stored case."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE
from segflow.storage.stored_case import StoredCase


class PatchBatch(NamedTuple):
    """A batch of patches.

    Attributes:
        image: float32 (B, C, *patch).
        label: int16 (B, 1, *patch); (B, 2, *patch) if channel 1 is the label of a previous stage that no transform has
            used yet.
        case_ids: The case of each sample.
        labels_present: bool (B, F), whether the label map of each sample tells of each foreground label or region;
            None if all do.
        channels_present: bool (B, C), whether each channel of the image is there; None if all are.
        distances: float32 (B, F, *patch), the signed distance of each voxel to the surface of each foreground label or
            region, negative inside; None if the loss needs none.
    """

    image: torch.Tensor
    label: torch.Tensor
    case_ids: list[str]
    labels_present: torch.Tensor | None = None
    channels_present: torch.Tensor | None = None
    distances: torch.Tensor | None = None


def network_input(image: torch.Tensor, present: torch.Tensor | None, *, mask: bool) -> torch.Tensor:
    """What a network is given of a batch whose samples may lack channels.

    Args:
        image: (B, C + further channels, *patch); the first C are the image's own.
        present: bool (B, C), whether each of these is there; None if all are, and there is no mask.
        mask: Whether the network is told, by one more channel of 0 or 1 for each.

    Returns:
        The image with 0 in channels that are missing; (B, 2 C + further channels, *patch) with a mask.
    """
    if present is None:
        return image
    channels = present.shape[1]
    there = present.to(image.device)[(..., *(None,) * (image.ndim - 2))]
    own = image[:, :channels].masked_fill(~there, 0)
    told = [there.to(image.dtype).expand_as(own)] if mask else []
    return torch.cat([own, image[:, channels:], *told], dim=1)


def read_patch(
    case: StoredCase,
    box: Box,
    *,
    image: np.ndarray,
    label: np.ndarray,
    previous_stage: StoredCase | None = None,
) -> None:
    """Read one patch into arrays of the box's shape (recipe 6.2).

    Outside the case the image is 0 and the label -1. Only the part within the case is read from disk.

    Args:
        case: The stored case.
        box: Box in plan axes, which may reach beyond the case.
        image: float (C, *box.shape), overwritten.
        label: integer (1 or 2, *box.shape), overwritten; channel 1 takes the label of the previous stage.
        previous_stage: Label of the previous stage on the same grid, if ``label`` has a second channel.

    Raises:
        SegflowError: The previous stage has another grid, or a file is damaged.
    """
    if previous_stage is not None and tuple(previous_stage.shape) != tuple(case.shape):
        raise SegflowError(
            "the label of the previous stage has another shape than the case",
            case=case.case_id,
            found=list(previous_stage.shape),
            expected=list(case.shape),
            fix="Make the previous stage's predictions anew.",
        )
    inside = box.clip(case.shape)
    if inside != box:
        image[...] = 0
        label[...] = OUTSIDE
    if 0 in inside.shape:
        return
    target: tuple[Any, ...] = tuple(
        slice(a - o, b - o) for a, b, o in zip(inside.start, inside.stop, box.start, strict=True)
    )
    image[(slice(None), *target)] = case.read_image(inside)
    label[(0, *target)] = case.read_label(inside)
    if previous_stage is not None:
        label[(1, *target)] = previous_stage.read_label(inside)
