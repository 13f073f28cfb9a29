"""Where a NIfTI header says that its grid lies: two forms, their codes and their unit, number by number.

A reader must choose one form (libraries choose differently), but viewers read both. What is written for an image
therefore repeats its header, rather than saying in both forms what one of them said.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from segflow.core.geometry import Geometry
from segflow.storage.image_formats.placement import restore_orientation

KEY = "nifti"
"""Of a geometry's header."""
METRE, MICRON = 1, 3
"""Codes of units of length; all others are taken for mm, as every other tool does."""
UNIT_OF_LENGTH = 7
"""The bits of ``xyzt_units`` that say it."""
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")
VISIBLE = 0.1
"""Of a voxel: forms that differ by less at every corner of the grid are one place."""


@dataclass(frozen=True, slots=True)
class NiftiForms:
    """A header's own numbers, in its own unit.

    Attributes:
        version: Of NIfTI, 1 or 2; programs that read one choose other forms, or fail, for the other.
        units: The header's ``xyzt_units``: unit of length and of time.
        pixdim: Handedness of the quaternion, then the distance of voxels along x, y, z.
        qform_code, sform_code: What the forms stand for; 0 says that there is none.
        quaternion: b, c and d of the qform.
        offset: Place of the first voxel by the qform: x, y, z.
        rows: The sform's three rows of four.
    """

    version: int
    units: int
    pixdim: tuple[float, ...]
    qform_code: int
    sform_code: int
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, header: nibabel.Nifti1Header) -> NiftiForms:
        """What a header of either version says."""
        return cls(
            version=2 if isinstance(header, nibabel.Nifti2Header) else 1,
            units=int(header["xyzt_units"]),
            pixdim=_numbers(header["pixdim"][:4]),
            qform_code=int(header["qform_code"]),
            sform_code=int(header["sform_code"]),
            quaternion=_numbers([header[name] for name in QUATERNION]),
            offset=_numbers([header[name] for name in OFFSET]),
            rows=tuple(_numbers(header[name]) for name in ROWS),
        )

    def write_to(self, header: nibabel.Nifti1Header) -> None:
        """Say the same in another header."""
        header["xyzt_units"] = self.units
        header["pixdim"][:4] = self.pixdim
        header["qform_code"], header["sform_code"] = self.qform_code, self.sform_code
        for names, values in ((QUATERNION, self.quaternion), (OFFSET, self.offset), (ROWS, self.rows)):
            for name, value in zip(names, values, strict=True):
                header[name] = value

    def in_mm(self, lengths: Any) -> Any:
        """Lengths of the header's unit in mm; a number or an array."""
        unit = self.units & UNIT_OF_LENGTH
        return lengths * 1000 if unit == METRE else lengths / 1000 if unit == MICRON else lengths

    def affine_in_mm(self, affine: np.ndarray) -> np.ndarray:
        """float64 (4, 4) into the patient in mm, of one in the header's unit."""
        scaled = np.array(affine, dtype=np.float64)
        scaled[:3] = self.in_mm(scaled[:3])
        return scaled

    def apart(self, size: Sequence[int]) -> float | None:
        """How far the two forms put a corner of the grid from each other.

        Args:
            size: Voxels along the file's x, y, z.

        Returns:
            mm at the corner where it is most; None where the header has not both, or one cannot be understood.
        """
        header = nibabel.Nifti2Header()
        self.write_to(header)
        give_hand(header)
        try:
            qform, sform = header.get_qform(coded=True)[0], header.get_sform(coded=True)[0]
        except HeaderDataError:
            return None
        if qform is None or sform is None:
            return None
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in size))])
        distance = float(np.linalg.norm((qform - sform) @ corners.T, axis=0).max())
        return float(self.in_mm(distance)) if np.isfinite(distance) else None

    def to_json(self) -> dict[str, Any]:
        """For a geometry's header."""
        lists = {"pixdim": self.pixdim, "quaternion": self.quaternion, "offset": self.offset}
        return {
            **asdict(self),
            **{name: list(numbers) for name, numbers in lists.items()},
            "rows": [list(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NiftiForms:
        """Inverse of `to_json`."""
        return cls(
            version=int(value["version"]),
            units=int(value["units"]),
            pixdim=_numbers(value["pixdim"]),
            qform_code=int(value["qform_code"]),
            sform_code=int(value["sform_code"]),
            quaternion=_numbers(value["quaternion"]),
            offset=_numbers(value["offset"]),
            rows=tuple(_numbers(row) for row in value["rows"]),
        )


def give_hand(header: nibabel.Nifti1Header) -> None:
    """Say in a header that its quaternion is right-handed, where it leaves that open, as the standard wants it read."""
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0


def forms_of(geometry: Geometry) -> NiftiForms | None:
    """What the NIfTI header said that a geometry comes from, if it comes from one."""
    stored = geometry.header.get(KEY)
    return None if stored is None else NiftiForms.from_json(stored)


def form_conflict(geometry: Geometry, shape: Sequence[int]) -> str | None:
    """Where an image has two places in the patient.

    Args:
        geometry: Of an image.
        shape: Its voxels along z, y, x.

    Returns:
        What the two forms say, in words; None where they agree, or where there are no two.
    """
    forms = forms_of(geometry)
    if forms is None:
        return None
    in_file, own = restore_orientation(np.broadcast_to(np.zeros((), bool), tuple(shape)), geometry)
    distance = forms.apart(in_file.shape[::-1])
    if distance is None or distance <= VISIBLE * min(own.spacing):
        return None
    return (
        f"its sform (code {forms.sform_code}) and its qform (code {forms.qform_code}) place it up to "
        f"{distance:.3g} mm apart"
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
