"""Label maps whose ending is not that of the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.open_case import open_case
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description

PAIRS = [
    ("NibabelIO", ".nii", ".nrrd"),
    ("NibabelIOWithReorient", ".nii.gz", ".mha"),
    ("SimpleITKIO", ".nrrd", ".nii.gz"),
    ("SimpleITKIO", ".nii.gz", ".nrrd"),
    ("OMEZarrIO", ".ome.zarr", ".nii.gz"),
    ("Blosc2IO", ".b2nd", ".nii.gz"),
    ("Tiff3DIO", ".tif", ".nii.gz"),
]


def volume(values: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((3.0, -4.0, 5.0))
    image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    return image


def files(folder: Path, reader: str, image: str, label: str) -> tuple[CaseFiles, np.ndarray]:
    """A case whose label is 1 where its image is above 30."""
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    source = folder / "source.nii.gz"
    sitk.WriteImage(volume(values), str(source))
    case = CaseFiles("a", (folder / f"a_0000{image}",), folder / f"a{label}")
    shipped = reader_by_name(reader)
    _, geometry = reader_by_name("SimpleITKIO").read_image([source])
    place = case.images[0] if reader != "Tiff3DIO" else folder / f"a{image}"  # its spacing lies beside it, in a.json
    turned, geometry = shipped.read_image([source]) if reader.endswith("Reorient") else (values[None], geometry)
    shipped.write_map(turned[0].astype(np.float32), geometry, place)
    place.rename(case.images[0])
    assert case.label is not None
    sitk.WriteImage(volume((values > 30).astype(np.uint8)), str(case.label))
    return case, values


@pytest.mark.parametrize(("reader", "image", "label"), PAIRS)
def test_each_file_is_read_and_written_by_its_own_ending(reader: str, image: str, label: str, tmp_path: Path) -> None:
    if reader == "OMEZarrIO":
        pytest.importorskip("numcodecs", reason="OME-Zarr needs the extra segflow[zarr]")
    case_files, _ = files(tmp_path, reader, image, label)
    shipped = reader_by_name(reader)
    case = read_case(case_files, shipped, channels=1)
    assert case.label is not None
    assert np.array_equal(case.label, case.image[0] > 30)
    with open_case(case_files, shipped) as opened:
        if opened is not None and opened.label is not None:
            assert opened.label.shape == case.label.shape
    written = tmp_path / f"again{label}"
    shipped.write_label(case.label, case.geometry, written)
    assert np.array_equal(shipped.read_label(written)[0], case.label)
    assert sitk.ReadImage(str(written)).GetSpacing() == pytest.approx((0.5, 0.75, 2.0))


def dataset(folder: Path, **keys: object) -> Path:
    for name, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nrrd")):
        (folder / name).mkdir()
        values = np.indices((4, 6, 6)).sum(0).astype(np.int16)
        sitk.WriteImage(volume(values if name == "imagesTr" else values % 2), str(folder / name / f"a{ending}"))
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "odd": 1}, "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz", **keys}))
    return folder


def test_a_dataset_names_the_ending_of_its_label_maps(tmp_path: Path) -> None:
    folder = dataset(tmp_path, label_file_ending=".nrrd")
    description = read_description(folder)
    (case,) = find_training_cases(folder, description)
    assert case.label == folder / "labelsTr" / "a.nrrd"
    assert check_dataset(folder, description, reader_by_name("SimpleITKIO")) == []


def test_an_ending_that_was_not_named_is_told(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    with pytest.raises(SegflowError, match=r"(?s)has no label.*\"label_file_ending\": \"\.nrrd\""):
        find_training_cases(folder, read_description(folder))


@pytest.mark.parametrize("ending", ["nrrd", "../x", 3])
def test_an_impossible_ending_is_refused(ending: object, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="'label_file_ending'"):
        read_description(dataset(tmp_path, label_file_ending=ending))
