"""Cases made small enough for a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.reporting.reduced_case import reduce_case
from segflow.storage.images import reader_by_name

READER = reader_by_name("NibabelIO")
PLAIN = np.diag([-1.0, -1.0, 1.0, 1.0])  # x to the left, y to the back: as pages have it


def _write(file: Path, array: np.ndarray, affine: np.ndarray = PLAIN) -> Path:
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array.T), affine), file)
    return file


def _case(
    folder: Path, image: np.ndarray, label: np.ndarray, affine: np.ndarray = PLAIN
) -> tuple[list[Path], Mapping[str, Path]]:
    folder.mkdir(exist_ok=True)
    return (
        [_write(folder / "a_0000.nii.gz", image, affine)],
        {"reference": _write(folder / "a.nii.gz", label.astype(np.uint8), affine)},
    )


@pytest.fixture
def volume() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.zeros((12, 40, 36), np.uint8)
    label[5:8, 10:20, 12:30] = 2
    return rng.normal(size=label.shape).astype(np.float32), label


def test_a_small_case_stays_as_it_is(tmp_path: Path, volume: tuple[np.ndarray, np.ndarray]) -> None:
    image, label = volume
    case = reduce_case(*_case(tmp_path, image, label), READER, most_values=image.size)
    np.testing.assert_array_equal(case.image[0], image)
    np.testing.assert_array_equal(case.labels["reference"], label)
    assert case.spacing == (1.0, 1.0, 1.0)
    assert case.oriented
    assert case.notes == ()


def test_a_large_case_is_cut_to_its_labels_with_surroundings(tmp_path: Path) -> None:
    label = np.zeros((20, 100, 100), np.uint8)
    label[8:12, 40:50, 60:70] = 1
    image = np.arange(label.size, dtype=np.float32).reshape(label.shape)
    case = reduce_case(*_case(tmp_path, image, label), READER, most_values=60_000)
    np.testing.assert_array_equal(case.image[0], image[:, 25:65, 45:85])  # 15 mm on each side, as far as there is image
    np.testing.assert_array_equal(case.labels["reference"], label[:, 25:65, 45:85])
    assert "Cut from 20 × 100 × 100 voxels" in case.notes[0]


def test_what_is_ignored_does_not_widen_the_cut(tmp_path: Path) -> None:
    label = np.full((20, 100, 100), 3, np.uint8)
    label[:, 48:52, 48:52] = 1
    files = _case(tmp_path, label.astype(np.float32), label)
    assert reduce_case(*files, READER, most_values=60_000, ignored=3).image.shape[2:] == (34, 34)


def test_finest_axes_are_averaged_first(tmp_path: Path) -> None:
    affine = np.diag([-0.5, -0.5, 4.0, 1.0])
    image = np.random.default_rng(1).normal(size=(6, 64, 64)).astype(np.float32)
    label = np.random.default_rng(2).integers(0, 3, image.shape)
    case = reduce_case(*_case(tmp_path, image, label, affine), READER, most_values=6 * 32 * 32)
    assert case.image.shape == (1, 6, 32, 32)
    assert case.spacing == (4.0, 1.0, 1.0)
    np.testing.assert_allclose(case.image[0], image.reshape(6, 32, 2, 32, 2).mean((2, 4)), atol=1e-6)
    np.testing.assert_array_equal(case.labels["reference"], label[:, 1::2, 1::2])
    assert "averaged" in case.notes[-1]


def test_the_mean_is_kept_where_no_voxel_is_a_whole_number_of_others(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(size=(7, 50, 50)).astype(np.float32)
    files = _case(tmp_path, image, np.ones(image.shape))
    case = reduce_case(*files, READER, most_values=3000)
    assert case.image.size <= 3000
    assert abs(case.image.mean() - image.mean()) < 1e-6


def test_reading_slab_by_slab_changes_nothing(
    tmp_path: Path, volume: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _case(tmp_path, *volume)
    whole = reduce_case(*files, READER, most_values=5000)
    for most in (36 * 40 * 5, 36 * 7, 36):  # slices, rows, single rows
        monkeypatch.setattr("segflow.reporting.reduced_case.SLAB_VALUES", most)
        part = reduce_case(*files, READER, most_values=5000)
        np.testing.assert_allclose(part.image, whole.image, atol=1e-5)
        np.testing.assert_array_equal(part.labels["reference"], whole.labels["reference"])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL", "PIR"])
def test_the_patient_stands_upright_whatever_the_axes(tmp_path: Path, codes: str) -> None:
    shape_xyz = (10, 14, 6)
    array = np.zeros(shape_xyz, np.float32)
    array[1, 2, 4] = 1  # in RAS: left, back, up; so in pages' axes (L, P, S): far along x, far along y, high
    spacing = np.diag([1.0, 2.0, 3.0, 1.0])
    ras = nib.Nifti1Image(array, spacing)
    steps = nib.orientations.ornt_transform(nib.io_orientation(spacing), nib.orientations.axcodes2ornt(tuple(codes)))
    turned = ras.as_reoriented(steps)
    assert "".join(nib.aff2axcodes(turned.affine)) == codes
    nib.save(turned, tmp_path / "a_0000.nii.gz")
    case = reduce_case([tmp_path / "a_0000.nii.gz"], {}, READER, most_values=array.size)
    assert case.spacing == (3.0, 2.0, 1.0)
    assert [int(n) for n in np.argwhere(case.image[0])[0]] == [4, 14 - 1 - 2, 10 - 1 - 1]


def test_voxels_that_are_no_numbers_are_no_obstacle(tmp_path: Path) -> None:
    image = np.ones((4, 8, 8), np.float32)
    image[0, 0, 0], image[1, 1, 1] = np.nan, np.inf
    case = reduce_case(*_case(tmp_path, image, np.ones(image.shape)), READER, most_values=64)
    assert np.isfinite(case.image).all()


def test_maps_of_another_shape_are_refused(tmp_path: Path, volume: tuple[np.ndarray, np.ndarray]) -> None:
    image, label = volume
    with pytest.raises(SegflowError, match="image and reference differ in shape"):
        reduce_case(*_case(tmp_path, image, label[1:]), READER, most_values=100)
