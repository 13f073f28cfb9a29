"""The placement of a NIfTI's grid as its header stores it: two forms, their codes and their unit, number by number.

A reader must choose one form, and libraries choose differently, while viewers read both. A file that is written for an
image therefore repeats both forms of its header.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.plain_json import record_from
from segflow.storage.image_formats.nifti_fields import LENGTHS, Header
from segflow.storage.image_formats.placement import restore_orientation

KEY = "nifti"
"""Key of a geometry's header."""
METRE, MICRON = 1, 3
"""NIfTI's codes of units of length. Every other code means mm, as in other tools."""
UNIT_OF_LENGTH = 7
"""The bits of ``xyzt_units`` for the unit of length."""
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")
HALF_TURN = 1e-7
"""A quaternion whose first number squared is below this is a half turn, in which that number is 0."""
INVALID = 1e-3
"""A quaternion longer than 1 by more than this is none."""
VISIBLE = 0.1
"""Part of a voxel: forms that differ by less at every corner of the grid are the same placement."""


@dataclass(frozen=True, slots=True)
class NiftiForms:
    """The numbers of a header, in its own unit.

    Attributes:
        version: Version of NIfTI, 1 or 2. Programs may choose another form for the other version, or fail to read it.
        units: The header's ``xyzt_units``: unit of length and of time.
        pixdim: Handedness of the quaternion, then the distance of voxels along x, y, z.
        qform_code, sform_code: Meaning of the forms; 0 means that there is none.
        quaternion: b, c and d of the qform.
        offset: Position of the first voxel by the qform: x, y, z.
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
    def of(cls, header: Header) -> NiftiForms:
        """The forms of a header of either version."""
        return cls(
            version=2 if int(header["sizeof_hdr"]) == LENGTHS[2] else 1,
            units=int(header["xyzt_units"]),
            pixdim=_numbers(header["pixdim"][:4]),
            qform_code=int(header["qform_code"]),
            sform_code=int(header["sform_code"]),
            quaternion=_numbers([header[name] for name in QUATERNION]),
            offset=_numbers([header[name] for name in OFFSET]),
            rows=tuple(_numbers(header[name]) for name in ROWS),
        )

    def write_to(self, header: Header) -> None:
        """Write the same numbers into another header."""
        header["xyzt_units"] = self.units
        header["pixdim"][:4] = self.pixdim
        header["qform_code"], header["sform_code"] = self.qform_code, self.sform_code
        for names, values in ((QUATERNION, self.quaternion), (OFFSET, self.offset), (ROWS, self.rows)):
            for name, value in zip(names, values, strict=True):
                header[name] = value

    def in_mm(self, lengths: Any) -> Any:
        """Lengths in the header's unit → mm; a number or an array."""
        unit = self.units & UNIT_OF_LENGTH
        return lengths * 1000 if unit == METRE else lengths / 1000 if unit == MICRON else lengths

    def affine_in_mm(self, affine: np.ndarray) -> np.ndarray:
        """An affine in the header's unit → float64 (4, 4) in mm."""
        scaled = np.array(affine, dtype=np.float64)
        scaled[:3] = self.in_mm(scaled[:3])
        return scaled

    def apart(self, size: Sequence[int]) -> float | None:
        """Largest distance between the positions that the two forms give to a corner of the grid.

        Args:
            size: Voxels along the file's x, y, z.

        Returns:
            mm at the worst corner; None if the header lacks a form, or one is invalid.
        """
        qform = None if self.qform_code == 0 or self.sform_code == 0 else self.qform_rows()
        if qform is None:
            return None
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in size))])
        distance = float(np.linalg.norm((np.array(qform) - np.array(self.rows)) @ corners.T, axis=0).max())
        return float(self.in_mm(distance)) if np.isfinite(distance) else None

    def qform_rows(self) -> list[list[float]] | None:
        """The qform as three rows of four, as the NIfTI library computes it in single precision; None if invalid."""
        exact = np.longdouble
        b, c, d = self.quaternion
        rest = float(exact(1.0) - exact(b * b + c * c + d * d))
        if not rest > -INVALID or not all(map(math.isfinite, self.offset)):
            return None
        if rest < HALF_TURN:
            unit = float(exact(1.0) / exact(math.sqrt(b * b + c * c + d * d)))
            a, b, c, d = 0.0, b * unit, c * unit, d * unit
        else:
            a = math.sqrt(rest)
        x, y, z = self.pixdim[1:4]
        z = -z if self.pixdim[0] < 0 else z
        two = exact(2.0)
        turn: tuple[tuple[Any, ...], ...] = (
            ((a * a + b * b - c * c - d * d) * x, two * (b * c - a * d) * y, two * (b * d + a * c) * z),
            (two * (b * c + a * d) * x, (a * a + c * c - b * b - d * d) * y, two * (c * d - a * b) * z),
            (two * (b * d - a * c) * x, two * (c * d + a * b) * y, (a * a + d * d - c * c - b * b) * z),
        )
        return [[*(float(np.float32(n)) for n in row), at] for row, at in zip(turn, self.offset, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON for a geometry's header."""
        return {
            "version": self.version,
            "units": self.units,
            "pixdim": list(self.pixdim),
            "qform_code": self.qform_code,
            "sform_code": self.sform_code,
            "quaternion": list(self.quaternion),
            "offset": list(self.offset),
            "rows": [list(row) for row in self.rows],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NiftiForms:
        """Inverse of `to_json`."""
        return record_from(value, cls)


def give_hand(header: Header) -> None:
    """Mark a header's quaternion as right-handed if the header leaves that open, as the standard says."""
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0


def forms_of(geometry: Geometry) -> NiftiForms | None:
    """The forms of the NIfTI header that a geometry comes from, if it comes from one."""
    stored = geometry.header.get(KEY)
    return None if stored is None else NiftiForms.from_json(stored)


def form_conflict(geometry: Geometry, shape: Sequence[int]) -> str | None:
    """The conflict of an image whose header places it twice in the patient.

    Args:
        geometry: The image's geometry.
        shape: Its voxels along z, y, x.

    Returns:
        The conflict in words; None if the two forms agree, or if there is only one.
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
