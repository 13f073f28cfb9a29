"""Label maps hold classes in memory and values in files, as a whole and in boxes, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_reader import NumpyIO

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.core.voxels import boxes_in_order
from segflow.storage.images import ImageIO, reader_by_name
from segflow.storage.label_mapping import in_classes, stored_reader
from segflow.storage.open_volumes import label_sink, open_label_source, open_source, writes_in_boxes

GEOMETRY = Geometry((1.0, 1.0, 1.0))
FORMATS: list[tuple[ImageIO, str]] = [
    *((reader_by_name(name), ".nii.gz") for name in ("SimpleITKIO", "NibabelIO")),
    *((reader_by_name(name), ending) for name, ending in (("SimpleITKIO", ".nrrd"), ("Blosc2IO", ".b2nd"))),
    *((reader_by_name(name), ending) for name, ending in (("OMEZarrIO", ".ome.zarr"), ("Tiff3DIO", ".tif"))),
    (NumpyIO(), ".npy"),
]


@pytest.mark.parametrize("highest", [255, 1000])
@pytest.mark.parametrize(("stored", "ending"), FORMATS, ids=lambda value: getattr(value, "name", value))
def test_classes_are_written_as_values_and_read_again(
    stored: ImageIO, ending: str, highest: int, tmp_path: Path
) -> None:
    labels = Labels.from_json({"background": 0, "a": highest, "b": [4, 9]})
    reader = in_classes(stored, labels)
    classes = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    whole, boxes = tmp_path / f"whole{ending}", tmp_path / f"boxes{ending}"
    reader.write_label(classes, GEOMETRY, whole)
    with label_sink(boxes, (5, 6, 7), GEOMETRY, reader, highest=labels.highest_written) as sink:
        for box in boxes_in_order(classes.shape, 50):
            sink.write(box, classes[box.slices])
    assert reader.read_header(boxes).dtype == reader.read_header(whole).dtype
    assert writes_in_boxes(boxes, reader) == writes_in_boxes(boxes, stored)
    for file in (whole, boxes):
        np.testing.assert_array_equal(stored.read_label(file)[0], np.array([0, 4, highest])[classes])
        np.testing.assert_array_equal(reader.read_label(file)[0], classes)
        opened = open_label_source(file, reader)
        assert (opened is None) == (open_label_source(file, stored) is None)
        if opened is not None:
            with opened:
                for box in boxes_in_order(classes.shape, 50):
                    np.testing.assert_array_equal(opened.read(box), classes[box.slices])


def test_the_stored_type_fits_the_highest_value(tmp_path: Path) -> None:
    for highest, kind in ((2, "uint8"), (255, "uint8"), (256, "uint16"), (65535, "uint16")):
        reader = in_classes(reader_by_name("NibabelIO"), Labels.from_json({"background": 0, "a": highest}))
        reader.write_label(np.ones((2, 3, 4), np.uint8), GEOMETRY, tmp_path / "a.nii.gz")
        assert reader.read_header(tmp_path / "a.nii.gz").dtype == kind


def test_images_are_read_as_they_are(tmp_path: Path) -> None:
    reader = in_classes(reader_by_name("NibabelIO"), Labels.from_json({"background": 0, "a": 255}))
    reader.write_map(np.full((2, 3, 4), 255.0), GEOMETRY, tmp_path / "a_0000.nii.gz")
    assert (reader.read_image([tmp_path / "a_0000.nii.gz"])[0] == 255).all()
    with open_source([tmp_path / "a_0000.nii.gz"], reader) or pytest.fail("not read in boxes") as source:
        assert source.shape == (1, 2, 3, 4)


def test_a_class_without_a_value_is_not_written(tmp_path: Path) -> None:
    labels = Labels.from_json({"background": 0, "a": 255})
    reader, array = in_classes(reader_by_name("NibabelIO"), labels), np.full((2, 3, 4), 2)
    with pytest.raises(SegflowError, match="a class has no value; found 2; expected 0 to 1"):
        reader.write_label(array, GEOMETRY, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_consecutive_labels_need_no_mapping() -> None:
    reader = reader_by_name("NibabelIO")
    assert in_classes(reader, Labels.from_json({"background": 0, "a": 1})) is reader
    assert stored_reader(in_classes(reader, Labels.from_json({"background": 0, "a": 2}))) is reader
