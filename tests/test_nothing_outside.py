"""Whatever names a record gives, and wherever links in an output folder lead: nothing outside of it is touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.plans import Plans
from segflow.exchange.export_model import export_bundle
from segflow.exchange.import_model import import_bundle, import_nnunet_model
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.postprocessing.apply_postprocessing import apply_postprocessing, read_choice
from segflow.preprocessing.preprocess_dataset import preprocess_dataset
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.selection.crossval import accumulate_crossval
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.json_files import read_json_as

ENDING = ".nii.gz"
READER = reader_by_name("SimpleITKIO")
HOSTILE = ("../../victim/x", "/VICTIM/x", "..", "..\\victim\\x")
FULLRES = ("plans", "configurations", "3d_fullres")
NAME_FIELDS = (
    *(("dataset_name",), ("configuration",), ("fold",), ("plans", "dataset_name"), ("plans", "plans_name")),
    *(
        (*FULLRES, "data_identifier"),
        (*FULLRES, "previous_stage"),
        (*FULLRES, "next_stage"),
        ("dataset", "file_ending"),
    ),
    *(("val_cases", 0), ("train_cases", 0), ("settings", "previous_run_name")),
)


def image(folder: Path, name: str = "scan") -> Path:
    values = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    READER.write_map(values, Geometry((1.0, 1.0, 1.0)), folder / f"{name}_0000{ENDING}")
    READER.write_label((values > 1).astype(np.uint8), Geometry((1.0, 1.0, 1.0)), folder / "labels" / f"{name}{ENDING}")
    return folder / f"{name}_0000{ENDING}"


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of the user's that must stay as it is, beside folders that commands may write to."""
    folder = tmp_path / "victim"
    image(folder, "x")
    (folder / f"x{ENDING}").write_text("precious")
    (folder / "x.json").write_text("precious")
    (tmp_path / f"x{ENDING}").write_text("precious")
    before = snapshot(tmp_path, ("victim", f"x{ENDING}"))
    yield folder
    assert snapshot(tmp_path, ("victim", f"x{ENDING}")) == before
    allowed = {"victim", f"x{ENDING}", "home", "out", "raw", "model", "images"}
    assert {child.name for child in tmp_path.iterdir()} <= allowed


