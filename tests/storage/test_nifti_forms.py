"""What is written for a NIfTI says of its place what the NIfTI says: both forms, their codes and the unit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.geometry import Geometry
from segflow.inference.image_objects import image_object
from segflow.storage.image_formats.placement import reorient
from segflow.storage.images import form_conflict, reader_by_name, same_placement

READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
PLACE = (
    *("xyzt_units", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
MM_PER_UNIT = {"mm": 1.0, "micron": 1e-3, "meter": 1e3, "unknown": 1.0}
TILT = np.deg2rad(20)
QFORM = np.array([[0.5, 0, 0, 10], [0, 0.75, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
SFORM = np.array(
    [
        [0.5 * np.cos(TILT), -0.75 * np.sin(TILT), 0, -40],
        [0.5 * np.sin(TILT), 0.75 * np.cos(TILT), 0, -60],
        [0, 0, 2, -20],
        [0, 0, 0, 1],
    ]
)
SHEARED = np.array([[0.5, 0.3, 0, 5], [0, 0.75, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])
MIRRORED = QFORM @ np.diag([-1, 1, 1, 1])
SAGITTAL = np.array([[0, 0, 2, 10], [0.5, 0, 0, 20], [0, 0.75, 0, 30], [0, 0, 0, 1.0]])


def image_of(
    shape: tuple[int, ...] = (3, 4, 5),
    *,
    sform: np.ndarray = QFORM,
    qform: np.ndarray = QFORM,
    codes: tuple[int, int] = (1, 1),
    unit: str = "mm",
    kind: type = nibabel.Nifti1Image,
) -> nibabel.Nifti1Image:
    image = kind(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), None)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    image.header["pixdim"][1:4] = (0.5, 0.75, 2.0)
    image.header.set_xyzt_units(unit, "sec")
    return image


def saved(image: nibabel.Nifti1Image, file: Path) -> Path:
    nibabel.save(image, file)
    return file


def assert_same_place(one: Path, other: Path) -> None:
    first, second = nibabel.load(one).header, nibabel.load(other).header
    for name in PLACE:
        said, written = (header[name][:4] if name == "pixdim" else header[name] for header in (first, second))
        np.testing.assert_array_equal(said, written, err_msg=name)


@pytest.mark.parametrize("name", READERS)
def test_a_label_map_repeats_the_forms_codes_and_unit_of_its_image(tmp_path: Path, name: str) -> None:
    reader = reader_by_name(name)
    places = [(SFORM, QFORM), (QFORM, SFORM), (MIRRORED, MIRRORED), (SHEARED, QFORM), (SAGITTAL, MIRRORED)]
    codes = [(1, 1), (4, 1), (0, 3), (2, 0), (0, 0), (5, 5)]
    units = itertools.cycle(MM_PER_UNIT)
    for ((sform, qform), pair), unit in zip(itertools.product(places, codes), units, strict=False):
        image = image_of(sform=sform, qform=qform, codes=pair, unit=unit)
        file = saved(image, tmp_path / "a_0000.nii")
        voxels, geometry = reader.read_image([file])
        stored = json.loads(json.dumps(geometry.header))  # as preprocessed cases keep it
        assert stored == geometry.header
        reader.write_label(voxels[0].astype(np.int16), Geometry(geometry.spacing, stored), tmp_path / "a.nii")
        assert_same_place(file, tmp_path / "a.nii")
        written = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
        np.testing.assert_array_equal(written, np.asarray(image.dataobj))
        label, again = reader.read_label(tmp_path / "a.nii")
        np.testing.assert_array_equal(label, voxels[0])
        assert again == geometry


@pytest.mark.parametrize("hand", [0.0, np.nan, 3.0, -2.0])
@pytest.mark.parametrize("name", READERS)
def test_a_header_that_leaves_the_hand_of_its_quaternion_open_is_read(tmp_path: Path, name: str, hand: float) -> None:
    reader, file = reader_by_name(name), saved(image_of(codes=(0, 1)), tmp_path / "a_0000.nii")
    content = bytearray(file.read_bytes())
    content[76:80] = np.float32(hand).tobytes()
    file.write_bytes(content)
    voxels, geometry = reader.read_image([file])
    expected, mended = reader.read_image([saved(nibabel.load(file), tmp_path / "b_0000.nii")])
    if hand >= 0:  # nibabel takes any other number for 1
        np.testing.assert_array_equal(voxels, expected)
        assert same_placement(geometry, mended)
    reader.write_label(voxels[0].astype(np.int16), geometry, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[76:80] == content[76:80]


@pytest.mark.parametrize("unit", MM_PER_UNIT)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", READERS)
def test_lengths_are_mm_whatever_the_file_counts_in(tmp_path: Path, name: str, kind: type, unit: str) -> None:
    reader, scale = reader_by_name(name), MM_PER_UNIT[unit]
    _, expected = reader.read_image([saved(image_of(kind=kind), tmp_path / "mm.nii.gz")])
    file = saved(image_of(kind=kind, unit=unit), tmp_path / "a.nii.gz")
    for geometry in (reader.read_image([file])[1], reader.read_label(file)[1], reader.read_header(file).geometry):
        np.testing.assert_allclose(geometry.spacing, np.multiply(expected.spacing, scale))
        assert same_placement(geometry, expected) == (scale == 1.0)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("place", [QFORM, SAGITTAL, SHEARED], ids=["axial", "sagittal", "sheared"])
def test_a_plane_keeps_its_height_and_thickness(tmp_path: Path, name: str, kind: type, place: np.ndarray) -> None:
    """ITK refuses planes that are not axial, sheared ones, and NIfTI-2."""
    image = image_of((4, 5), sform=place, qform=QFORM if place is SHEARED else place, kind=kind, unit="micron")
    file, reader = saved(image, tmp_path / "a_0000.nii.gz"), reader_by_name(name)
    voxels, geometry = reader.read_image([file])
    np.testing.assert_array_equal(voxels[0, 0], np.asarray(image.dataobj).T)
    np.testing.assert_allclose(geometry.spacing, (0.75e-3 * 999, 0.75e-3, 0.5e-3))
    assert reader.read_header(file).shape == (1, 5, 4)
    reader.write_label(voxels[0].astype(np.int16), geometry, tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (4, 5)
    assert_same_place(file, tmp_path / "a.nii.gz")
    assert same_placement(reader.read_label(tmp_path / "a.nii.gz")[1], geometry)


def test_a_label_map_for_another_kind_of_file_lies_where_its_image_lies(tmp_path: Path) -> None:
    file = saved(image_of(unit="micron"), tmp_path / "a_0000.nii")
    reader = reader_by_name("SimpleITKIO")
    _, geometry = reader.read_image([file])
    reader.write_label(np.ones((5, 4, 3), np.int16), geometry, tmp_path / "a.nrrd")
    one, other = sitk.ReadImage(str(file)), sitk.ReadImage(str(tmp_path / "a.nrrd"))
    np.testing.assert_allclose(one.GetSpacing(), other.GetSpacing())
    np.testing.assert_allclose(one.GetOrigin(), other.GetOrigin())


@pytest.mark.parametrize("name", READERS)
def test_two_places_of_one_image_are_told(tmp_path: Path, name: str) -> None:
    def conflict(**place: object) -> str | None:
        file = saved(image_of((30, 40, 50), **place), tmp_path / "a_0000.nii")  # type: ignore[arg-type]
        voxels, geometry = reader_by_name(name).read_image([file])
        return form_conflict(geometry, voxels.shape[1:])

    moved = QFORM.copy()
    moved[2, 3] += 0.04
    assert conflict() is None
    assert conflict(sform=MIRRORED, qform=MIRRORED, codes=(4, 2)) is None
    assert conflict(sform=moved) is None  # less than a tenth of a voxel
    moved[2, 3] += 7.0
    message = conflict(sform=moved, codes=(4, 1))
    assert message is not None
    assert "sform (code 4)" in message
    assert "qform (code 1)" in message
    assert "7.04 mm apart" in message
    assert "0.00704 mm apart" in (conflict(sform=moved, unit="micron") or "")
    assert conflict(sform=moved, codes=(0, 1)) is None
    assert conflict(sform=moved, codes=(4, 0)) is None
    assert conflict(sform=SFORM) is not None


@pytest.mark.parametrize("turn_to_ras", [False, True])
@pytest.mark.parametrize("unit", MM_PER_UNIT)
def test_an_image_in_memory_is_taken_in_mm_and_given_back_in_its_unit(unit: str, turn_to_ras: bool) -> None:
    image = image_of(sform=SAGITTAL, qform=MIRRORED, codes=(4, 1), unit=unit)
    made = image_object(image, turn=reorient if turn_to_ras else None)
    np.testing.assert_allclose(sorted(made.case.geometry.spacing), np.multiply((0.5, 0.75, 2.0), MM_PER_UNIT[unit]))
    back = made.label_map(made.case.image[0].astype(np.int16))
    for name in PLACE:
        np.testing.assert_array_equal(back.header[name], image.header[name], err_msg=name)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(image.dataobj))


def test_a_plane_in_memory_comes_back_as_a_plane() -> None:
    image = image_of((4, 5), sform=SAGITTAL, qform=SAGITTAL, unit="micron")
    made = image_object(image)
    assert made.case.image.shape == (1, 1, 5, 4)
    np.testing.assert_allclose(made.case.geometry.spacing, (0.75e-3 * 999, 0.75e-3, 0.5e-3))
    back = made.label_map(made.case.image[0].astype(np.int16))
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(image.dataobj))
    np.testing.assert_array_equal(back.affine, image.affine)
