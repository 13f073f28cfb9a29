"""The placement of a NIfTI without ITK is the one that ITK reads, to the last bit."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segflow.storage.image_formats.itk_rules import certain_placement
from segflow.storage.image_formats.nifti_files import read_nifti_header
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO

KINDS = ("turned", "axes", "plain", "tilted")


@pytest.fixture(autouse=True)
def _silent_itk() -> None:
    sitk.ProcessObject_SetGlobalWarningDisplay(False)  # it warns of steps that differ from the spacing


def _write(file: Path, header: nibabel.Nifti1Header) -> None:
    header["vox_offset"] = 352
    voxels = np.zeros(header.get_data_shape()[::-1], header.get_data_dtype())
    file.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes())


def _matrix(kind: str, generator: np.random.Generator) -> np.ndarray:
    """A placement of a kind that occurs: any rotation, permuted axes, none, or slightly tilted."""
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    if kind == "axes":
        rotation = np.eye(3)[generator.permutation(3)] * generator.choice([-1, 1], 3)
    elif kind == "plain":
        rotation = np.eye(3)
    elif kind == "tilted":
        rotation = np.linalg.qr(np.eye(3) + generator.normal(0, 0.05, (3, 3)))[0]
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * generator.choice([1, 0.5, 2.5, 0.7734375, generator.uniform(0.1, 6)], 3)
    matrix[:3, 3] = generator.normal(0, 100, 3) * generator.choice([0, 1])
    return matrix


@pytest.mark.parametrize("seed", range(4))
def test_headers_of_all_kinds_are_placed_as_by_itk(tmp_path: Path, seed: int) -> None:
    generator, file, certain = np.random.default_rng(seed), tmp_path / "image.nii", 0
    for number in range(80):
        header = nibabel.Nifti1Header()
        header.set_data_dtype((np.int16, np.uint8, np.float32, np.float64, np.int32, np.uint16)[number % 6])
        header.set_data_shape(((5, 4, 3), (5, 4, 3, 2), (5, 4, 3, 1), (5, 4, 1))[max(0, number % 8 - 4)])
        matrix = _matrix(KINDS[number % 4], generator)
        codes = [int(code) for code in generator.integers(0, 4, 2)]
        header.set_qform(matrix, 1)
        shift = generator.choice([0, 0, 1e-6, 1e-4, 1e-2]) * generator.normal(size=(4, 4))
        header.set_sform(matrix + shift if number % 5 else header.get_qform(), 1)
        header["qform_code"], header["sform_code"] = codes
        header["xyzt_units"] = (0, 2, 10, 10, 3)[number % 5]
        _write(file, header)
        certain += certain_placement(read_nifti_header(file)) is not None
        read = SimpleITKIO().read_header(file)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # ITK refuses it, and it is read by its affine
            assert "affine" in read.geometry.header
            continue
        size, ndim = reader.GetSize(), len(reader.GetSize())
        direction = np.reshape(reader.GetDirection(), (ndim, ndim))[:3, :3].ravel().tolist()
        placed = {"ndim": 3, "spacing": [*reader.GetSpacing()[:3]], "origin": [*reader.GetOrigin()[:3]]}
        # As texts, so that 0.0 differs from -0.0, which the files of a case repeat.
        assert repr({key: read.geometry.header[key] for key in placed}) == repr(placed)
        assert repr(read.geometry.header["direction"]) == repr(direction)
        assert (*read.shape[::-1], read.channels) == (*size[:3], int(np.prod(size[3:])))
    assert certain > 20  # the others are in doubt, or have another unit


def test_ordinary_headers_need_no_itk(test_data: Path) -> None:
    for name in ("Dataset004_Hippocampus", "Dataset027_ACDC"):
        file = next((test_data / name / "imagesTr").glob("*.nii.gz"))
        assert certain_placement(read_nifti_header(file)) is not None


@pytest.mark.parametrize(("field", "value"), [("magic", b"ni1"), ("intent_code", 1007), ("xyzt_units", 3)])
def test_a_header_of_another_kind_is_left_to_itk(tmp_path: Path, field: str, value: bytes | int) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((5, 4, 3))
    header.set_sform(np.eye(4), 1)
    file = tmp_path / "image.nii"
    _write(file, header)
    assert certain_placement(read_nifti_header(file)) is not None
    header[field] = value
    _write(file, header)
    assert certain_placement(read_nifti_header(file)) is None
