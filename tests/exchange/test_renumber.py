"""Label maps whose values do not count 0, 1, 2, … become a dataset that does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.exchange.file_list import convert_file_list
from segflow.exchange.renumber import renumber_dataset, renumbered
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description

READER = reader_by_name("SimpleITKIO")
VALUES = np.array([0, 2, 5, 255], np.uint8)


def make(folder: Path, labels: dict[str, Any], values: np.ndarray = VALUES, **changes: Any) -> Path:
    """Two cases whose label maps hold ``values``."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in ("a", "b"):
        array = np.arange(24).reshape(2, 3, 4)
        array = array if case == "a" else np.flip(array)
        pixels = np.random.default_rng(ord(case)).integers(1, 99, array.shape).astype(np.int16)
        image, label = (sitk.GetImageFromArray(v) for v in (pixels, values[array % len(values)]))
        for one, file in ((image, f"imagesTr/{case}_0000.nii.gz"), (label, f"labelsTr/{case}.nii.gz")):
            one.SetSpacing((1.0, 2.0, 3.0))
            sitk.WriteImage(one, str(folder / file))
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz", **changes}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_background_becomes_0_whatever_it_was() -> None:
    assert renumbered({"a": 0, "background": 255}) == ({"labels": {"a": 1, "background": 0}}, {255: 0, 0: 1})


def test_values_keep_their_order_and_several_may_be_ignored() -> None:
    assert renumbered({"background": 0, "b": 9, "a": 4})[0]["labels"] == {"background": 0, "b": 2, "a": 1}
    named, new = renumbered({"background": 0, "whole": [2, 5], "core": 5, "ignore": [255, 7]})
    assert named["labels"] == {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    assert named["regions_class_order"] == [1, 2]
    assert new == {0: 0, 2: 1, 5: 2, 7: 3, 255: 3}


def test_a_dataset_is_renumbered_and_its_images_stay_where_they_are(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [2, 5], "core": 5, "ignore": 255}
    source = make(tmp_path / "raw" / "Dataset007_Masks", labels, regions_class_order=[2, 5])
    folder = renumber_dataset(source, tmp_path / "raw", 8)
    description = read_description(folder)
    cases = find_training_cases(folder, description)
    assert folder.name == "Dataset008_Masks"
    assert check_dataset(folder, description, READER) == []
    assert description.labels.regions_class_order == (1, 2)
    assert cases[0].images == (source / "imagesTr" / "a_0000.nii.gz",)
    case = read_case(cases[0], READER)
    assert case.label is not None
    np.testing.assert_array_equal(case.label.ravel()[:5], [0, 1, 2, 3, 0])
    assert case.geometry.spacing == (3.0, 2.0, 1.0)


def test_a_list_of_files_keeps_its_own_values(tmp_path: Path) -> None:
    source = make(tmp_path / "Dataset007_Masks", {}, np.array([0, 255], np.uint8))
    table = source / "list.csv"
    table.write_text("case,CT,label\n" + "".join(f"{c},imagesTr/{c}_0000.nii.gz,labelsTr/{c}.nii.gz\n" for c in "ab"))
    folder = convert_file_list(table, tmp_path / "raw", 8, "Mine", labels={"background": 0, "vessel": 255})
    description = read_description(folder)
    assert dict(description.labels.entries) == {"background": 0, "vessel": 1}
    assert check_dataset(folder, description, READER) == []
    assert [file.name for file in folder.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize(
    ("labels", "number", "message"),
    [
        (
            {"background": 0, "a": 2, "b": 5},
            8,
            r"(?s)case 'a': a\.nii\.gz holds labels without a name; found \[255\].*'b'",
        ),
        ({"background": 0, "a": 1}, 8, "count 0, 1, 2, … already"),
        ({"background": 0, "a": 255}, None, "dataset_id=42"),
        ({"background": 0, "a": "255"}, 8, "whole number"),
        ({"a": 2, "b": 255}, 8, "lack 'background'"),
        ([0, 255], 8, "names no labels"),
    ],
)
def test_what_cannot_be_renumbered_is_named_and_leaves_nothing(
    tmp_path: Path, labels: Any, number: int | None, message: str
) -> None:
    source = make(tmp_path / "Dataset007_Masks", labels)
    with pytest.raises(SegflowError, match=message):
        renumber_dataset(source, tmp_path / "raw", number)
    assert list(tmp_path.glob("raw/*")) == []