def snapshot(root: Path, names: tuple[str, ...]) -> dict[str, str]:
    files = [file for name in names for file in [root / name, *(root / name).rglob("*")] if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def put(content: dict[str, Any], field: tuple[Any, ...], name: str, victim: Path) -> None:
    """The name at this place, made to fit: an ending begins with a dot, a path names the victim."""
    name = name.replace("/VICTIM", str(victim))
    for key in field[:-1]:
        content = content[key]
    if field[-1] == 0:
        content[:] = [name]  # type: ignore[index]
    else:
        content[field[-1]] = f"./{name}{ENDING}" if field[-1] == "file_ending" else name


def hostile_run(folder: Path, field: tuple[Any, ...], name: str, victim: Path) -> Path:
    run = tiny_models.make_run(folder, val_cases=["scan"])
    file = run / "fold_0" / "run.json"
    content = json.loads(file.read_text())
    put(content, field, name, victim)
    file.write_text(json.dumps(content))
    return run


def hostile_bundle(folder: Path, field: tuple[Any, ...], name: str, victim: Path) -> Path:
    whole, hostile = folder / "whole", folder / "hostile.segflow"
    export_bundle(tiny_models.make_run(folder), whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(hostile, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry == "bundle.json":
                manifest = json.loads(content)
                (model,) = manifest["models"].values()
                put(model["record"], field, name, victim)
                if field == ("fold",):
                    model["folds"] = dict.fromkeys([name], *model["folds"].values())
                if field == ("configuration",):
                    manifest["models"] = {name: model}
                content = json.dumps(manifest).encode()
            new.writestr(entry, content)
    return hostile


def refused(act: Callable[[], object]) -> None:
    """The command says no; or, where the name is of no use to it, does its work in its own folder."""
    with contextlib.suppress(SegflowError):
        act()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", NAME_FIELDS)
def test_predict_import_and_select_of_hostile_models(
    tmp_path: Path, victim: Path, field: tuple[Any, ...], name: str
) -> None:
    bundle = hostile_bundle(tmp_path / "home" / "a", field, name, victim)
    run = hostile_run(tmp_path / "home" / "b", field, name, victim)
    scan, out = image(tmp_path / "images"), tmp_path / "out"
    settings = PredictSettings(device="cpu", mirroring=False, resume=False)
    for k, model in enumerate((bundle, run)):
        refused(lambda model=model, k=k: predict_cases(model, [scan], out / str(k), settings))  # type: ignore[misc]
    refused(lambda: import_bundle(bundle, out / "runs"))
    refused(lambda: accumulate_crossval(run, tmp_path / "images" / "labels", processes=0))


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", [("fold",), ("configuration",)])
def test_import_of_hostile_nnunet_models(tmp_path: Path, victim: Path, field: tuple[str], name: str) -> None:
    model = tiny_models.make_nnunet_model(tmp_path / "home")
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    put(content["init_args"], field, name, victim)
    torch.save(content, file)
    with pytest.raises(SegflowError):
        import_nnunet_model(model, tmp_path / "out")


def raw_dataset(folder: Path) -> Path:
    scan = image(folder / "imagesTr")
    (folder / "imagesTr" / "labels").rename(folder / "labelsTr")
    (folder / "dataset.json").write_text(json.dumps(tiny_models.dataset_json() | {"numTraining": 1}))
    assert scan.is_file()
    return folder


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("field", ["data_identifier", "case", "file_ending"])
def test_preprocess_with_hostile_plans_and_datasets(tmp_path: Path, victim: Path, field: str, name: str) -> None:
    raw, plans = raw_dataset(tmp_path / "raw"), tiny_models.plans().to_json()
    file = raw / "dataset.json"
    description = json.loads(file.read_text())
    name = name.replace("/VICTIM", str(victim))
    if field == "data_identifier":
        plans["configurations"]["3d_fullres"]["data_identifier"] = name
    elif field == "case":
        scan = {"images": [f"imagesTr/scan_0000{ENDING}"], "label": f"labelsTr/scan{ENDING}"}
        description["dataset"] = {name: scan}
    else:
        description["file_ending"] = f"./{name}{ENDING}"
    file.write_text(json.dumps(description))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "plans.json").write_text(json.dumps(plans))

    def act() -> None:
        read = read_json_as(tmp_path / "home" / "plans.json", Plans.from_json)
        preprocess_dataset(raw, read, ["3d_fullres"], tmp_path / "out", PreprocessSettings(processes=0))

    with pytest.raises(SegflowError):
        act()


@pytest.mark.parametrize("name", HOSTILE)
def test_ensemble_and_postprocess_beside_a_hostile_dataset_json(tmp_path: Path, victim: Path, name: str) -> None:
    member, out = tmp_path / "home", tmp_path / "out"
    scan = image(tmp_path / "images")
    model = export_bundle(tiny_models.make_run(tmp_path / "model"), tmp_path / "model" / "a.segflow")
    settings = PredictSettings(device="cpu", mirroring=False, probabilities=True)
    assert predict_cases(model, [scan], member, settings).done == ("scan",)
    content = tiny_models.dataset_json() | {"file_ending": f"./{name.replace('/VICTIM', str(victim))}{ENDING}"}
    (member / "dataset.json").write_text(json.dumps(content))
    (member / "postprocessing.json").write_text('{"steps": [{"kind": "keep_largest", "labels": [1]}]}')
    choice = read_choice(member / "postprocessing.json")

    def act(postprocess: bool) -> None:
        read = read_dataset_json(member / "dataset.json", "x")
        if postprocess:
            apply_postprocessing(member, choice, out, file_ending=read.file_ending, processes=0)
        else:
            ensemble_cases([member, member], out, read.labels, file_ending=read.file_ending, reader="SimpleITKIO")

    for postprocess in (False, True):
        with pytest.raises(SegflowError, match="file_ending"):
            act(postprocess)


@pytest.mark.parametrize("folder", ["previous_stage", "probabilities", ".segflow"])
def test_predictions_do_not_follow_a_link_out_of_their_folder(tmp_path: Path, victim: Path, folder: str) -> None:
    for name in ("3d_lowres", "3d_cascade_fullres"):
        run = tiny_models.make_run(tmp_path / "home", name)
    scan, out = image(tmp_path / "images"), tmp_path / "out"
    out.mkdir()
    (out / folder).symlink_to(victim, target_is_directory=True)
    settings = PredictSettings(device="cpu", mirroring=False, probabilities=True, resume=False)
    with pytest.raises(SegflowError, match=f"{folder} is a link that leads out of"):
        raise SegflowError(" ".join(predict_cases(run, [scan], out, settings).failed.values()))


def test_a_link_in_place_of_a_label_map_is_replaced_or_refused_and_not_followed(tmp_path: Path, victim: Path) -> None:
    run, scan = tiny_models.make_run(tmp_path / "home"), image(tmp_path / "images", "x")
    out = tmp_path / "out"
    out.mkdir()
    for name in (f"x{ENDING}", "dataset.json", "plans.json", "predict.json"):
        (out / name).symlink_to(victim / "x.json")
    refused(lambda: predict_cases(run, [scan], out, PredictSettings(device="cpu", mirroring=False, resume=False)))


def test_an_output_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    run, scan = tiny_models.make_run(tmp_path / "home"), image(tmp_path / "images")
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk", target_is_directory=True)
    report = predict_cases(run, [scan], tmp_path / "out", PredictSettings(device="cpu", mirroring=False))
    assert report.done == ("scan",)
    assert (tmp_path / "disk" / f"scan{ENDING}").is_file()


@pytest.mark.parametrize("name", ["gt_segmentations", "nnUNetPlans_3d_fullres"])
def test_preprocessing_does_not_follow_a_link_out_of_its_folder(tmp_path: Path, victim: Path, name: str) -> None:
    raw, out = raw_dataset(tmp_path / "raw"), tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(victim, target_is_directory=True)
    with pytest.raises(SegflowError, match=f"{name} is a link that leads out of"):
        preprocess_dataset(raw, tiny_models.plans(), ["3d_fullres"], out, PreprocessSettings(processes=0))


@pytest.mark.parametrize("name", ["checkpoints", "validation", ".hydra", ".lock"])
def test_a_training_does_not_follow_a_link_out_of_its_folder(tmp_path: Path, victim: Path, name: str) -> None:
    fold = Fold(tmp_path / "out" / "fold_0")
    fold.path.mkdir(parents=True)
    (fold.path / name).symlink_to(victim / "x.json" if name == ".lock" else victim)
    with pytest.raises(SegflowError, match=f"{name} is a link"), fold.locked():
        shutil.rmtree(fold.path)
