"""What lies on no even grid is brought to one when told, and label maps are compared in the patient's space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import save, write_series
from pydicom import Dataset

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.dicom.even_grid import is_same_grid, label_on_grid, onto_grid
from segflow.storage.dicom.read_series import read_series
from segflow.storage.dicom.series import find_series
from segflow.storage.image_formats.placement import ItkPlacement


def read(folder: Path) -> tuple[np.ndarray, Geometry]:
    (series,) = find_series(folder)
    return read_series(series, resample=True)


def ramp(count: int = 7) -> np.ndarray:
    """Values that grow along z by 10 a slice and along x and y by 1 a voxel."""
    z, y, x = np.indices((count, 6, 8))
    return (10 * z + y + x).astype(np.int16)


def test_a_missing_slice_is_interpolated(tmp_path: Path) -> None:
    whole, place = read(write_series(tmp_path / "whole", ramp()))
    voxels, geometry = read(write_series(tmp_path / "gap", ramp(), lambda k, made: k != 3))
    np.testing.assert_array_equal(whole, ramp())
    np.testing.assert_array_equal(voxels, ramp())
    assert is_same_grid(voxels.shape, geometry, whole.shape, place)


def test_uneven_gaps_become_even(tmp_path: Path) -> None:
    heights = (0, 2, 4, 7, 9, 11, 14)

    def moved(number: int, made: Dataset) -> None:
        made.ImagePositionPatient = [0, 0, heights[number]]

    stored = np.stack([np.full((3, 4), 10 * height, np.int16) for height in heights])
    voxels, geometry = read(write_series(tmp_path, stored, moved))
    assert geometry.spacing == (2.0, 0.8, 0.5)
    np.testing.assert_array_equal(voxels[:, 0, 0], np.arange(0, 141, 20))


@pytest.mark.parametrize("place", [[0, 0, 5000], [1e12, 0, 17.5], [0, 9000, 17.5]])
def test_a_slice_far_away_is_no_reason_to_fill_in_a_large_volume(tmp_path: Path, place: list[float]) -> None:
    folder = write_series(
        tmp_path, ramp(), lambda k, made: setattr(made, "ImagePositionPatient", [0, 0, 2.5 * k] if k != 6 else place)
    )
    with pytest.raises(SegflowError, match="series would be mostly filled in; found"):
        read(folder)


def test_copies_of_a_slice_are_left_out(tmp_path: Path) -> None:
    def copied(number: int, made: Dataset) -> None:
        if number == 3:
            save(made, tmp_path / "again/021")

    write_series(tmp_path / "first", ramp(), copied)
    (series,) = find_series(tmp_path)
    with pytest.raises(SegflowError, match=r"first/021.*They are copies. Remove one of each, or resample=true"):
        read_series(series)
    np.testing.assert_array_equal(read(tmp_path)[0], ramp())


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tilted_series_becomes_straight(tmp_path: Path, sign: int) -> None:
    """A ball stays a ball, where ITK's world says that it is."""
    shape, centre = (20, 40, 40), np.array([10.0, 40.0, 120.0])
    axes = np.array([[1, 0, 0], [0, np.cos(0.3), sign * np.sin(0.3)]])

    def place(number: int) -> np.ndarray:
        return np.array([-10, 20 if sign > 0 else 30, 100.0]) + number * np.array([0, 0, 2.0])

    rows, columns = np.indices(shape[1:])
    points = [place(k) + rows[..., None] * axes[1] + columns[..., None] * axes[0] for k in range(shape[0])]
    ball = np.linalg.norm(np.array(points) - centre, axis=-1) < 8
    stored = np.where(ball, 1000, -1000).astype(np.int16)

    def tilted(number: int, made: Dataset) -> None:
        made.ImagePositionPatient = place(number).tolist()
        made.ImageOrientationPatient, made.PixelSpacing = axes.ravel().tolist(), [1, 1]

    voxels, geometry = read(write_series(tmp_path, stored, tilted))
    assert voxels.shape[1] > shape[1]
    image = sitk.GetImageFromArray((voxels > 0).astype(np.uint8))
    image.SetSpacing(geometry.header["spacing"])
    image.SetOrigin(geometry.header["origin"])
    image.SetDirection(geometry.header["direction"])
    seen = sitk.LabelShapeStatisticsImageFilter()
    seen.Execute(image)
    np.testing.assert_allclose(seen.GetCentroid(1), centre, atol=0.15)
    assert seen.GetPhysicalSize(1) == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.03)
    assert voxels.min() == -1000


def test_a_label_map_of_other_axes_is_turned_without_changing_a_voxel() -> None:
    geometry = ItkPlacement((0.5, 0.8, 2.5), (-10, 20, 100), tuple(np.eye(3).ravel())).to_geometry()
    label = np.random.default_rng(0).integers(0, 4, (6, 5, 4)).astype(np.int16)
    flipped = ItkPlacement(
        (0.8, 0.5, 2.5), (-10 + 3 * 0.5, 20, 100 + 5 * 2.5), (0, -1, 0, 1, 0, 0, 0, 0, -1)
    ).to_geometry()
    stored = np.ascontiguousarray(label.transpose(0, 2, 1)[::-1, ::-1])
    np.testing.assert_array_equal(label_on_grid(stored, flipped, label.shape, geometry, resample=False), label)


def test_a_label_map_of_another_grid_is_refused_or_resampled() -> None:
    geometry = ItkPlacement((1, 1, 1), (0, 0, 0), tuple(np.eye(3).ravel())).to_geometry()
    coarse = ItkPlacement((2, 2, 2), (0.5, 0.5, 0.5), tuple(np.eye(3).ravel())).to_geometry()
    label = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(np.int16)
    with pytest.raises(SegflowError, match=r"another grid.*resample=true"):
        label_on_grid(label, coarse, (6, 8, 10), geometry, resample=False)
    fine = label.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(label_on_grid(label, coarse, (6, 8, 10), geometry, resample=True), fine)
    np.testing.assert_array_equal(onto_grid(fine, geometry, (3, 4, 5), coarse, labels=True), label)


def test_a_real_label_map_fits_its_series(test_data: Path) -> None:
    from segflow.storage.readers import choose_reader

    folder = test_data / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    (series,) = find_series(folder / "ct_series")
    voxels, geometry = read_series(series)
    label, place = choose_reader(".nii.gz").read_label(folder / "ct_series_labels.nii.gz")
    turned = label_on_grid(label, place, voxels.shape, geometry, resample=False)
    resampled = onto_grid(label, place, voxels.shape, geometry, labels=True)
    np.testing.assert_array_equal(turned, resampled)
    assert not np.array_equal(turned, label)
    assert voxels[turned == 0].mean() < -300 < voxels[turned > 0].mean()  # air around the body
