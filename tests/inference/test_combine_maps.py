"""Ensembles of folders of label maps, which any program may have written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.evaluation import label_maps
from segflow.inference.case_pipeline import PredictReport
from segflow.inference.combine_maps import combine_maps
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.storage.json_files import write_json

LABELS = {"background": 0, "a": 1, "b": 2}
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}


def _write(file: Path, array: np.ndarray, spacing: tuple[float, ...] = (0.7, 1.5, 3.0), origin: float = 5.0) -> Path:
    image = sitk.GetImageFromArray(array)
    if array.ndim == 3:
        image.SetSpacing(spacing)
        image.SetOrigin((origin, -3.0, 40.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))
    return file


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _describe(folder: Path, ending: str = ".nii.gz", **content: object) -> None:
    wanted = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ending}
    write_json(folder / "dataset.json", wanted | content)


def _maps(case: int = 0, count: int = 3, dtype: type = np.uint8) -> list[np.ndarray]:
    rng = np.random.default_rng(case)
    truth = np.zeros((4, 6, 5), int)
    truth[1:3, 1:5, 1:4] = 1
    truth[2:, 2:4, 2:4] = 2
    noisy = [np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 3, truth.shape), truth) for _ in range(count)]
    return [array.astype(dtype) for array in noisy]


def _members(folder: Path, cases: dict[str, list[np.ndarray]], ending: str = ".nii.gz") -> list[Path]:
    count = len(next(iter(cases.values())))
    for case_id, arrays in cases.items():
        for k, array in enumerate(arrays):
            _write(folder / f"m{k}" / f"{case_id}{ending}", array)
    return [folder / f"m{k}" for k in range(count)]


def _combine(members: list[Path], output: Path, labels: Path | None = None, **settings: object) -> PredictReport:
    chosen = EnsembleSettings(**({"method": "majority"} | settings))
    return combine_maps(members, output, chosen, labels=labels, processes=0)


def _majority(arrays: list[np.ndarray]) -> np.ndarray:
    counts = np.stack([sum((array == label).astype(int) for array in arrays) for label in range(3)])
    return counts.argmax(axis=0)


def test_the_majority_of_label_maps_without_a_dataset_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_maps, "SLAB_VOXELS", 40)  # slab by slab
    cases = {"x": _maps(0), "y": _maps(1)}
    members = _members(tmp_path, cases)
    report = _combine(members, tmp_path / "out")
    assert (report.done, report.ok) == (("x", "y"), True)
    for case_id, arrays in cases.items():
        np.testing.assert_array_equal(_read(tmp_path / "out" / f"{case_id}.nii.gz"), _majority(arrays))
        written = sitk.ReadImage(str(tmp_path / "out" / f"{case_id}.nii.gz"))
        assert written.GetSpacing() == pytest.approx((0.7, 1.5, 3.0))
        assert written.GetOrigin() == pytest.approx((5.0, -3.0, 40.0))
    found = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert found["labels"] == {"background": 0, "label_1": 1, "label_2": 2}
    assert json.loads((tmp_path / "out" / "ensemble.json").read_text())["method"] == "majority"
    assert _combine(members, tmp_path / "out").skipped == ("x", "y")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".tif", ".png"])
def test_any_format_that_is_read(tmp_path: Path, ending: str) -> None:
    arrays = [array[2] if ending == ".png" else array for array in _maps()]
    members = _members(tmp_path, {"x": arrays}, ending)
    assert _combine(members, tmp_path / "out").done == ("x",)
    np.testing.assert_array_equal(_read(tmp_path / "out" / f"x{ending}"), _majority(arrays))


def test_members_of_different_formats_are_written_as_dataset_json_says(tmp_path: Path) -> None:
    arrays = _maps()
    endings = (".mha", ".nii.gz", ".nrrd")
    members = [_write(tmp_path / f"m{k}" / f"x{e}", arrays[k]).parent for k, e in enumerate(endings)]
    _describe(tmp_path / "dataset")
    assert _combine(members, tmp_path / "out", tmp_path / "dataset").done == ("x",)
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), _majority(arrays))
    assert sitk.ReadImage(str(tmp_path / "out" / "x.nii.gz")).GetOrigin() == pytest.approx((5.0, -3.0, 40.0))


def test_values_that_are_not_consecutive_are_kept(tmp_path: Path) -> None:
    arrays = [np.array([0, 128, 255], np.uint8)[array] for array in _maps()]
    members = _members(tmp_path, {"x": arrays})
    _describe(members[1], labels={"background": 0, "a": 255, "b": 128})
    _combine(members, tmp_path / "out")
    expected = np.array([0, 128, 255])[_majority(_maps())]
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), expected)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"]["a"] == 255


def test_regions_are_decided_one_by_one_and_painted(tmp_path: Path) -> None:
    arrays = _maps()
    members = _members(tmp_path, {"x": arrays})
    _describe(members[0], **REGIONS)
    _combine(members, tmp_path / "out")
    whole, core = (sum(np.isin(array, region).astype(int) for array in arrays) > 1.5 for region in ([1, 2], [2]))
    expected = np.where(core, 2, np.where(whole, 1, 0))
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), expected)
    assert (expected != _majority(arrays)).any()


def test_staple_of_labels_and_of_regions(tmp_path: Path) -> None:
    arrays = _maps(5, 4)
    members = _members(tmp_path, {"x": arrays})
    _combine(members, tmp_path / "plain", method="staple")
    itk = sitk.MultiLabelSTAPLEImageFilter()
    expected = sitk.GetArrayFromImage(itk.Execute([sitk.GetImageFromArray(array) for array in arrays]))
    np.testing.assert_array_equal(_read(tmp_path / "plain" / "x.nii.gz"), expected)
    _describe(members[0], **REGIONS)
    _combine(members, tmp_path / "regions", method="staple")
    masks = [[np.isin(array, region).astype(np.uint8) for array in arrays] for region in ([1, 2], [2])]
    whole, core = (sitk.GetArrayFromImage(itk.Execute([sitk.GetImageFromArray(m) for m in own])) for own in masks)
    expected = np.where(core, 2, np.where(whole, 1, 0))
    np.testing.assert_array_equal(_read(tmp_path / "regions" / "x.nii.gz"), expected)


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_empty_maps_equal_maps_and_labels_of_one_member(tmp_path: Path, method: str) -> None:
    empty, own = np.zeros((4, 6, 5), np.uint8), np.zeros((4, 6, 5), np.uint8)
    own[1:3, 2:4, 1:4] = 2
    cases = {"empty": [empty] * 3, "equal": [own] * 3, "one": [own, empty, empty]}
    members = _members(tmp_path, cases)
    for regions in ({}, REGIONS):
        output = tmp_path / f"out{len(regions)}"
        _describe(members[0], **regions)
        assert _combine(members, output, method=method).ok
        assert not _read(output / "empty.nii.gz").any()
        np.testing.assert_array_equal(_read(output / "equal.nii.gz"), own)
        assert not _read(output / "one.nii.gz").any()


def test_each_bad_case_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    names = ("good", "shape", "spacing", "origin", "value", "fraction", "damaged", "missing", "ignore")
    members = _members(tmp_path, {name: _maps(k) for k, name in enumerate(names)})
    second, array = members[1], _maps()[0]
    _describe(members[0], labels=LABELS | {"ignore": 3})
    _write(second / "shape.nii.gz", array[1:])
    _write(second / "spacing.nii.gz", array, spacing=(0.7, 1.5, 2.0))
    _write(second / "origin.nii.gz", array, origin=6.0)
    _write(second / "value.nii.gz", np.where(array == 2, 7, array).astype(np.uint8))
    _write(second / "fraction.nii.gz", array.astype(np.float32) / 2)
    _write(second / "ignore.nii.gz", np.where(array == 2, 3, array).astype(np.uint8))
    (second / "damaged.nii.gz").write_bytes((second / "good.nii.gz").read_bytes()[:60])
    (second / "missing.nii.gz").unlink()
    for method in ("majority", "staple"):
        report = _combine(members, tmp_path / method, method=method)
        assert report.done == ("good",)
        expected = {
            "shape": "differ in shape",
            "spacing": "differ in spacing",
            "origin": "differ in origin or direction",
            "value": r"other values; found \[7\]",
            "fraction": "not whole numbers",
            "damaged": "damaged.nii.gz",
            "missing": f"{second} has no missing.nii.gz",
            "ignore": "holds the ignore label",
        }
        assert set(report.failed) == set(expected)
        for case_id, text in expected.items():
            message = report.failed[case_id]
            assert message.startswith(f"case '{case_id}': "), message
            assert str(second) in message
            assert text.replace("\\", "") in message
        assert not (tmp_path / method / "value.nii.gz").exists()


def test_floats_that_are_whole_numbers_are_labels(tmp_path: Path) -> None:
    members = _members(tmp_path, {"x": _maps(dtype=np.float64)})
    assert _combine(members, tmp_path / "out").done == ("x",)
    written = sitk.ReadImage(str(tmp_path / "out" / "x.nii.gz"))
    assert written.GetPixelID() == sitk.sitkUInt8


def test_weights_decide_and_are_part_of_what_is_done(tmp_path: Path) -> None:
    arrays = _maps()
    members = _members(tmp_path, {"x": arrays})
    _combine(members, tmp_path / "out", weights=[3, 1, 1])
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), arrays[0])
    with pytest.raises(SegflowError, match="another 'weights'"):
        _combine(members, tmp_path / "out")
    with pytest.raises(SegflowError, match="another 'method'"):
        _combine(members, tmp_path / "out", method="staple")
    assert _combine(members, tmp_path / "out", resume=False).done == ("x",)
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), _majority(arrays))
    _write(members[0] / "x.nii.gz", arrays[1])
    assert _combine(members, tmp_path / "out").done == ("x",)  # another label map


def test_members_that_cannot_vote_are_refused(tmp_path: Path) -> None:
    members = _members(tmp_path, {"x": _maps()})
    for folders, settings, text in (
        (members[:1], {}, "at least two"),
        ([members[0], members[1], tmp_path / "m1" / ".." / "m0"], {}, "named twice"),
        (members, {"weights": [1, 2]}, "one weight per member"),
        ([members[0], tmp_path / "nowhere"], {}, "there is no folder"),
    ):
        with pytest.raises(SegflowError, match=text):
            _combine(folders, tmp_path / "out", **settings)
    for settings, text in (({"method": "staple", "weights": [1, 2, 3]}, "STAPLE"), ({"method": "mode"}, "unknown")):
        with pytest.raises(SegflowError, match=text):
            EnsembleSettings(**settings)
    with pytest.raises(SegflowError, match="the output is a member"):
        _combine(members, members[2])
    assert not (tmp_path / "out").exists()


def test_labels_that_differ_or_cannot_be_found_are_refused(tmp_path: Path) -> None:
    members = _members(tmp_path, {"x": _maps()})
    _describe(members[0])
    _describe(members[2], labels={"background": 0, "b": 1, "a": 2})
    with pytest.raises(SegflowError, match=r"m2/dataset\.json and .*m0/dataset\.json differ"):
        _combine(members, tmp_path / "out")
    assert _combine(members, tmp_path / "out", members[0] / "dataset.json").done == ("x",)
    with pytest.raises(SegflowError, match=r"no .*nowhere"):
        _combine(members, tmp_path / "other", tmp_path / "nowhere")
    (members[2] / "dataset.json").unlink()
    (members[1] / "x.nii.gz").rename(members[1] / "x.txt")
    with pytest.raises(SegflowError, match="holds no label maps"):
        _combine(members, tmp_path / "other")
    for name in ("x.mha", "x.nrrd"):
        _write(members[1] / name, _maps()[0])
    with pytest.raises(SegflowError, match="files of several endings"):
        _combine(members, tmp_path / "other")


def test_images_are_not_taken_for_label_maps(tmp_path: Path) -> None:
    values = np.arange(4 * 60 * 50, dtype=np.int16).reshape(4, 60, 50)
    with pytest.raises(SegflowError, match="more values than label maps have"):
        _combine(_members(tmp_path, {"x": [values, values]}), tmp_path / "out")


def test_real_label_maps_and_their_scores(test_data: Path, tmp_path: Path) -> None:
    """References of real cases, moved in three ways: the result is nearer to them than any member is."""
    source = test_data / "Dataset004_Hippocampus"
    files = sorted((source / "labelsTr").glob("*.nii.gz"))[:2]
    for file in files:
        image = sitk.ReadImage(str(file))
        for k in range(3):
            moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), (1, -1)[k % 2] * (k < 2), axis=k % 2))
            moved.CopyInformation(image)
            (tmp_path / f"m{k}").mkdir(exist_ok=True)
            sitk.WriteImage(moved, str(tmp_path / f"m{k}" / file.name))
    members = [tmp_path / f"m{k}" for k in range(3)]
    for method in ("majority", "staple"):
        report = combine_maps(members, tmp_path / method, EnsembleSettings(method=method), labels=source, processes=2)
        assert len(report.done) == len(files)
        for file in files:
            reference, own = _read(file), _read(tmp_path / method / file.name)
            wrong = [(reference != _read(member / file.name)).sum() for member in members[:2]]
            assert (reference != own).sum() < min(wrong)
