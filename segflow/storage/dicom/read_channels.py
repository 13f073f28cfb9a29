"""The channels of a case on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.dicom.even_grid import is_same_grid, onto_grid
from segflow.storage.dicom.read_series import outside_of, read_series
from segflow.storage.dicom.series import DicomSeries
from segflow.storage.image_formats.contract import mm


def read_channels(channels: Sequence[DicomSeries], *, resample: bool = False) -> Iterator[tuple[np.ndarray, Geometry]]:
    """Read one channel after another, each on the grid of the first.

    Args:
        channels: Series, in the order of the channels.
        resample: Bring series to an even grid and channels to the grid of the first; false refuses what is not there.

    Yields:
        (Z, Y, X) as `read_series` gives it, and the geometry of the first.

    Raises:
        SegflowError: A series has defects or cannot be read, or lies on another grid than the first.
    """
    first: DicomSeries | None = None
    shape, geometry = (0, 0, 0), Geometry((1.0, 1.0, 1.0))
    for series in channels:
        values, own = read_series(series, resample=resample)
        if first is None:
            first, geometry, shape = series, own, values.shape
        elif not is_same_grid(values.shape, own, shape, geometry):
            if (problem := _why_not(series, first, resample)) is not None:
                found = f"{values.shape} voxels (z, y, x) of {mm(own)}"
                raise problem.changed(found=found, expected=f"{shape} voxels of {mm(geometry)} at the same place")
            values = onto_grid(values, own, shape, geometry, outside=outside_of(values, series))
        yield values, geometry


def _why_not(series: DicomSeries, first: DicomSeries, resample: bool) -> SegflowError | None:
    """Why a series may not be brought to the grid of the first; None if it may."""
    problem = f"{series.title} and {first.title} lie on different grids"
    if not resample:
        return SegflowError(problem, fix="resample=true brings all channels to the grid of the first.")
    if series.frame_of_reference != first.frame_of_reference:
        problem += ", and have different frames of reference"
        return SegflowError(problem, fix="Register one with the other first.")
    return None
