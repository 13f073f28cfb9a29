"""A label map's spacing goes where the label map goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.tiff_io import Tiff3DIO
from segflow.storage.images import reader_by_name
from segflow.storage.label_map_files import copy_label_map, files_beside, is_copied, remove_label_map

SPACING = (3.0, 0.5, 0.75)
LABEL = np.arange(2 * 5 * 6, dtype=np.int16).reshape(2, 5, 6) % 3


def written(file: Path, spacing: tuple[float, float, float] = SPACING) -> Path:
    reader = reader_by_name("Tiff3DIO" if file.suffix in Tiff3DIO.endings else "SimpleITKIO")
    reader.write_label(LABEL, Geometry(spacing), file)
    return file


def assert_same(file: Path, spacing: tuple[float, float, float] = SPACING) -> None:
    reader = reader_by_name("Tiff3DIO" if file.suffix in Tiff3DIO.endings else "SimpleITKIO")
    label, geometry = reader.read_label(file)
    np.testing.assert_array_equal(label, LABEL)
    np.testing.assert_allclose(geometry.spacing, spacing)


@pytest.mark.parametrize("name", ["scan.tif", "scan.tiff", "scan_2022.tif", "scan.nii.gz", "scan.nrrd"])
def test_a_copy_reads_as_its_source(tmp_path: Path, name: str) -> None:
    source, target = written(tmp_path / "from" / name), tmp_path / "to" / "sub" / name
    assert not is_copied(source, target)
    copy_label_map(source, target)
    assert is_copied(source, target)
    assert_same(target)
    assert len(list(target.parent.iterdir())) == len(list(source.parent.iterdir()))
    remove_label_map(target)
    assert not list(target.parent.iterdir())
    assert_same(source)


def test_a_copy_whose_spacing_is_missing_or_another_is_no_copy(tmp_path: Path) -> None:
    source, target = written(tmp_path / "from" / "scan.tif"), tmp_path / "to" / "scan.tif"
    copy_label_map(source, target)
    target.with_suffix(".json").unlink()  # as earlier versions left it
    assert not is_copied(source, target)
    written(target, (1.0, 1.0, 1.0))
    assert not is_copied(source, target)
    copy_label_map(source, target)
    assert_same(target)
    source.with_suffix(".json").unlink()
    assert not is_copied(source, target)
    copy_label_map(source, target)
    assert not target.with_suffix(".json").exists()


def test_a_text_beside_a_label_map_of_another_format_stays(tmp_path: Path) -> None:
    file = written(tmp_path / "scan.nii.gz")
    (tmp_path / "scan.json").write_text("{}")
    remove_label_map(file)
    assert [left.name for left in tmp_path.iterdir()] == ["scan.json"]


def test_the_spacing_of_a_label_map_is_that_of_its_own_name(tmp_path: Path) -> None:
    """`scan_2022` is a case; `scan` is another."""
    written(tmp_path / "scan.tif", (9.0, 9.0, 9.0))
    assert_same(written(tmp_path / "scan_2022.tif"))


def test_a_copy_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "from" / "scan.tif")
    (tmp_path / "to").write_text("a file where a folder should be")
    with pytest.raises(SegflowError, match=r"cannot write .*scan"):
        copy_label_map(source, tmp_path / "to" / "scan.tif")


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_voxels_that_lie_beside_their_header_belong_to_it(tmp_path: Path, ending: str) -> None:
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    (voxels,) = [file for file in tmp_path.iterdir() if file.suffix != ending]
    header = tmp_path / f"a{ending}"
    named = header.rename(tmp_path / ("a.mha" if ending == ".mhd" else "a.nrrd"))
    assert [file.name for file in files_beside(named)] == [voxels.name]
    named.write_bytes(b"no header")
    assert files_beside(named) == ()
    sitk.WriteImage(image, str(tmp_path / "whole.nrrd"))
    assert files_beside(tmp_path / "whole.nrrd") == ()
