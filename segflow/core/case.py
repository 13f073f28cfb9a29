"""One subject: its files, and its image and label map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.names import safe_name
from segflow.core.voxels import LabelSource, VoxelSource


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """The files of a case.

    Attributes:
        case_id: Name of the case, without channel suffix and file ending.
        images: One file per channel, in channel order; a file may itself hold several channels (RGB, 4D).
        label: The reference label map, or None for a case that is only to be predicted.
        missing: Numbers of the channels without a file, ascending; ``images`` has the others.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    missing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        safe_name(self.case_id, "the name of a case")

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of the channel of each file of ``images``."""
        return tuple(k for k in range(len(self.images) + len(self.missing)) if k not in self.missing)


@dataclass(frozen=True, slots=True)
class Case:
    """A case as read, in image space.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X); a 2D image has Z = 1.
        label: int16 (Z, Y, X), or None.
        geometry: Spacing in mm along z, y, x, and the values that the writer needs.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    geometry: Geometry
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenCase:
    """A case in image space whose voxels are read box by box.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X).
        label: (Z, Y, X), or None.
        geometry: Of the image.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: VoxelSource
    label: LabelSource | None
    geometry: Geometry
    missing: tuple[int, ...] = ()
