"""Models as MONAI bundles: MONAI's own command predicts with them as segflow does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.core.postprocessing import PostprocessingStep
from segflow.exchange.export_monai import export_monai
from segflow.exchange.monai_inferer import listed
from segflow.exchange.predict_onnx import UnusableError
from segflow.exchange.runner_model import RunnerModel
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.postprocessing.components import postprocess_label_map


def test_monai_predicts_with_a_bundle_as_segflow_does(tmp_path: Path) -> None:
    options = {"order": 3, "channels": 2, "spacing": 1.4, "axis_order": (1, 0, 2)}
    run = tiny_models.make_run(tmp_path, "3d_fullres", (0, 1), **options)
    images = tmp_path / "images"
    images.mkdir()
    affine = np.array([[0, 1.1, 0, 5], [-1.0, 0, 0, 7], [0, 0, 4.0, -3], [0, 0, 0, 1]])
    draws = np.random.default_rng(0)
    for case, shape in (("a", (30, 26, 9)), ("b", (19, 33, 12))):
        for channel in range(2):
            voxels = np.pad(draws.gamma(2.0, 100.0, shape).astype(np.int16), ((3, 0), (0, 2), (0, 1)))
            nibabel.save(nibabel.Nifti1Image(voxels, affine), images / f"{case}_{channel:04d}.nii.gz")
    assert predict_cases(run, images, tmp_path / "ours", PredictSettings(device="cpu")).ok
    step = PostprocessingStep("keep_largest", (1,))
    bundle = export_monai(RunnerModel.load(run, steps=[step]), tmp_path / "bundle")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(images), "--output_dir", str(tmp_path / "theirs")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    for case in "ab":
        ours = nibabel.load(tmp_path / "ours" / f"{case}.nii.gz")
        found = nibabel.load(tmp_path / "theirs" / f"{case}_0000.nii.gz")
        zyx = np.asarray(ours.dataobj).T
        expected = postprocess_label_map(zyx, [step], ours.header.get_zooms()[::-1]).T
        assert np.asarray(found.dataobj).dtype == np.uint8
        assert len(np.unique(expected)) > 1
        assert (np.asarray(found.dataobj) == expected).mean() >= 0.9999
        assert np.allclose(found.affine, ours.affine)
    with pytest.raises(UnusableError, match="is an image: label maps need another folder"):
        listed(str(images), str(bundle / "models" / "model.json"), str(images))


def test_a_bundle_has_what_monais_tools_look_for(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, "2d", (0, 1), regions=True, network="residual_unet")
    model = RunnerModel.load(run)
    bundle = export_monai(model, tmp_path / "bundle")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = ("monai_version", "pytorch_version", "numpy_version", "required_packages_version", "version", "changelog")
    assert not [key for key in needed if not metadata[key]]
    inputs, outputs = (metadata["network_data_format"][side] for side in ("inputs", "outputs"))
    assert inputs["image"]["spatial_shape"] == [16, 16]
    assert outputs["pred"]["channel_def"] == {"0": "whole", "1": "lesion"}
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    names = ("bundle_root", "device", "dataset_dir", "dataset", "evaluator", "network_def", "inferer")
    assert not [name for name in (*names, "preprocessing", "postprocessing") if name not in config]
    network = torch.jit.load(str(bundle / "models" / "model.ts"))
    image = model.example(3)
    expected = sum(one(image) for one in model.networks.values()) / 2
    assert torch.allclose(network(image), expected, atol=1e-5)


class _Random(torch.nn.Module):
    """A network that draws random numbers."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.rand_like(image)


def test_a_network_that_cannot_be_traced_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"_Random computes other logits as TorchScript than in torch"):
        export_monai(RunnerModel(tiny_models.record(), {"0": _Random()}), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
