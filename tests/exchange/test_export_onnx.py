"""Models as ONNX: their runner needs no segflow and gives segflow's label maps; what cannot be exported is refused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
import tiny_models
import torch
from PIL import Image
from torch import nn

from segflow.core.errors import SegflowError
from segflow.exchange.export_onnx import export_onnx
from segflow.exchange.runner_model import RunnerModel
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.postprocessing.apply_postprocessing import apply_postprocessing, read_choice

BARE = """
import importlib.abc, runpy, sys
required = {"numpy", "nibabel", "onnxruntime", "packaging", "typing_extensions"}
allowed = {*sys.stdlib_module_names, *required, *sys.argv[1].split(",")}
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Only())
del sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script where the only installed packages are those that the runner names, and what they require."""


def in_bare_python(folder: Path, *arguments: object, extra: str = "") -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-I", "-c", BARE, extra, str(folder / "predict_onnx.py")]
    return subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True, check=False)


def save_volumes(folder: Path, channels: int) -> None:
    """Two volumes with thick slices, an empty border and an oblique placement."""
    folder.mkdir()
    affine = np.array([[0, 1.1, 0, 5], [-1.0, 0, 0.2, 7], [0, 0, 4.0, -3], [0, 0, 0, 1]])
    draws = np.random.default_rng(0)
    for case, shape in (("a", (30, 26, 9)), ("b", (19, 33, 12))):
        for channel in range(channels):
            voxels = draws.gamma(2.0, 100.0, shape).astype(np.int16)
            voxels = np.pad(voxels, ((3, 0), (0, 2), (0, 1)))
            nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / f"{case}_{channel:04d}.nii.gz")


def save_pictures(folder: Path, channels: int) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (41, 35, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "p_0000.png")


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file) if file.suffix == ".png" else nibabel.load(file).dataobj)


VALUES = {"background": 0, "lesion": [300, 2], "organ": 255}
TURNED = {"reader": "NibabelIOWithReorient", "axis_order": (2, 0, 1)}
PICTURES = {"reader": "NaturalImage2DIO", "ending": ".png"}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("3d_fullres", {"regions": True, "spacing": 1.6}),
    ("3d_fullres", {"network": "mednext"}),
    ("3d_fullres", {"network": "residual_unet", "channels": 2, "labels": VALUES, **TURNED}),
    ("2d", {"network": "residual_unet", "channels": 3, "spacing": 0.7, **PICTURES}),
]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_the_runner_gives_the_label_maps_of_segflow_without_it(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    ending = options.get("ending", ".nii.gz")
    folds = (0, 1) if "labels" in options else (0,)
    run = tiny_models.make_run(tmp_path, name, folds, order=3, **options)
    (save_pictures if ending == ".png" else save_volumes)(tmp_path / "images", options.get("channels", 1))
    report = predict_cases(run, tmp_path / "images", tmp_path / "ours", PredictSettings(device="cpu"))
    assert report.ok
    steps = [{"kind": "remove_small", "labels": [1], "min_volume_mm3": 20}, {"kind": "keep_largest", "labels": [1, 2]}]
    steps += [{"kind": "fill_holes", "labels": [2], "fill_with": 1}]
    (tmp_path / "steps.json").write_text(json.dumps({"steps": steps}))
    choice = read_choice(tmp_path / "steps.json")
    model = RunnerModel.load(run, steps=choice.steps)
    kind: dict[str, Any] = {"file_ending": ending, "labels": model.record.dataset.labels, "processes": 0}
    apply_postprocessing(tmp_path / "ours", choice, tmp_path / "expected", **kind)
    exported = export_onnx(model, tmp_path / "exported")
    assert sorted(file.name for file in exported.iterdir()) == [
        *(f"fold_{fold}.onnx" for fold in folds),
        *("model.json", "predict_onnx.py", "requirements.txt"),
    ]
    extra = "PIL" if ending == ".png" else ""
    result = in_bare_python(exported, tmp_path / "images", tmp_path / "theirs", "--threads=1", extra=extra)
    assert result.returncode == 0, result.stderr
    equal = total = 0
    for file in (tmp_path / "expected").glob(f"*{ending}"):
        expected, found = pixels(file), pixels(tmp_path / "theirs" / file.name)
        assert found.dtype == expected.dtype
        assert len(np.unique(expected)) > 1
        assert set(np.unique(found)) <= ({0, 300, 255} if "labels" in options else {0, 1, 2})
        equal, total = equal + int((found == expected).sum()), total + expected.size
        if ending != ".png":
            one, two = nibabel.load(file), nibabel.load(tmp_path / "theirs" / file.name)
            assert np.allclose(one.affine, two.affine)
            assert one.header["sform_code"] == two.header["sform_code"]
    assert equal >= 0.9999 * total
    assert total > 0


def test_the_network_takes_any_batch_and_old_runtimes_read_it(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    exported = export_onnx(RunnerModel.load(run), tmp_path / "model.zip")
    with zipfile.ZipFile(exported) as archive:
        network = onnx.load_from_string(archive.read("model/fold_0.onnx"))
        description = json.loads(archive.read("model/model.json"))
    onnx.checker.check_model(network)
    assert network.ir_version <= 10
    assert max(opset.version for opset in network.opset_import) <= 21
    batch, *rest = network.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [one.dim_value for one in rest] == [1, 16, 16, 16]
    assert str(tmp_path) not in json.dumps(description)
    # Runtimes sum all voxels of this operation in order in float32: 50 times the rounding errors, in a large patch.
    assert not [node.op_type for node in network.graph.node if node.op_type == "InstanceNormalization"]


class _Random(nn.Module):
    """A network that draws random numbers."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image + torch.rand_like(image)], 1)


class _Looking(nn.Module):
    """A network whose layers depend on the voxels."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image if float(image.sum()) > 0 else -image


def test_a_network_that_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    record = tiny_models.record()
    with pytest.raises(SegflowError, match=r"_Looking cannot be exported as ONNX"):
        export_onnx(RunnerModel(record, {"0": _Looking()}), tmp_path / "looking")
    with pytest.raises(SegflowError, match=r"_Random computes other logits as ONNX than in torch.*a difference of"):
        export_onnx(RunnerModel(record, {"0": _Random()}), tmp_path / "random")
    assert list(tmp_path.iterdir()) == []


def test_what_the_runner_cannot_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    with pytest.raises(SegflowError, match=r"needs the label map of another.*3d_lowres"):
        RunnerModel.load(tiny_models.make_run(tmp_path, "3d_cascade_fullres"))
    run = tiny_models.make_run(tmp_path, reader="Tiff3DIO")
    with caplog.at_level(logging.WARNING):
        model = RunnerModel.load(run)
    assert "the reader 'Tiff3DIO'" in caplog.text
    (tmp_path / "there").mkdir()
    with pytest.raises(SegflowError, match="exists already"):
        export_onnx(model, tmp_path / "there")
    monkeypatch.setattr("segflow.exchange.export_onnx.PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(SegflowError, match=r"needs no_such_package.*segflow\[onnx\]"):
        export_onnx(model, tmp_path / "new")
