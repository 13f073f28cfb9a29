"""A trained model as an object in memory."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
import torch
from inference_images import make_image
from torch import nn

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.inference.load_model import find_previous_stage, load_model
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.predictor import Predictor
from segflow.network.cpu.layers import ChannelsLastUNet
from segflow.network.unet import UNet
from segflow.storage.folds import Fold


def load(tmp_path: Path, name: str = "3d_fullres", **options: object) -> Predictor:
    return Predictor.load(tiny_models.make_run(tmp_path, name, **options), device="cpu")  # type: ignore[arg-type]


def test_networks_come_ready_to_predict(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    (network,) = load_model(run / "fold_1").networks
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with torch.inference_mode():
        assert len(network(torch.zeros(1, 1, 16, 16, 16))) == 1
    model = load_model(run)
    assert model.folds == ("0", "1")
    expected = network.state_dict()
    assert all(torch.equal(expected[key], value) for key, value in model.networks[1].state_dict().items())


def test_on_a_cpu_networks_get_quick_layers(tmp_path: Path) -> None:
    model = load_model(tiny_models.make_run(tmp_path, folds=(0, 1)))
    assert {type(network) for network in model.networks} == {UNet}
    predictor = Predictor(model, device="cpu")
    assert {type(network) for network in predictor.networks} == {ChannelsLastUNet}


@pytest.mark.parametrize("name", ["2d", "3d_fullres", "3d_cascade_fullres"])
@pytest.mark.parametrize("regions", [False, True])
def test_array_gives_a_label_map_of_the_datasets_labels(tmp_path: Path, name: str, regions: bool) -> None:
    if name == "3d_cascade_fullres":
        tiny_models.make_run(tmp_path, "3d_lowres", regions=regions)
    predictor = load(tmp_path, name, regions=regions)
    image = sitk.GetArrayFromImage(make_image())
    labels = predictor.predict(image, (2.0, 0.8, 1.25))
    assert labels.shape == image.shape
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert len(np.unique(labels)) > 1


def test_array_simpleitk_and_nibabel_give_the_same_labels(tmp_path: Path) -> None:
    predictor = load(tmp_path)
    image = make_image()
    array = sitk.GetArrayFromImage(image)
    from_array = predictor.predict(array, image.GetSpacing()[::-1])
    from_itk = predictor.predict(image)
    affine = np.diag([*image.GetSpacing(), 1.0])
    from_nibabel = predictor.predict(nibabel.Nifti1Image(array.T, affine))
    assert np.array_equal(sitk.GetArrayFromImage(from_itk), from_array)
    assert np.array_equal(np.asarray(from_nibabel.dataobj).T, from_array)
    assert from_itk.GetDirection() == image.GetDirection()


def test_several_folds_give_the_mean_of_their_logits(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1, 2))
    case = Case("c", sitk.GetArrayFromImage(make_image())[None], None, Geometry((2.0, 0.8, 1.25)))
    together = Predictor.load(run, device="cpu")
    preprocessed = together.preprocess(case)
    apart = [Predictor.load(run, folds=k, device="cpu").logits(preprocessed) for k in range(3)]
    torch.testing.assert_close(together.logits(preprocessed), torch.stack(apart).mean(0))
    torch.testing.assert_close(together.logits(preprocessed, fold=2), apart[2])
    two = Predictor.load(run, folds=[2, 0], device="cpu")
    torch.testing.assert_close(two.logits(preprocessed), (apart[0] + apart[2]) / 2)


def test_a_cascade_sees_the_previous_stages_labels(tmp_path: Path) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    predictor = load(tmp_path, "3d_cascade_fullres")
    assert predictor.previous_stage is not None
    case = Case("c", sitk.GetArrayFromImage(make_image())[None], None, Geometry((2.0, 0.8, 1.25)))
    previous = predictor.previous_stage.predict_case(case)
    assert np.array_equal(predictor.predict_case(case), predictor.predict_case(case, previous))
    logits = [predictor.logits(predictor.preprocess(case, given)) for given in (previous, np.zeros_like(previous))]
    assert not torch.allclose(*logits)


def test_a_cascade_without_its_previous_stage_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"needs the model of '3d_lowres'.*previous_stage="):
        load(tmp_path, "3d_cascade_fullres")


def test_previous_stage_of_another_run_name_is_found_or_given(tmp_path: Path) -> None:
    low = tiny_models.make_run(tmp_path, "3d_lowres", run_name="other")
    assert load(tmp_path, "3d_cascade_fullres").previous_stage is not None
    tiny_models.make_run(tmp_path, "3d_lowres", run_name="third")
    cascade = tmp_path / tiny_models.DATASET / "nnUNetPlans" / "3d_cascade_fullres" / "default"
    with pytest.raises(SegflowError, match=r"other.*third"):
        Predictor.load(cascade)
    assert Predictor.load(cascade, previous_stage=low).previous_stage is not None


def test_previous_stage_is_the_one_that_the_cascade_was_trained_on(tmp_path: Path) -> None:
    for name in ("default", "better"):
        tiny_models.make_run(tmp_path, "3d_lowres", run_name=name)
    fold = Fold(tiny_models.make_run(tmp_path, "3d_cascade_fullres") / "fold_0")
    fold.write_record(replace(fold.read_record(), settings={"previous_run_name": "better"}))
    place, _ = find_previous_stage(fold.path, fold.read_record())
    assert place.name == "better"
    shutil.rmtree(place)
    with pytest.raises(SegflowError, match=r"needs the model of '3d_lowres'; found .*default"):
        find_previous_stage(fold.path, fold.read_record())


def test_nnunet_model_predicts_as_a_run_with_the_same_weights(tmp_path: Path) -> None:
    run = load(tmp_path / "ours")
    settings = SlidingWindowSettings(sums="float32")
    model = Predictor.load(tiny_models.make_nnunet_model(tmp_path / "theirs"), device="cpu", settings=settings)
    image = make_image()
    ours, theirs = (sitk.GetArrayFromImage(p.predict(image)) for p in (run, model))
    assert np.array_equal(ours, theirs)


def test_one_checkpoint_of_nnunet_predicts_as_its_model(tmp_path: Path) -> None:
    theirs = tiny_models.make_nnunet_model(tmp_path / "theirs", folds=(0, 1))
    file = shutil.copy(theirs / "fold_1" / "checkpoint_final.pth", tmp_path / "downloaded.pth")
    fold, alone = (Predictor.load(path, device="cpu") for path in (theirs / "fold_1", file))
    assert alone.folds == ("1",)
    image = sitk.GetArrayFromImage(make_image())
    assert np.array_equal(alone.predict(image, (2.0, 0.8, 1.25)), fold.predict(image, (2.0, 0.8, 1.25)))


def test_nnunet_model_is_summed_as_nnunet_sums_and_our_own_more_finely(tmp_path: Path) -> None:
    model = Predictor.load(tiny_models.make_nnunet_model(tmp_path / "theirs"), device="cpu")
    assert (model.settings.sums, load(tmp_path / "ours").settings.sums) == ("float16", "float32")


def test_orientation_is_followed_where_the_plans_reader_turns_images(tmp_path: Path) -> None:
    predictor = load(tmp_path, reader="NibabelIOWithReorient")
    voxels = sitk.GetArrayFromImage(make_image()).T
    image = nibabel.Nifti1Image(voxels, np.diag([1.25, 0.8, 2.0, 1.0]))
    expected = predictor.predict(image)
    flipped = nibabel.Nifti1Image(
        voxels[::-1].copy(), image.affine @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    )
    labels = predictor.predict(flipped)
    assert np.array_equal(np.asarray(labels.dataobj)[::-1], np.asarray(expected.dataobj))


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    predictor = load(tmp_path)
    spacing = (2.0, 0.8, 1.25)
    good = sitk.GetArrayFromImage(make_image())
    with pytest.raises(SegflowError, match=r"channels.*found 2.*expected 1: MR0"):
        predictor.predict(np.stack([good, good]), spacing)
    with pytest.raises(SegflowError, match="constant"):
        predictor.predict(np.full_like(good, 7), spacing)
    for value in (np.nan, np.inf):
        bad = good.copy()
        bad[3, 4, 5] = value
        with pytest.raises(SegflowError, match="NaN or infinite"):
            predictor.predict(bad, spacing)


def test_spacing_far_from_the_trainings_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = load(tmp_path)
    predictor.predict(np.random.default_rng(0).normal(size=(4, 400, 400)).astype(np.float32), (2.0, 0.04, 0.04))
    assert "are these millimetres?" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predictor.predict(make_image())
    assert caplog.text == ""


def test_a_constant_channel_beside_others_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = load(tmp_path, channels=2)
    good = sitk.GetArrayFromImage(make_image())
    predictor.predict(np.stack([good, np.full_like(good, 3)]), (2.0, 0.8, 1.25))
    assert "channel 1 is constant" in caplog.text


def test_values_that_no_measurement_gives_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = np.random.default_rng(0).normal(100, 10, size=(16, 16, 16)).astype(np.float32)
    image[0, 0, 0] = -3.4e38
    load(tmp_path).predict(image, (1.0, 1.0, 1.0))
    assert "1 of 4096 voxels is as large as -3.4e+38" in caplog.text


def test_mirroring_follows_the_record_and_may_be_switched_off(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    case = Case("c", sitk.GetArrayFromImage(make_image())[None], None, Geometry((2.0, 0.8, 1.25)))
    with_views = Predictor.load(run, device="cpu")
    without = Predictor.load(run, device="cpu", settings=SlidingWindowSettings(mirroring=False))
    preprocessed = with_views.preprocess(case)
    assert not torch.allclose(with_views.logits(preprocessed), without.logits(preprocessed))


def test_a_network_of_ones_own_is_built_by_the_caller(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    file = Fold(run / "fold_0").checkpoint("final")
    torch.save({"state_dict": {"network.weight": torch.ones(3, 1, 1, 1, 1), "network.bias": torch.zeros(3)}}, file)
    own: Callable[..., nn.Module] = lambda topology, inputs, outputs, supervision: nn.Conv3d(inputs, outputs, 1)  # noqa: E731
    predictor = Predictor.load(run, device="cpu", build=own)
    assert predictor.predict(make_image()).GetSize() == make_image().GetSize()
    with pytest.raises(SegflowError, match="do not fit the network"):
        Predictor.load(run, device="cpu")


def test_predict_before_train_says_train_first(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SegflowError, match="Train first: segflow train"):
            Predictor.load(place)


def test_folds_of_different_plans_are_not_averaged(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0,))
    other = tiny_models.make_run(tmp_path / "other", folds=(1,), network="residual_unet")
    (other / "fold_1").rename(run / "fold_1")
    with pytest.raises(SegflowError, match="different plans"):
        Predictor.load(run)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unknown_devices_are_refused(tmp_path: Path, device: str) -> None:
    with pytest.raises(SegflowError, match=f"device '{device}'"):
        Predictor.load(tiny_models.make_run(tmp_path), device=device)


def test_python_users_get_neither_hydra_nor_lightning_nor_new_processes(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    code = f"""
import os, sys
import numpy as np
from segflow.inference.predictor import Predictor
os.fork = None
image = np.random.default_rng(0).normal(size=(12, 16, 16))
labels = Predictor.load({str(run)!r}, device="cpu").predict(image, spacing=(1.0, 1.0, 1.0))
unwanted = [n for n in sys.modules if n.split(".")[0] in ("hydra", "omegaconf", "pytorch_lightning", "lightning")]
print(labels.shape, labels.dtype, unwanted)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(12, 16, 16) uint8 []", done.stderr


def test_a_label_map_given_as_an_image_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predictor = load(tmp_path)
    usual = replace(predictor.record.plans.intensities[0], min=-974.0, median=31.5, percentile_99_5=180.0, max=310.0)
    predictor.record = replace(predictor.record, plans=replace(predictor.record.plans, intensities=(usual,)))
    image = sitk.GetArrayFromImage(make_image())
    predictor.predict(image, (2.0, 0.8, 1.25))
    assert "label map" not in caplog.text
    for _ in range(2):
        predictor.predict((image > image.mean()).astype(np.float32), (2.0, 0.8, 1.25))
    assert caplog.text.count("looks like a label map: its only values are 0, 1, while the model was trained") == 1
    assert "from -974 to 310" in caplog.text
