"""The validation cases of a fold, from the arrays that it would have been trained with."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
from inference_images import make_image

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.run_record import RunRecord
from segflow.inference.image_objects import image_object
from segflow.inference.planes import Room
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predict_validation import predict_validation, validated_with
from segflow.inference.predictor import Predictor
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.runs import Run

CPU = PredictSettings(device="cpu")
CASES = ("a", "b")


def store_of(folder: Path, record: RunRecord, cases: tuple[str, ...] = CASES) -> PreprocessedStore:
    store = PreprocessedStore(folder)
    for seed, name in enumerate(cases):
        made = image_object(make_image(seed)).case
        label = (made.image[0] > 100).astype(np.int16)
        case = Case(name, made.image, label, Geometry(made.geometry.spacing, made.geometry.header))
        store.write(preprocess_case(case, record.plans, record.plan, record.dataset.labels), record.plan.patch_size)
    return store


def fold_of(tmp_path: Path, name: str = "3d_fullres") -> Fold:
    return Fold(tiny_models.make_run(tmp_path, name, val_cases=CASES) / "fold_0")


def labels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_validation_cases_get_the_labels_that_their_images_would(tmp_path: Path, name: str) -> None:
    folder = fold_of(tmp_path, name)
    report = predict_validation(folder, store_of(tmp_path / "store", folder.read_record()), CPU)
    assert report.done == CASES
    predictor = Predictor.load(folder.path, device="cpu")
    for seed, case in enumerate(CASES):
        expected = predictor.predict(make_image(seed))
        written = sitk.ReadImage(str(folder.validation / f"{case}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))
        assert written.GetDirection() == pytest.approx(expected.GetDirection())
        assert written.GetOrigin() == pytest.approx(expected.GetOrigin())


def test_cases_are_predicted_anew_after_any_change_of_what_made_them(tmp_path: Path) -> None:
    folder = fold_of(tmp_path)
    store = store_of(tmp_path / "store", folder.read_record())
    predict_validation(folder, store, CPU)
    weights = folder.checkpoint("final")
    later = weights.stat().st_mtime + 5
    os.utime(weights, (later, later))  # the same weights, copied
    assert predict_validation(folder, store, CPU).skipped == CASES
    plain = PredictSettings(device="cpu", mirroring=False)
    assert predict_validation(folder, store, plain).done == CASES
    assert predict_validation(folder, store, plain).skipped == CASES
    other = Fold(tiny_models.make_run(tmp_path / "other", folds=(1,)) / "fold_1").checkpoint("final")
    weights.write_bytes(other.read_bytes())
    os.utime(weights, (0, 0))  # however old they look
    assert predict_validation(folder, store, plain).done == CASES
    changed = store_of(tmp_path / "changed", folder.read_record(), ("b", "a"))
    for name in ("a.b2nd", "a.json"):
        (store.folder / name).write_bytes((changed.folder / name).read_bytes())
    report = predict_validation(folder, PreprocessedStore(store.folder), plain)
    assert (report.skipped, report.done) == (("b",), ("a",))


def test_label_maps_that_nothing_is_known_of_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fold_of(tmp_path)
    store = store_of(tmp_path / "store", folder.read_record())
    predict_validation(folder, store, CPU)
    before = labels(folder.validation / "a.nii.gz")
    shutil.rmtree(folder.validation / ".segflow")  # as an earlier segflow left them
    assert validated_with(folder, folder.read_record()) is None
    assert predict_validation(folder, store, CPU).done == CASES
    assert "2 of 2 validation maps are made anew: not known what from (2)" in caplog.text
    assert np.array_equal(labels(folder.validation / "a.nii.gz"), before)


def test_a_fold_says_how_it_was_validated_whatever_its_record_says(tmp_path: Path) -> None:
    folder = fold_of(tmp_path)
    store, record = store_of(tmp_path / "store", folder.read_record()), folder.read_record()
    predict_validation(folder, store, PredictSettings(device="cpu", mirroring=False, overlap=0.75))
    used = validated_with(folder, record)
    assert used is not None
    assert (used["mirroring"], used["overlap"], used["checkpoint"]) == (False, 0.75, "final")
    file = folder.validation / "b.nii.gz"
    kept = file.read_bytes()
    file.write_bytes((folder.validation / "a.nii.gz").read_bytes())
    with pytest.raises(SegflowError, match=r"case 'b'.*exchanged"):
        validated_with(folder, record)
    file.write_bytes(kept)
    other = Fold(tiny_models.make_run(tmp_path / "other", folds=(1,)) / "fold_1").checkpoint("final")
    folder.checkpoint("final").write_bytes(other.read_bytes())
    with pytest.raises(SegflowError, match=r"other weights.*segflow train"):
        validated_with(folder, record)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list a process's files")
def test_cases_are_closed_once_they_are_predicted(tmp_path: Path) -> None:
    folder = fold_of(tmp_path)
    store = store_of(tmp_path / "store", folder.read_record())
    store.open("a").read_image()
    assert "store/a.b2nd" in Path("/proc/self/maps").read_text()
    predict_validation(folder, store, CPU)
    gc.collect()
    assert "store/a.b2nd" not in Path("/proc/self/maps").read_text()


def test_a_case_that_is_not_preprocessed_fails_and_the_others_are_done(tmp_path: Path) -> None:
    folder = fold_of(tmp_path)
    report = predict_validation(folder, store_of(tmp_path / "store", folder.read_record(), ("a",)), CPU)
    assert report.done == ("a",)
    assert "segflow preprocess" in report.failed["b"]


@pytest.mark.parametrize("in_slabs", [False, True])
def test_the_next_stage_receives_labels_on_its_own_grid_and_predicts_with_them(
    tmp_path: Path, in_slabs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_slabs:  # as for images whose logits do not fit into memory
        monkeypatch.setattr(Room, "of_machine", classmethod(lambda cls, scratch=None: cls(1, 1, scratch)))
    low = fold_of(tmp_path, "3d_lowres")
    cascade = fold_of(tmp_path, "3d_cascade_fullres")
    low_store = store_of(tmp_path / "low", low.read_record())
    full_store = store_of(tmp_path / "full", cascade.read_record(), ("a",))
    report = predict_validation(low, low_store, CPU, next_stages={"3d_cascade_fullres": full_store})
    assert report.ok
    given = PreprocessedStore(Run.of(low.path).handed_on("3d_cascade_fullres"))
    assert given.case_ids() == ["a"]  # the other is not preprocessed there
    label = given.open("a").read_label()
    assert label.shape == full_store.open("a").shape
    assert label.shape != low_store.open("a").shape
    assert set(np.unique(label)) <= {0, 1, 2}
    # In image space the labels are those of the low resolution, but for what two roundings change at the edges.
    from_low = labels(low.validation / "a.nii.gz")
    spatial = full_store.open("a").spatial
    inside = from_low[spatial.crop.slices]
    nearest = np.ix_(*(np.arange(n) * m // n for n, m in zip(label.shape, inside.shape, strict=True)))
    assert np.mean(inside[nearest] == label) > 0.8

    done = predict_validation(cascade, full_store, CPU, previous_stage=given)
    assert done.done == ("a",)
    predictor = Predictor.load(cascade.path, device="cpu")
    folder_labels = labels(cascade.validation / "a.nii.gz")
    assert folder_labels.shape == full_store.open("a").spatial.shape_original
    with_other_input = predictor.predict_case(image_object(make_image(0)).case, np.zeros_like(folder_labels))
    assert not np.array_equal(folder_labels, with_other_input)


def test_a_cascade_without_its_input_says_so(tmp_path: Path) -> None:
    cascade = fold_of(tmp_path, "3d_cascade_fullres")
    store = store_of(tmp_path / "full", cascade.read_record())
    report = predict_validation(cascade, store, CPU)
    assert all("previous stage" in message for message in report.failed.values())
    assert report.failed.keys() == set(CASES)
