"""Everything is changed without editing code: network, loss, optimizer, schedule and augmentation of a user's own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import own_parts
import pytest
import SimpleITK as sitk
import tiny_models
from apps_commands import SHORT, start

CONFIGURATION = {
    "network/shallow": ("own_parts.Shallow", {"width": 6, "kernels": "[3, 1]"}),
    "loss/weighted": ("own_parts.WeightedCrossEntropy", {"weights": "[0.2, 1.0, 4.0]"}),
    "optimizer/nadam": ("torch.optim.NAdam", {"lr": 0.001, "betas": "[0.8, 0.99]"}),
    "schedule/steps": ("torch.optim.lr_scheduler.MultiStepLR", {"milestones": "[1, 2]", "gamma": 0.5}),
    "augmentation/nothing": ("own_parts.Nothing", {}),
}
OWN = ["--config-dir", "my_conf", *(name.replace("/", "=") for name in CONFIGURATION)]
NETWORK = ["--config-dir", "my_conf", "network=shallow"]


@pytest.fixture
def own(job: Path) -> Path:
    """The folder of the phantom, with files of the user's own in it."""
    shutil.copyfile(Path(own_parts.__file__), job / "own_parts.py")
    for name, (target, options) in CONFIGURATION.items():
        file = job / "my_conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"_target_: {target}", "_partial_: true", *(f"{key}: {value}" for key, value in options.items())]
        file.write_text("\n".join(lines) + "\n")
    return job


def test_parts_of_a_users_own_train_resume_and_predict(own: Path) -> None:
    train = ["train", *OWN, *SHORT, "fold=0", "run_name=own"]
    result = start(own, *train)
    assert result.returncode == 0, result.stderr
    assert "Next: segflow predict --config-dir=my_conf network=shallow model=" in result.stdout
    run = Path("outputs/Dataset001_Phantom/tinyPlans/3d_fullres/own/fold_0")
    longer = ["trainer.max_epochs=3", "training.extend=true"]
    result = start(own, *train, *longer)  # reads optimizer and schedule from the checkpoint
    assert result.returncode == 0, result.stderr
    assert [line.split(",")[1] for line in (own / run / "metrics.csv").read_text().split()[1:]] == [
        "0.001",
        "0.0005",
        "0.00025",
    ]
    images = "data/raw/Dataset001_Phantom/imagesTs"
    refused = start(own, "predict", f"model={run}", f"input={images}", "output=refused")
    assert refused.returncode == 1
    assert "network of 'own_parts.Shallow'" in refused.stderr
    assert "--config-dir" in refused.stderr
    predicted = start(own, "predict", *NETWORK, f"model={run}", f"input={images}", "output=predicted")
    assert predicted.returncode == 0, predicted.stderr
    assert len(list((own / "predicted").glob("*.nii.gz"))) == 4
    bundled = start(own, "bundle", "action=export", f"model={run.parent}", "output=own.segflow")
    assert bundled.returncode == 0, bundled.stderr
    again = start(own, "predict", *NETWORK, "model=own.segflow", f"input={images}", "output=again")
    assert again.returncode == 0, again.stderr
    to_onnx = ["bundle", *NETWORK, "action=export", "format=onnx", f"model={run.parent}", "output=own_onnx"]
    exported = start(own, *to_onnx)
    assert exported.returncode == 0, exported.stderr
    runner = [sys.executable, "-I", "own_onnx/predict_onnx.py", images, "elsewhere", "--threads=1"]
    subprocess.run(runner, cwd=own, check=True, capture_output=True)
    for file in (own / "predicted").glob("*.nii.gz"):
        one, two = (np.asarray(nibabel.load(path).dataobj) for path in (file, own / "elsewhere" / file.name))
        assert (one == two).mean() >= 0.9999


STEP = """
defaults: [nnunet, _self_]
steps:
  brighter: {_target_: own_parts.Brighter, probability: 0.5, amount: 0.25}
"""


def test_a_step_of_a_users_own_is_trained_with_and_one_that_breaks_its_contract_is_named(own: Path) -> None:
    (own / "my_conf" / "augmentation" / "brighter.yaml").write_text(STEP)
    train = ["train", "--config-dir", "my_conf", *SHORT, "fold=0", "augmentation=brighter", "validation=false"]
    result = start(
        own, *train, "run_name=brighter", "augmentation.steps.brighter.amount=0.5", "augmentation.steps.noise=null"
    )
    assert result.returncode == 0, result.stderr
    run = own / "outputs/Dataset001_Phantom/tinyPlans/3d_fullres/brighter/fold_0"
    steps = json.loads((run / "run.json").read_text())["settings"]["augmentation"]["steps"]
    assert list(steps)[-1] == "brighter"
    assert steps["brighter"]["amount"] == 0.5
    assert steps["noise"] is None
    for target, said in {
        "own_parts.Broken": "the augmentation step Broken breaks its contract; found it returned NoneType",
        "torch.nn.Identity": "augmentation.steps.brighter is no step; found torch.nn.modules.linear.Identity",
    }.items():
        step = f"+augmentation.steps.brighter={{_target_:{target}}}"
        refused = start(own, *train, "run_name=refused", "augmentation=nnunet", step)
        assert refused.returncode == 1
        assert said in refused.stderr
        assert "segflow.augmentation.step.ChannelStep" in refused.stderr


def test_the_previous_stage_of_a_cascade_may_have_another_network(tmp_path: Path) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run = tiny_models.make_run(tmp_path, "3d_cascade_fullres")
    values = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a_0000.nii.gz"))
    options = ["network@previous_network=planned", f"model={run}", "input=a_0000.nii.gz", "output=predicted"]
    result = start(tmp_path, "predict", *options, "inference.mirroring=false")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "predicted" / "a.nii.gz").is_file()
    other = start(tmp_path, "predict", *options, "previous_network.norm=batch", "inference.resume=false")
    assert other.returncode == 1
    assert "network of configuration '3d_lowres'" in other.stderr
