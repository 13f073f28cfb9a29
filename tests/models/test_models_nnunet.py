"""Models of nnU-Net v2 are read as it wrote them, and refused where they would do more than be read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import tiny_models
import torch
from test_models_weights import Malicious

from segflow.core.errors import SegflowError
from segflow.models.nnunet_checkpoint import read_nnunet_weights
from segflow.models.nnunet_model import is_nnunet_model, previous_model, read_nnunet_model
from segflow.models.trained_fold import load_weights
from segflow.network.build import build_network


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return target


@pytest.mark.parametrize("network", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize("name", ["2d", "3d_fullres", "3d_cascade_fullres"])
def test_folder_and_zip_give_networks_that_load_strictly(tmp_path: Path, name: str, network: str) -> None:
    model = tiny_models.make_nnunet_model(tmp_path / "results", name, (0, 1), network=network)
    archive = zipped(tmp_path / "results", tmp_path / "model.zip")
    for place in (model, tmp_path / "results", archive):
        folds = read_nnunet_model(place)
        assert [fold.record.fold for fold in folds] == [0, 1]
        one = folds[1].record
        assert one.mirror_axes == ((0, 1) if name == "2d" else (0, 1, 2))
        net = build_network(one.plan.topology, one.in_channels, one.dataset.labels.num_outputs)
        expected = tiny_models.weights(one)
        loaded = load_weights(net, folds[1]).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_the_folder_of_a_fold_is_this_fold(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path, "2d", (0, 1))
    assert is_nnunet_model(model / "fold_1")
    assert [fold.record.fold for fold in read_nnunet_model(model / "fold_1")] == [1]


def test_one_file_is_enough_for_weights(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path, "3d_fullres")
    (fold,) = read_nnunet_model(model)
    file = (model / "fold_0" / "checkpoint_final.pth").rename(tmp_path / "mine.pth")
    weights = read_nnunet_weights(file)
    assert weights.keys() == fold.weights.keys()
    torch.save({"network_weights": {}}, file)
    with pytest.raises(SegflowError, match=r"mine\.pth is not a checkpoint of nnU-Net v2"):
        read_nnunet_weights(file)


def test_regions_and_ignore_label_are_kept(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path, regions=True)
    labels = read_nnunet_model(model)[0].record.dataset.labels
    assert labels.regions == ((1, 2), (2,))
    assert labels.ignore_label == 3


def test_cascade_goes_before_the_stage_it_builds_on_which_is_found_beside_it(tmp_path: Path) -> None:
    cascade = tiny_models.make_nnunet_model(tmp_path / "r", "3d_cascade_fullres")
    low = tiny_models.make_nnunet_model(tmp_path / "r", "3d_lowres")
    archive = zipped(tmp_path / "r", tmp_path / "model.zip")
    for place in (tmp_path / "r", archive):
        assert read_nnunet_model(place)[0].record.configuration == "3d_cascade_fullres"
        assert read_nnunet_model(place, configuration="3d_lowres")[0].record.configuration == "3d_lowres"
        assert previous_model(place, "3d_lowres") == place
    assert previous_model(cascade, "3d_lowres") == low
    assert previous_model(cascade / "fold_0", "3d_lowres") == low


def test_several_models_without_a_choice_are_listed(tmp_path: Path) -> None:
    tiny_models.make_nnunet_model(tmp_path, "2d")
    tiny_models.make_nnunet_model(tmp_path, "3d_fullres")
    with pytest.raises(SegflowError, match=r"several models.*__2d.*__3d_fullres"):
        read_nnunet_model(tmp_path)
    with pytest.raises(SegflowError, match="no model of configuration '3d_lowres'"):
        read_nnunet_model(tmp_path, configuration="3d_lowres")


def test_unknown_checkpoint_is_named_with_the_known_ones(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    with pytest.raises(SegflowError, match=r"unknown checkpoint 'best\.pth'; expected final \| best \| last"):
        read_nnunet_model(model, checkpoint="best.pth")


def test_model_without_mirroring_has_no_views_to_average(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = tiny_models.nnunet_checkpoint(tiny_models.record())
    torch.save(content | {"inference_allowed_mirroring_axes": None}, file)
    assert read_nnunet_model(model)[0].record.mirror_axes == ()


def test_malicious_pickle_is_refused_in_folder_and_zip(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path / "r")
    content = tiny_models.nnunet_checkpoint(tiny_models.record())
    torch.save(content | {"trainer_name": Malicious()}, model / "fold_0" / "checkpoint_final.pth")
    for place in (model, zipped(tmp_path / "r", tmp_path / "evil.zip")):
        with pytest.raises(SegflowError, match="refused"):
            read_nnunet_model(place)
    assert not Path("/tmp/should-never-exist-segflow").exists()


@pytest.mark.parametrize("name", ["../../outside.txt", "/etc/outside.txt", "..\\outside.txt", "C:\\outside.txt"])
def test_zip_with_a_file_that_would_lie_outside_is_refused(tmp_path: Path, name: str) -> None:
    tiny_models.make_nnunet_model(tmp_path / "r")
    archive = zipped(tmp_path / "r", tmp_path / "slip.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "x")
    with pytest.raises(SegflowError, match="refused"):
        read_nnunet_model(archive)


def test_class_names_in_the_plans_are_never_imported(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    plans = json.loads((model / "plans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "antigravity.fly"
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SegflowError, match="does not build"):
        read_nnunet_model(model)


@pytest.mark.parametrize("file", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", ["[]", '{"labels": []}', '{"configurations": 3}'])
def test_a_broken_file_of_a_model_is_named(tmp_path: Path, file: str, content: str) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    (model / file).write_text(content)
    with pytest.raises(SegflowError, match=f"{model / file}"):
        read_nnunet_model(model)


def test_plans_that_do_not_fit_the_weights_say_so(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    other = tiny_models.record(network="residual_unet")
    (model / "plans.json").write_text(json.dumps(other.plans.to_json()))
    with pytest.raises(SegflowError, match="weights do not fit the plans"):
        read_nnunet_model(model)


def test_missing_fold_and_checkpoint_are_named(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    with pytest.raises(SegflowError, match=r"fold 3.*found 0"):
        read_nnunet_model(model, [0, 3])
    with pytest.raises(SegflowError, match=r"checkpoint_best\.pth"):
        read_nnunet_model(model, "all", "best")


def test_our_own_runs_and_other_files_are_not_taken_for_nnunet_models(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    (tmp_path / "text.zip").write_text("no zip")
    assert not is_nnunet_model(run)
    assert not is_nnunet_model(run / "fold_0")
    assert not is_nnunet_model(tmp_path / "text.zip")
    assert not is_nnunet_model(tmp_path / "nothing")
    with pytest.raises(SegflowError, match="neither a folder nor a readable zip"):
        read_nnunet_model(tmp_path / "text.zip")
