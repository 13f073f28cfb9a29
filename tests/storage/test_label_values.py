"""Label maps whose values need interpretation: scaled ones, and segmentations of several layers."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.storage.images import reader_by_name

NIFTI_READERS = ["SimpleITKIO", "NibabelIOWithReorient"]
LABEL = np.arange(60).reshape(3, 4, 5) % 5


def scaled(file: Path, values: np.ndarray, dtype: type) -> Path:
    """As nibabel saves floats under a header of integers: with slope and intercept."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    nibabel.save(nibabel.Nifti1Image(values.T.astype(np.float64), np.eye(4), header), file)
    assert nibabel.load(file).dataobj.slope != 1
    return file


def stored(file: Path, numbers: np.ndarray, slope: float, intercept: float = 0.0) -> Path:
    image = nibabel.Nifti1Image(numbers.T, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("highest", [1, 4, 13, 117])
@pytest.mark.parametrize("name", NIFTI_READERS)
def test_scaled_labels_are_the_whole_numbers_that_were_saved(
    tmp_path: Path, name: str, highest: int, dtype: type
) -> None:
    values = np.arange(60).reshape(3, 4, 5) * highest // 59
    label, _ = reader_by_name(name).read_label(scaled(tmp_path / "a.nii", values, dtype))
    assert label.dtype == np.int16
    # RAS+ is what an identity stands for, so that turning changes nothing
    np.testing.assert_array_equal(label, values)


@pytest.mark.parametrize(
    ("numbers", "slope", "intercept", "expected"),
    [([0, 1, 2], 2.0, 1.0, [1, 3, 5]), ([0, 10, 20], 0.1, 0.0, [0, 1, 2]), ([3, 2, 1], -1.0, 3.0, [0, 1, 2]),
     ([0, 2, 4], 0.5, 0.0, [0, 1, 2]), ([0, 1, 2], 0.999, 0.0, [0, 1, 2])],
)  # fmt: skip
def test_whole_numbers_by_any_slope_are_taken(
    tmp_path: Path, numbers: list[int], slope: float, intercept: float, expected: list[int]
) -> None:
    file = stored(tmp_path / "a.nii", np.array([[numbers]], np.int16), slope, intercept)
    label, _ = reader_by_name("SimpleITKIO").read_label(file)
    assert label.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("values", "slope"),
    [([0, 1, 2], 0.5), ([0, 1, 2], 2.5), ([0, 128, 255], 1 / 255), ([0, 1, 3], 1.3)],
)
@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO"])
def test_fractions_are_refused_and_the_slope_named(tmp_path: Path, name: str, values: list[int], slope: float) -> None:
    file = stored(tmp_path / "a.nii", np.array([[values]], np.int16), slope)
    with pytest.raises(SegflowError, match=rf"a\.nii holds scaled .*not whole.*by slope {slope:.7g} and intercept 0"):
        reader_by_name(name).read_label(file)


def test_an_image_is_scaled_as_ever(tmp_path: Path) -> None:
    file = scaled(tmp_path / "a_0000.nii", LABEL / 3, np.int16)
    voxels, _ = reader_by_name("SimpleITKIO").read_image([file])
    np.testing.assert_array_equal(voxels[0], nibabel.load(file).get_fdata().T.astype(np.float32))


@pytest.mark.parametrize("slope", [np.nan, 0.0, 1.0])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint32, np.float64, np.int8])
@pytest.mark.parametrize("name", NIFTI_READERS)
def test_labels_of_any_type_are_read(tmp_path: Path, name: str, dtype: type, slope: float) -> None:
    file = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(LABEL.T.astype(dtype), np.eye(4), dtype=dtype), file)
    header = nibabel.Nifti1Header(file.read_bytes()[:348])
    header["scl_slope"] = slope
    file.write_bytes(header.binaryblock + file.read_bytes()[348:])
    np.testing.assert_array_equal(reader_by_name(name).read_label(file)[0], LABEL)


# --- layers -------------------------------------------------------------------------------------------------------


def layered(
    file: Path, layers: np.ndarray, kind: str = "list", directions: str = "(0.5,0,0) (0,0.5,0) (0,0,2)"
) -> Path:
    """As 3D Slicer saves a segmentation: the layers are the fastest axis."""
    count, z, y, x = layers.shape
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\nsizes: {count} {x} {y} {z}\n"
        f"space directions: none (0.5,0,0) (0,0.5,0) (0,0,2)\nkinds: {kind} domain domain domain\nencoding: gzip\n"
        "space origin: (1,2,3)\n\n"
    )
    body = gzip.compress(np.ascontiguousarray(np.moveaxis(layers, 0, -1)).astype(np.uint8).tobytes())
    file.write_bytes(header.encode() + body)
    return file


@pytest.mark.parametrize("name", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_layers_that_do_not_overlap_are_one_label_map(tmp_path: Path, name: str) -> None:
    layers = np.stack([np.where(np.isin(LABEL, own), LABEL, 0) for own in ([1, 3], [2], [4])])
    label, geometry = reader_by_name(name).read_label(layered(tmp_path / "a.nrrd", layers))
    assert geometry.spacing == (2.0, 0.5, 0.5)
    np.testing.assert_array_equal(label if name == "SimpleITKIO" else label[:, ::-1, ::-1], LABEL)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (np.stack([LABEL, LABEL == 2]), r"2 layers, whose segments overlap in 12 voxels"),
        (np.stack([LABEL == 1, LABEL == 2]), r"2 layers, whose segments have the same value: 1 in layers 0 and 1"),
    ],
)
def test_layers_that_cannot_be_one_label_map_are_named(tmp_path: Path, layers: np.ndarray, message: str) -> None:
    file = layered(tmp_path / "a.nrrd", layers)
    with pytest.raises(
        SegflowError, match=rf"a\.nrrd is a layered segmentation.*{message}.*Export it as one label map"
    ):
        reader_by_name("SimpleITKIO").read_label(file)


def test_colours_are_no_layers(tmp_path: Path) -> None:
    layers = np.stack([LABEL == 1, LABEL == 2, LABEL == 3])
    with pytest.raises(SegflowError, match="several channels"):
        reader_by_name("SimpleITKIO").read_label(layered(tmp_path / "a.nrrd", layers, kind="RGB-color"))


def test_the_layers_of_an_image_are_channels(tmp_path: Path) -> None:
    voxels, _ = reader_by_name("SimpleITKIO").read_image([layered(tmp_path / "a_0000.nrrd", np.stack([LABEL, LABEL]))])
    np.testing.assert_array_equal(voxels, np.stack([LABEL, LABEL]))
