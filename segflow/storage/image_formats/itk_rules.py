"""The placement that ITK gives to a NIfTI, from its header alone, where ITK's rules leave no doubt.

ITK weighs the two forms of a header in steps that have tolerances. The outcome is certain for a header far from all of
them, and this spares opening the file with ITK, which takes longer than reading a small image. ITK is asked about
every other header.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from segflow.storage.image_formats.nifti_files import NiftiHeader
from segflow.storage.image_formats.nifti_forms import HALF_TURN, METRE, MICRON, UNIT_OF_LENGTH, NiftiForms
from segflow.storage.image_formats.placement import ItkPlacement

SCANNER = 1
"""Code of a form in the scanner's own coordinates. ITK prefers such an sform to any qform."""
ORTHONORMAL = 5e-5
"""Half of ITK's tolerance for right angles, so that its rounding to single precision decides nothing."""
SAME_LENGTH = 5e-4
"""mm, half of the difference between spacing and sform from which on ITK warns."""
LEAST_MM, MOST_MM = 1e-2, 1e4
"""Lengths between which ITK's test of an invertible sform never fails."""

Rows = Sequence[Sequence[float]]
"""The upper three rows of a matrix: index (x, y, z, 1) → RAS+ mm."""


def certain_placement(nifti: NiftiHeader) -> ItkPlacement | None:
    """The placement that ITK would read, to the last bit; None if ITK must be asked."""
    forms = nifti.forms
    spacing = forms.pixdim[1:4]
    if not nifti.is_plain or forms.version != 1 or len(nifti.size) not in (3, 4):
        return None
    if forms.units & UNIT_OF_LENGTH in (METRE, MICRON) or not all(LEAST_MM <= s <= MOST_MM for s in spacing):
        return None
    if forms.qform_code <= 0 and forms.sform_code <= 0:
        return ItkPlacement(spacing, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    rows = _certain_rows(forms)
    if rows is None or not all(abs(row[3]) <= MOST_MM for row in rows):
        return None
    signs = (-1.0, -1.0, 1.0)  # RAS to LPS
    columns = [_normalized([sign * row[axis] for sign, row in zip(signs, rows, strict=True)]) for axis in range(3)]
    direction = tuple(column[axis] for axis in range(3) for column in columns)
    return ItkPlacement(spacing, (-rows[0][3], -rows[1][3], rows[2][3]), direction)


def _certain_rows(forms: NiftiForms) -> Rows | None:
    """The form that ITK takes; None if that is in doubt."""
    if forms.sform_code <= 0:
        return _qform_rows(forms)
    if not _is_plain_grid(forms.rows, forms.pixdim[1:4]):
        return None
    if forms.qform_code <= 0 or forms.sform_code == SCANNER:
        return forms.rows
    return forms.rows if _qform_rows(forms) == [list(row) for row in forms.rows] else None


def _is_plain_grid(rows: Rows, spacing: Sequence[float]) -> bool:
    """Whether an sform is clearly without shear, and its steps are those of the spacing."""
    columns = [[row[axis] for row in rows] for axis in range(3)]
    if not all(abs(math.hypot(*column) - s) < SAME_LENGTH for column, s in zip(columns, spacing, strict=True)):
        return False  # also if a number is not finite
    unit = [_normalized(column) for column in columns]
    products = [[sum(u[i] * u[j] for u in unit) - (i == j) for i in range(3)] for j in range(3)]
    return all(abs(product) < ORTHONORMAL for row in products for product in row)


def _qform_rows(forms: NiftiForms) -> Rows | None:
    """The qform as a matrix; None if it may or may not be a half turn."""
    rest = 1.0 - sum(n * n for n in forms.quaternion)
    return None if abs(rest - HALF_TURN) < HALF_TURN / 10 else forms.qform_rows()


def _normalized(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(sum(n * n for n in vector))
    return [n / length for n in vector]
