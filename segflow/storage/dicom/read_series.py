"""The voxels of a series of DICOM images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.execution.machine import check_room
from segflow.storage.dicom.even_grid import evened, without_copies
from segflow.storage.dicom.frames import frame_values, stored_frames
from segflow.storage.dicom.series import DicomSeries, DicomSlice
from segflow.storage.dicom.series_checks import check_series

WHOLE_TYPES = (np.int16, np.int32)
VALUE_BYTES = 8
"""Bytes for each voxel while a series is read: values, and those with the padding replaced."""


def read_series(series: DicomSeries, *, resample: bool = False) -> tuple[np.ndarray, Geometry]:
    """Read a series as one volume.

    Stored values are rescaled slice by slice. Voxels of PixelPaddingValue become the lowest measured value of a CT,
    and 0 in other images, since nothing was measured there.

    Args:
        series: The series.
        resample: Bring it to an even grid if slices are missing, uneven, sheared or there twice; see `evened`. False
            refuses it.

    Returns:
        (Z, Y, X): int16 or int32 if all values are whole numbers, else float32; z grows along the normal of the slices,
        y along columns and x along rows. And its geometry.

    Raises:
        SegflowError: The series has defects, does not fit into memory, or a file cannot be read. The error names the
            series, and the slice or file.
    """
    check_series(series, resampled=resample)
    series = without_copies(series) if resample else series
    try:
        values = read_slices(series)
        if not resample:
            return values, series.geometry
        return evened(values, series, outside_of(values, series))
    except SegflowError as error:
        raise error.changed(problem=f"{series.title}: {error.problem}") from error


def outside_of(values: np.ndarray, series: DicomSeries) -> float:
    """The value of places that were not measured: the lowest of a CT (Z, Y, X), and 0 in other images."""
    return float(values.min()) if series.modality == "CT" and values.size else 0.0


def read_slices(series: DicomSeries) -> np.ndarray:
    """The values of all slices, (slices, rows, columns), in their order; see `read_series`."""
    z, y, x = series.shape
    check_room(VALUE_BYTES * z * y * x, series.title, found=f"{z} slices of {y} × {x}")
    place = {(one.file, one.frame): k for k, one in enumerate(series.slices)}
    whole = all(one.slope.is_integer() and one.intercept.is_integer() for one in series.slices)
    volume = np.empty((z, y, x), np.int32 if whole else np.float32)
    padded: list[tuple[int, np.ndarray]] = []
    in_files = sorted(series.slices, key=lambda one: (one.file, one.frame))
    for file, group in groupby(in_files, key=lambda one: one.file):
        slices: Sequence[DicomSlice] = list(group)
        frames, pixels = stored_frames(file, [one.frame for one in slices])
        for one, (stored, padding) in zip(slices, frame_values(pixels, frames), strict=True):
            index = place[file, one.frame]
            volume[index] = _rescaled(stored, one, volume.dtype)
            if padding is not None:
                padded.append((index, padding))
    return _smallest(_without_padding(volume, padded, series.modality))


def _rescaled(stored: np.ndarray, one: DicomSlice, dtype: np.dtype) -> np.ndarray:
    if stored.shape != (one.rows, one.columns):
        raise SegflowError(
            f"{one.file} changed while it was read", found=stored.shape, expected=(one.rows, one.columns)
        )
    if one.slope == 0:
        raise SegflowError(
            f"{one.file} has RescaleSlope 0, with which all its voxels would be the same",
            fix="Export it again from where it comes from.",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64) * one.slope + one.intercept
    most = np.iinfo(dtype).max if dtype.kind == "i" else np.finfo(dtype).max
    if values.size and not np.abs(values).max() <= most:  # false for NaN
        raise SegflowError(f"{one.file} has values beyond all bounds", found=f"slope {one.slope:g}", expected="numbers")
    return values.astype(dtype)


def _without_padding(volume: np.ndarray, padded: Sequence[tuple[int, np.ndarray]], modality: str) -> np.ndarray:
    if not padded:
        return volume
    outside = 0
    if modality == "CT":
        masks = dict(padded)
        lowest = [
            volume[k][~masks[k]].min() if k in masks else volume[k].min()
            for k in range(len(volume))
            if k not in masks or not masks[k].all()
        ]
        outside = min(lowest) if lowest else 0
    for index, mask in padded:
        volume[index][mask] = outside
    return volume


def _smallest(volume: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest of `WHOLE_TYPES`."""
    if volume.dtype.kind != "i" or not volume.size:
        return volume
    low, high = volume.min(), volume.max()
    dtype = next(kind for kind in WHOLE_TYPES if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return volume.astype(dtype, copy=False)
