"""Images are read as float32 in pieces: the same values as from a file that is read whole, for every reader."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.geometry import Geometry
from segflow.storage.image_formats import inflate, nifti_files
from segflow.storage.image_formats.nibabel_io import NibabelIO
from segflow.storage.images import choose_reader, reader_by_name

READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
SHAPE = (7, 6, 5)
TURNED = np.array([[0, 0, -2.0, 5], [1.5, 0, 0, 7], [0, -0.8, 0, 9], [0, 0, 0, 1]])


def nifti(file: Path, kind: str, scaling: tuple[float, float] | None) -> Path:
    values = np.random.default_rng(3).integers(0, 200, SHAPE).astype(kind)
    image = nibabel.Nifti1Image(values, TURNED)
    image.header.set_data_dtype(np.dtype(kind))
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["|u1", "<i2", ">i2", "<f4", ">f8", "<i4"])
@pytest.mark.parametrize("scaling", [None, (0.37, -12.5)])
@pytest.mark.parametrize("step", [101, 1 << 16])
def test_an_image_has_the_values_of_its_file(  # 101: numbers are cut between two pieces
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    ending: str,
    kind: str,
    scaling: tuple[float, float] | None,
    step: int,
) -> None:
    file, reader = nifti(tmp_path / f"a{ending}", kind, scaling), choose_reader(ending, name=name)
    whole, geometry = reader.read_file(file)
    stored = np.asanyarray(nibabel.load(file).dataobj).astype(np.float32)
    for module in (inflate, nifti_files):
        monkeypatch.setattr(module, "STEP_BYTES", step)
    image, own = reader.read_image([file])
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(image, whole.astype(np.float32))
    np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(stored, axis=None))
    assert own == geometry


@pytest.mark.parametrize("name", ["SimpleITKIO", "SimpleITKIOWithReorient"])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_files_are_turned_once(tmp_path: Path, name: str, ending: str) -> None:
    image = sitk.GetImageFromArray(np.arange(210, dtype=np.int16).reshape(SHAPE))
    image.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    reader = choose_reader(ending, name=name)
    whole, geometry = reader.read_file(tmp_path / f"a{ending}")
    values, own = reader.read_image([tmp_path / f"a{ending}"])
    np.testing.assert_array_equal(values, whole.astype(np.float32))
    assert own == geometry
    reader.write_label(np.ones(values.shape[1:], np.uint8), own, tmp_path / f"label{ending}")
    label = sitk.ReadImage(str(tmp_path / f"label{ending}"))
    assert (label.GetSize(), label.GetDirection()) == (image.GetSize(), image.GetDirection())


def test_a_reader_that_changes_values_changes_those_of_images(tmp_path: Path) -> None:
    class Clipped(NibabelIO):
        """A reader of a user's own that builds on a shipped one."""

        def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
            voxels, geometry = super().read_file(file)
            return np.minimum(voxels, 100), geometry

    file = nifti(tmp_path / "a.nii.gz", "<i2", None)
    assert reader_by_name("NibabelIO").read_image([file])[0].max() > 100
    assert Clipped().read_image([file])[0].max() == 100
