"""Whatever form a trained model has, its path is enough: kind, folds, records and weights."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from test_models_weights import Malicious

from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle
from segflow.models.open_model import ModelKind, open_model
from segflow.storage.folds import Fold

NAME = "3d_fullres"


def run(folder: Path) -> Path:
    return tiny_models.make_run(folder / "runs", NAME, (0, 2))


def checkpoint(folder: Path) -> Path:
    fold = Fold(run(folder) / "fold_2")
    return fold.checkpoint("final").rename(fold.checkpoint("best"))


def bundle(folder: Path) -> Path:
    return export_bundle(run(folder), folder / "model.segflow")


def nnunet_folder(folder: Path) -> Path:
    return tiny_models.make_nnunet_model(folder / "results", NAME, (0, 2))


def nnunet_zip(folder: Path) -> Path:
    nnunet_folder(folder)
    with zipfile.ZipFile(folder / "model.zip", "w") as archive:
        for file in (folder / "results").rglob("*"):
            archive.write(file, file.relative_to(folder / "results"))
    return folder / "model.zip"


def nnunet_checkpoint(folder: Path) -> Path:
    return shutil.copy(nnunet_folder(folder) / "fold_2" / "checkpoint_final.pth", folder / "downloaded.pth")


FORMS: dict[str, tuple[Callable[[Path], Path], ModelKind, list[str]]] = {
    "a run": (run, ModelKind.RUN, ["0", "2"]),
    "a fold": (lambda folder: run(folder) / "fold_2", ModelKind.FOLD, ["2"]),
    "a fold's record": (lambda folder: run(folder) / "fold_2" / "run.json", ModelKind.FOLD, ["2"]),
    "a fold's checkpoint": (checkpoint, ModelKind.CHECKPOINT, ["2"]),
    "a bundle": (bundle, ModelKind.BUNDLE, ["0", "2"]),
    "nnU-Net's folder": (nnunet_folder, ModelKind.NNUNET_MODEL, ["0", "2"]),
    "nnU-Net's results": (lambda folder: nnunet_folder(folder).parents[1], ModelKind.NNUNET_MODEL, ["0", "2"]),
    "nnU-Net's fold": (lambda folder: nnunet_folder(folder) / "fold_2", ModelKind.NNUNET_MODEL, ["2"]),
    "nnU-Net's zip": (nnunet_zip, ModelKind.NNUNET_MODEL, ["0", "2"]),
    "nnU-Net's checkpoint": (nnunet_checkpoint, ModelKind.NNUNET_CHECKPOINT, ["2"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_path_is_enough(tmp_path: Path, form: str) -> None:
    make, kind, folds = FORMS[form]
    opened = open_model(make(tmp_path))
    assert (opened.kind, opened.folds()) == (kind, folds)
    members = opened.read()
    assert [str(fold.record.fold) for fold in members] == folds
    for fold in members:
        expected = tiny_models.weights(fold.record)
        assert fold.record.plan == tiny_models.record(NAME).plan
        assert fold.record.dataset.labels == tiny_models.record(NAME).dataset.labels
        assert fold.weights.keys() == expected.keys()
        assert all(torch.equal(fold.weights[key], value) for key, value in expected.items())
    first = opened.first_weights()
    assert all(torch.equal(first[key], value) for key, value in members[0].weights.items())


@pytest.mark.parametrize("form", FORMS)
def test_folds_are_chosen_by_name_and_one_that_is_not_there_is_named(tmp_path: Path, form: str) -> None:
    opened = open_model(FORMS[form][0](tmp_path))
    assert [fold.record.fold for fold in opened.read(2)] == [2]
    with pytest.raises(SegflowError, match=r"has no weights of fold 3.*found .*2"):
        opened.read([2, 3])


def test_of_several_folds_the_one_that_is_taken_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bundle(tmp_path)
    with caplog.at_level("INFO"):
        open_model(model).first_weights()
    assert f"of 2 folds in {model}, those of fold 0" in caplog.text


def test_weights_alone_have_no_record_but_can_be_trained_on_from(tmp_path: Path) -> None:
    alone = shutil.copy(checkpoint(tmp_path), tmp_path / "alone.ckpt")
    opened = open_model(alone)
    assert opened.first_weights().keys() == tiny_models.weights(tiny_models.record(NAME)).keys()
    with pytest.raises(
        SegflowError, match=r"alone\.ckpt is not a model: it lies in no fold with a run\.json.*expected .*a bundle"
    ):
        opened.read()


def test_a_checkpoint_of_a_callbacks_own_is_weights_alone(tmp_path: Path) -> None:
    file = checkpoint(tmp_path)
    other = file.rename(file.with_name("epoch=3-dice:0.5.ckpt"))
    assert open_model(other).first_weights()
    with pytest.raises(SegflowError, match=r"unknown checkpoint 'epoch=3-dice:0\.5'; expected final \| best \| last"):
        open_model(other).read()


def test_a_path_where_nothing_is_names_the_runs_nearby(tmp_path: Path) -> None:
    there = run(tmp_path)
    with pytest.raises(SegflowError, match=f"there is no model {there}x; found runs in .*: {there}"):
        open_model(there.with_name(f"{there.name}x"))
    with pytest.raises(SegflowError, match=r"has no checkpoint 'best'; found final"):
        open_model(there / "fold_0" / "checkpoints" / "best.ckpt")


def test_files_and_folders_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no model")
    with pytest.raises(
        SegflowError, match=r"text is not a model, or is cut off; expected a run's folder, a bundle, or"
    ):
        open_model(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegflowError, match="empty holds no trained fold"):
        open_model(tmp_path / "empty").read()
    for ending in (".ckpt", ".pt", ".pth"):
        (tmp_path / f"text{ending}").write_text("no tensors")
        with pytest.raises(SegflowError, match=rf"text\{ending}"):
            open_model(tmp_path / f"text{ending}").first_weights()


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth"])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, ending: str) -> None:
    torch.save({"state_dict": {}, "init_args": {}, "network_weights": Malicious()}, tmp_path / f"evil{ending}")
    with pytest.raises(SegflowError, match=rf"evil\{ending} holds more than tensors and plain data, and is refused"):
        open_model(tmp_path / f"evil{ending}").first_weights()


CASCADE = "3d_cascade_fullres"


def test_the_previous_stage_of_a_cascade_is_found_in_every_form(tmp_path: Path) -> None:
    low = tiny_models.make_run(tmp_path / "runs", "3d_lowres")
    cascade = tiny_models.make_run(tmp_path / "runs", CASCADE)
    file = export_bundle(cascade, tmp_path / "model.segflow")
    their_low = tiny_models.make_nnunet_model(tmp_path / "results", "3d_lowres")
    theirs = tiny_models.make_nnunet_model(tmp_path / "results", CASCADE)
    places = {
        cascade: low,
        cascade / "fold_0": low,
        Fold(cascade / "fold_0").checkpoint("final"): low,
        file: file,
        theirs: their_low,
        theirs / "fold_0": their_low,
        theirs / "fold_0" / "checkpoint_final.pth": their_low,
    }
    for path, expected in places.items():
        opened = open_model(path)
        place, name = opened.previous_stage(opened.read()[0].record)
        assert (place, name) == (expected, "3d_lowres")
        assert open_model(place, configuration=name).read()[0].record.configuration == "3d_lowres"


def test_a_cascades_checkpoint_alone_says_that_its_previous_stage_has_to_be_named(tmp_path: Path) -> None:
    theirs = tiny_models.make_nnunet_model(tmp_path / "results", CASCADE)
    opened = open_model(shutil.copy(theirs / "fold_0" / "checkpoint_final.pth", tmp_path / "alone.pth"))
    with pytest.raises(SegflowError, match=r"needs the model of '3d_lowres'.*previous_stage="):
        opened.previous_stage(opened.read()[0].record)
