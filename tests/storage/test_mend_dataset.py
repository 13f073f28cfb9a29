"""A mended copy holds what can be mended without a guess, says every change, and passes the check."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from planted import DEFECTS, Cases, plant

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.execution.progress import ProgressEvent
from segflow.storage.dataset_check import check_dataset
from segflow.storage.grid_match import onto_grid, straightened
from segflow.storage.image_formats.placement import affine_of, is_sheared, reorient
from segflow.storage.images import reader_by_name
from segflow.storage.mend_case import MendRules
from segflow.storage.mend_dataset import LOG_FILE, STAGE, Mending, mend_dataset
from segflow.storage.raw_dataset import read_description

READER = reader_by_name("SimpleITKIO")
MENDED = {
    "NaN": "filled with the lowest value",
    "infinity": "filled with the highest value",
    "stray value": "replaced by 0",
    "rounded whole label": "stored as whole numbers",
    "label on another grid": "onto the image's grid",
    "rounded spacing": "header copied from the image",
    "turned label": "onto the image's grid",
    "shear": "nearest orthonormal direction",
    "duplicate": "left out",
}
LEFT_OUT = (
    *("no label map", "channel missing", "channel too many", "truncated image", "truncated label map", "zero image"),
    *("other ending", "half label", "label of another shape"),
)
RULES = MendRules(2, (0, 1, 2), stray=0)


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files}


def mend(folder: Path, output: Path, rules: MendRules = RULES, **options: Any) -> Mending:
    return mend_dataset(folder, read_description(folder), READER, output, rules, **options)


@pytest.fixture
def small(test_data: Path, tmp_path: Path) -> Cases:
    return Cases(test_data / "Dataset004_Hippocampus", tmp_path / "Dataset004_Two", 9)


def test_planted_defects_are_mended_or_their_cases_left_out(test_data: Path, tmp_path: Path) -> None:
    cases = Cases(test_data / "Dataset004_Hippocampus", tmp_path / "Dataset004_Two", 90)
    labels = {case: cases.read(cases.label(case))[0] for case in cases.ids}
    places = plant(cases, seed=1)
    (cases.folder / "imagesTr" / "._x_0000.nii.gz").write_bytes(b"a Mac's notes")
    (cases.folder / "imagesTs").mkdir()
    before, output = digests(cases.folder), tmp_path / "Dataset005_Mended"
    result = mend(cases.folder, output)
    assert digests(cases.folder) == before, "the original is untouched"
    done = {}
    for change in result.changes:
        done[change.case] = f"{done.get(change.case, '')} {change.done}"
    for kind, text in MENDED.items():
        assert text in done[places[kind][0]], kind
    left = {problem.case: problem for problem in result.left}
    for kind in LEFT_OUT:
        assert places[kind][0] in left, kind
        assert not list(output.glob(f"*/{places[kind][0]}*")), kind
    for kind in ("label on another grid", "turned label", "rounded spacing", "shear", "rounded whole label"):
        case = places[kind][0]
        copy = nibabel.load(output / "labelsTr" / f"{case}.nii.gz")
        assert copy.get_data_dtype() == np.uint8
        assert np.array_equal(np.asarray(copy.dataobj), labels[case]), kind
    shear = nibabel.load(output / "imagesTr" / f"{places['shear'][0]}_0000.nii.gz").affine[:3, :3]
    assert np.allclose(shear.T @ shear, np.diag(np.diag(shear.T @ shear)), atol=1e-5)
    description = read_description(output)
    assert description.num_training == result.cases == len(list((output / "labelsTr").iterdir()))
    problems = check_dataset(output, description, READER)
    assert [problem for problem in problems if problem.severity == "error"] == []
    assert problems == result.remaining
    assert not list(output.rglob(".*")), "neither hidden files nor unfinished ones"
    assert (output / "imagesTs").is_symlink()
    assert len(list((output / "imagesTr").glob("*.json"))) == 2, "notes beside images"
    rows = list(csv.DictReader((output / LOG_FILE).open(encoding="utf-8")))
    assert len(rows) == len(result.changes) + len(result.left)
    again = mend(output, tmp_path / "again")
    assert (again.changes, again.left) == ([], []), "a mended copy needs no mending"
    assert set(MENDED) | set(LEFT_OUT) <= set(DEFECTS)


def test_an_interrupted_copy_looks_unfinished_and_is_continued(small: Cases, tmp_path: Path) -> None:
    output = tmp_path / "mended"
    small.change(small.label(small.ids[0]), lambda values: values.astype(np.float32))

    def interrupt(event: ProgressEvent) -> None:
        if event.stage == STAGE and event.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mend(small.folder, output, progress=interrupt)
    with pytest.raises(SegflowError, match=r"dataset\.json"):
        read_description(output)
    finished = output / "labelsTr" / f"{small.ids[0]}.nii.gz"
    written = finished.stat().st_mtime_ns
    with pytest.raises(SegflowError, match="beginning of another mended copy"):
        mend(small.folder, output, MendRules(2, (0, 1, 2)))
    small.change(small.label(small.ids[1]), lambda values: values.astype(np.float32))
    for file in small.files(small.ids[2]):
        file.unlink()
    result = mend(small.folder, output)
    assert finished.stat().st_mtime_ns == written, "what is finished is not written again"
    assert {change.case for change in result.changes} == {small.ids[0], small.ids[1], ""}
    assert result.cases == 8 == len(list((output / "labelsTr").iterdir()))
    with pytest.raises(SegflowError, match="holds a dataset already"):
        mend(small.folder, output)


def test_places_at_which_no_copy_may_lie(small: Cases, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(small.folder)
    for place in (small.folder, small.folder / "mended", tmp_path / "link" / "mended", small.folder.parent):
        with pytest.raises(SegflowError, match="cannot lie in the dataset"):
            mend(small.folder, place)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(SegflowError, match="is not empty"):
        mend(small.folder, tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_stray_values_are_refused_unless_told(small: Cases, tmp_path: Path) -> None:
    case = small.ids[3]
    small.change(small.label(case), lambda values: np.where(values == 2, 7, values).astype(np.uint8))
    refused = mend(small.folder, tmp_path / "refused", MendRules(2, (0, 1, 2)))
    assert [problem.case for problem in refused.left] == [case]
    assert refused.cases == 8
    told = mend(small.folder, tmp_path / "told", MendRules(2, (0, 1, 2), stray=1, copy=True), processes=2)
    assert told.cases == 9
    values = np.asarray(nibabel.load(tmp_path / "told" / "labelsTr" / f"{case}.nii.gz").dataobj)
    assert set(np.unique(values)) == {0, 1}
    assert not any(path.is_symlink() for path in (tmp_path / "told").rglob("*"))


def test_splits_and_lists_follow(small: Cases, tmp_path: Path) -> None:
    first, second, *others = small.ids
    small.write(small.image(first), *small.read(small.image(second)))
    small.write(small.image(first, 1), *small.read(small.image(second, 1)))
    small.write(small.label(first), *small.read(small.label(second)))
    small.write(small.label(second), *small.read(small.label(second)))
    splits = [{"train": [first, *others[:3]], "val": [second, *others[3:]]}]
    (small.folder / "splits_final.json").write_text(json.dumps(splits))
    file = small.folder / "dataset.json"
    listed = {
        case: {"images": [f"imagesTr/{f.name}" for f in small.files(case)[:2]], "label": f"labelsTr/{case}.nii.gz"}
        for case in small.ids
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), "dataset": listed}))
    result = mend(small.folder, tmp_path / "mended")
    assert [change.case for change in result.changes if change.done == "left out"] == [second]
    kept = json.loads((tmp_path / "mended" / "splits_final.json").read_text())
    assert kept == [{"train": [first, *others[:3]], "val": others[3:]}]
    description = read_description(tmp_path / "mended")
    assert sorted(description.raw["dataset"]) == sorted({*small.ids} - {second})
    assert check_dataset(tmp_path / "mended", description, READER) == []


def test_splits_that_cannot_be_read_are_left_out(small: Cases, tmp_path: Path) -> None:
    for number, content in enumerate(('[{"train": 5, "val": ["x"]}]', "no JSON")):
        (small.folder / "splits_final.json").write_text(content)
        result = mend(small.folder, tmp_path / f"mended{number}")
        assert ("splits_final.json", "left out") in [(change.file, change.done) for change in result.changes]
        assert not (tmp_path / f"mended{number}" / "splits_final.json").exists()


def test_endings_in_capitals_stay(small: Cases, tmp_path: Path) -> None:
    first, *others = small.ids
    upper = small.image(first).rename(tmp_path / "FIRST.NII.GZ")
    files = {case: {"images": small.files(case)[:2], "label": small.label(case)} for case in others}
    files[first] = {"images": [upper, small.image(first, 1)], "label": small.label(first)}
    content = json.loads((small.folder / "dataset.json").read_text()) | {"dataset": files}
    (small.folder / "dataset.json").write_text(json.dumps(content, default=str))
    result = mend(small.folder, tmp_path / "mended")
    assert (result.left, result.cases) == ([], 9)
    assert (tmp_path / "mended/imagesTr" / f"{first}_0000.NII.GZ").is_symlink()


def test_tiffs_keep_their_spacing(tmp_path: Path) -> None:
    folder, reader = tmp_path / "Dataset006_Tiff", reader_by_name("Tiff3DIO")
    geometry = Geometry((3.0, 2.0, 1.0))
    random = np.random.default_rng(0)
    for case in "abc":
        image = random.integers(1, 99, (5, 6, 7)).astype(np.float32)
        image[0, 0, 0] = np.nan if case == "b" else 5
        reader.write_map(image, geometry, folder / "imagesTr" / f"{case}_0000.tif")
        reader.write_label((image > 50).astype(np.uint8), geometry, folder / "labelsTr" / f"{case}.tif")
    (folder / "imagesTr" / "c_0000.json").rename(folder / "imagesTr" / "c.json")
    labels = {"background": 0, "x": 1}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3, "file_ending": ".tif"}
    (folder / "dataset.json").write_text(json.dumps(content))
    for copy in (False, True):
        output = tmp_path / f"mended_{copy}"
        result = mend_dataset(folder, read_description(folder), reader, output, MendRules(1, (0, 1), copy=copy))
        assert (result.cases, result.left, result.remaining) == (3, [], [])
        assert [change.case for change in result.changes] == ["b"]
        for case in "abc":
            assert reader.read_header(output / "imagesTr" / f"{case}_0000.tif").geometry.spacing == (3.0, 2.0, 1.0)
            assert reader.read_header(output / "labelsTr" / f"{case}.tif").geometry.spacing == (3.0, 2.0, 1.0)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_label_maps_are_brought_onto_turned_grids(reader: str) -> None:
    """Whatever the axes of files, a voxel gets the label that lies at its place in the patient."""
    random = np.random.default_rng(3)
    label = np.zeros((6, 7, 8), np.int16)
    label[1:5, 1:6, 1:7] = random.integers(0, 4, (4, 5, 6))
    image_affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 3.0, 2], [0, 0, 0, 1]])  # y runs to the left
    turn = np.array([[-1.0, 0, 0, 7], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]])
    geometry = Geometry((3.0, 2.0, 1.5), {"affine": image_affine.tolist()})
    turned = Geometry((3.0, 2.0, 1.5), {"affine": (image_affine @ turn).tolist()})
    flipped = label[::-1, :, ::-1]
    if reader.endswith("Reorient"):
        (flipped,), turned = reorient(flipped[np.newaxis], turned)
        (wanted,), geometry = reorient(label[np.newaxis], geometry)
    else:
        wanted = label
    assert np.array_equal(onto_grid(flipped, turned, wanted.shape, geometry), wanted)


def test_label_maps_that_cover_another_place_are_refused() -> None:
    label = np.ones((5, 6, 7), np.int16)
    here, there = (Geometry((1.0, 1.0, 1.0), {"affine": affine.tolist()}) for affine in (np.eye(4), np.eye(4)))
    there.header["affine"][0][3] = 4.0
    with pytest.raises(SegflowError, match="not the same part of space"):
        onto_grid(label, there, (5, 6, 7), here)
    with pytest.raises(SegflowError, match="differ in shape"):
        onto_grid(label, here, (6, 6, 7), here)
    there.header["affine"][0][3] = 0.6
    with pytest.raises(SegflowError, match="lie outside the image"):
        onto_grid(np.ones((5, 6, 70), np.int16), there, (5, 6, 70), here)


def test_axes_are_made_perpendicular_if_little_moves() -> None:
    affine = np.array([[1.0, 0.004, 0, 5], [0, 2.0, 0, -3], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    straight = straightened(Geometry((3.0, 2.0, 1.0), {"affine": affine.tolist()}), (20, 30, 40))
    assert straight is not None
    assert not is_sheared(straight)
    centre = [19.5, 14.5, 9.5, 1]
    assert np.allclose(affine_of(straight) @ centre, affine @ centre)
    assert np.allclose(straight.spacing, (3.0, 2.0, 1.0), atol=1e-4)
    affine[0, 1] = 0.5
    assert straightened(Geometry((3.0, 2.0, 1.0), {"affine": affine.tolist()}), (20, 30, 40)) is None
