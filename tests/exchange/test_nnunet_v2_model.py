"""Runs of ours as models of nnU-Net v2, and the other way round."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle, export_nnunet_model
from segflow.exchange.import_model import import_model, import_nnunet_model
from segflow.models.nnunet_model import read_nnunet_model
from segflow.models.own_runs import read_fold
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import Fold

NAMES = ["2d", "3d_fullres", "3d_cascade_fullres"]
KEYS = {
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
}


@pytest.mark.parametrize("network", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize("name", NAMES)
def test_export_and_import_give_the_same_weights_and_record(tmp_path: Path, name: str, network: str) -> None:
    run = tiny_models.make_run(tmp_path / "ours", name, (0, 3), network=network)
    for target in (tmp_path / "results", tmp_path / "model.zip"):
        model = export_nnunet_model(run, target)
        back = import_nnunet_model(model, tmp_path / target.stem)
        assert back == tmp_path / target.stem / tiny_models.DATASET / "nnUNetPlans" / name / "imported"
        for ours, theirs in zip(find_folds(run), find_folds(back), strict=True):
            one, two = read_fold(ours), read_fold(theirs)
            assert one.record.fold == two.record.fold
            assert one.record.plan == two.record.plan
            assert one.record.dataset == two.record.dataset
            assert one.record.mirror_axes == two.record.mirror_axes
            assert one.weights.keys() == two.weights.keys()
            assert all(torch.equal(value, two.weights[key]) for key, value in one.weights.items())
            assert theirs.is_finished()


def test_a_network_that_nnunet_cannot_build_is_refused_by_name(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, network="mednext")
    with pytest.raises(SegflowError, match="nnU-Net cannot build the network 'mednext'"):
        export_nnunet_model(run, tmp_path / "results")


def test_exported_folder_is_laid_out_as_nnunet_looks_for_it(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, "all"))
    (run / "fold_0" / "progress.png").write_bytes(b"png")
    (run / "fold_0" / "validation").mkdir()
    (run / "fold_0" / "validation" / "summary.json").write_text("{}")
    model = export_nnunet_model(run, tmp_path / "results", folds=[0, "all"])
    assert model == tmp_path / "results" / tiny_models.DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    files = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert files == {
        "plans.json",
        "dataset.json",
        "fold_0/checkpoint_final.pth",
        "fold_0/progress.png",
        "fold_0/validation/summary.json",
        "fold_all/checkpoint_final.pth",
    }
    content = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content.keys() == KEYS
    assert content["init_args"].keys() == {"plans", "configuration", "fold", "dataset_json", "device"}
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)


def test_exported_checkpoint_names_every_alias_once_in_the_file(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    model = export_nnunet_model(run, tmp_path / "results")
    file = model / "fold_0" / "checkpoint_final.pth"
    state = torch.load(file, weights_only=True)["network_weights"]
    name = "encoder.stages.0.0.convs.0.conv.weight"
    for alias in (name.replace("conv.weight", "all_modules.0.weight"), f"decoder.{name}"):
        assert state[alias].data_ptr() == state[name].data_ptr()
    weights = sum(value.nbytes for value in read_fold(Fold(run / "fold_0")).weights.values())
    with zipfile.ZipFile(file) as archive:
        assert sum(entry.file_size for entry in archive.infolist() if "/data/" in entry.filename) == weights


def test_import_of_a_cascade_brings_its_previous_stage(tmp_path: Path) -> None:
    tiny_models.make_nnunet_model(tmp_path / "results", "3d_lowres")
    model = tiny_models.make_nnunet_model(tmp_path / "results", "3d_cascade_fullres")
    run = import_nnunet_model(model, tmp_path / "ours", run_name="theirs")
    assert (run.parent.parent / "3d_lowres" / "theirs" / "fold_0" / "run.json").is_file()


def test_import_of_a_cascade_alone_says_that_its_previous_stage_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_models.make_nnunet_model(tmp_path / "results", "3d_cascade_fullres")
    assert import_nnunet_model(model, tmp_path / "ours").is_dir()
    assert "previous stage '3d_lowres' was not imported" in caplog.text


def test_every_form_of_a_model_is_exported_and_one_checkpoint_imported(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "ours", folds=(0, 1))
    bundle = export_bundle(run, tmp_path / "model.segflow")
    first = export_nnunet_model(run, tmp_path / "a")
    for number, source in enumerate((bundle, first, first / "fold_1" / "checkpoint_final.pth")):
        model = export_nnunet_model(source, tmp_path / str(number))
        (back,) = import_model(model / "fold_1" / "checkpoint_final.pth", tmp_path / f"back{number}")
        one, two = read_fold(Fold(run / "fold_1")), read_fold(Fold(back / "fold_1"))
        assert one.record.plan == two.record.plan
        assert one.record.dataset == two.record.dataset
        assert all(torch.equal(value, two.weights[key]) for key, value in one.weights.items())


def test_what_is_no_model_from_elsewhere_is_not_imported(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    for path in (run, Fold(run / "fold_0").checkpoint("final")):
        with pytest.raises(SegflowError, match=rf"{path} holds no model of nnU-Net v2"):
            import_model(path, tmp_path / "new")
    with pytest.raises(SegflowError, match=r"there is no .*nothing\.zip; expected a bundle, or a model of nnU-Net"):
        import_model(tmp_path / "nothing.zip", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    model = export_nnunet_model(run, tmp_path / "results")
    with pytest.raises(SegflowError, match="exists already"):
        export_nnunet_model(run, tmp_path / "results")
    import_nnunet_model(model, tmp_path / "ours")
    with pytest.raises(SegflowError, match="already"):
        import_nnunet_model(model, tmp_path / "ours")


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    Fold(run / "fold_1").checkpoint("final").write_bytes(b"broken")
    with pytest.raises(SegflowError, match=r"final\.ckpt"):
        export_nnunet_model(run, tmp_path / "results")
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_models.make_run(tmp_path)
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "results", tmp_path / "file" / "model.zip"):
        with pytest.raises(SegflowError, match=rf"cannot write {target}"):
            export_nnunet_model(run, target)

    def full(*_: object) -> None:
        raise RuntimeError("file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SegflowError, match=r"cannot write .*results.*file write failed"):
        export_nnunet_model(run, tmp_path / "results")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_export_writes_below_its_own_folder_only(tmp_path: Path) -> None:
    run, results = tiny_models.make_run(tmp_path / "ours"), tmp_path / "shared" / "results"
    results.mkdir(parents=True)
    results.parent.chmod(0o555)
    assert export_nnunet_model(run, results).parent.parent == results
    assert len(list(results.iterdir())) == 1


def test_a_chosen_fold_and_regions_survive_the_way(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1), regions=True)
    model = export_nnunet_model(run, tmp_path / "model.zip", folds=1)
    (fold,) = read_nnunet_model(model)
    assert fold.record.fold == 1
    assert fold.record.dataset.labels.regions_class_order == (1, 2)


def test_an_ending_of_label_maps_that_nnunet_does_not_know_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_models.make_run(tmp_path, "2d", (0,))
    (file,) = run.glob("fold_0/run.json")
    content = json.loads(file.read_text())
    content["dataset"]["label_file_ending"] = ".nrrd"
    file.write_text(json.dumps(content))
    model = export_nnunet_model(run, tmp_path / "results")
    assert "it writes predictions as .nii.gz, not as .nrrd" in caplog.text
    assert read_nnunet_model(model)[0].record.dataset.label_ending == ".nrrd"


# Its float16 sums decide near ties by their rounding, and random weights have many; in float32 nothing may differ.
PREDICT = """
import sys, torch
torch.set_num_threads(1)
torch.half = torch.float32
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], None)
predictor.predict_from_files_sequential(sys.argv[2], sys.argv[3])
"""


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_nnunets_own_predictor_loads_the_export_and_agrees(tmp_path: Path, name: str) -> None:
    from segflow.inference.predictor import Predictor

    python = os.environ.get("SEGFLOW_NNUNET_PYTHON")
    if python is None and importlib.util.find_spec("nnunetv2") is None:
        pytest.skip("nnunetv2 is not installed; SEGFLOW_NNUNET_PYTHON may name an interpreter that has it")
    run = tiny_models.make_run(tmp_path, name, (0, 1))
    model = export_nnunet_model(run, tmp_path / "results")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    random = np.random.default_rng(0)
    voxels = random.normal(size=(20, 30, 26)).astype(np.float32)
    voxels[4:16, 8:20, 6:20] += 2
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.9, 1.1, 1.3))
    sitk.WriteImage(image, str(tmp_path / "in" / "a_0000.nii.gz"))
    arguments = [python or sys.executable, "-c", PREDICT, str(model), str(tmp_path / "in"), str(tmp_path / "out")]
    roots = {f"nnUNet_{root}": str(tmp_path) for root in ("raw", "preprocessed", "results")}
    subprocess.run(arguments, check=True, capture_output=True, env=os.environ | roots)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a.nii.gz")))
    ours = sitk.GetArrayFromImage(Predictor.load(run, device="cpu").predict(image))
    assert len(np.unique(theirs)) > 1
    assert np.mean(ours == theirs) >= 0.9999
