"""Devices and precisions on GPUs: what is chosen is used, in training, in scores of whole cases and in prediction."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from pretended_cuda import record

from segflow.core.errors import SegflowError
from segflow.inference.load_model import Model
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.predictor import Predictor
from segflow.inference.score_volumes import volume_scorer
from segflow.inference.sliding_window import NotFiniteError
from segflow.network.build import build_network
from segflow.network.devices import choose_device
from segflow.network.precision import OF_TRAINING
from segflow.storage.images import reader_by_name
from segflow.training.training_devices import training_devices

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))

from inference_images import make_image
from test_training_kinds import with_plan
from training_toy import Toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setattr("segflow.training.monitor.write_progress_picture", lambda curves, file: None)
    return Toy(tmp_path)


def predictor(precision: str | None = None, *, bias: float = 0.0, **options: Any) -> Predictor:
    """A tiny network that was trained in a precision, on a GPU."""
    one = tiny_models.record()
    machine: Mapping[str, Any] = {} if precision is None else {"precision": precision}
    torch.manual_seed(0)
    network = build_network(one.plan.topology, one.in_channels, one.dataset.labels.num_outputs, False).eval()
    torch.nn.init.constant_(network.heads[0].bias, bias)
    return Predictor(Model(replace(one, machine=machine), (network,), ("0",), Path()), **options)


def types_of(one: Predictor) -> tuple[set[str], set[str]]:
    """Types and devices of the convolutions of a prediction."""
    with record() as gpu:
        one.predict(make_image())
    return {dtype for dtype, *_ in gpu.convolutions}, {device for *_, device, _ in gpu.convolutions}


@pytest.mark.parametrize(
    ("trained", "dtype"),
    [(None, "float16"), ("16-mixed", "float16"), ("bf16-mixed", "bfloat16"), ("32-true", "float32")],
)
def test_a_model_predicts_in_the_precision_of_its_training(trained: str | None, dtype: str) -> None:
    assert types_of(predictor(trained)) == ({dtype}, {"cuda:0"})


@pytest.mark.parametrize(("asked_for", "dtype"), [("16", "float16"), ("bf16", "bfloat16"), ("32", "float32")])
def test_or_in_the_one_that_is_asked_for(asked_for: str, dtype: str) -> None:
    settings = SlidingWindowSettings(precision=asked_for)
    assert types_of(predictor("16-mixed", settings=settings, device="cuda:1")) == ({dtype}, {"cuda:1"})


def test_what_float16_cannot_hold_is_predicted_again_or_told(caplog: pytest.LogCaptureFixture) -> None:
    expected = predictor(device="cpu", bias=1e5).predict(make_image())
    one = predictor("16-mixed", bias=1e5)
    with caplog.at_level(logging.WARNING), record() as gpu:
        found = one.predict(make_image())
    assert found == expected
    assert {dtype for dtype, *_ in gpu.convolutions} == {"float16", "float32"}
    assert "not finite in 16; again in float32" in caplog.text
    told = r"computed in float16.*Try inference\.precision=32 \(or bf16\)\. Else look for NaN"
    with pytest.raises(NotFiniteError, match=told):
        predictor(bias=1e5, settings=SlidingWindowSettings(precision="16")).predict(make_image())


@pytest.mark.parametrize("precision", ["auto", "bf16-mixed", "32-true", "16-true"])
def test_whole_cases_are_scored_in_the_precision_of_the_training(toy: Toy, precision: str) -> None:
    references, reader = toy.folder / "labels", reader_by_name(toy.record.plans.reader)
    references.mkdir()
    for name in toy.record.val_cases:
        case = toy.store.open(name)
        reader.write_label(case.read_label().astype("uint8"), case.spatial.geometry, references / f"{name}.nii.gz")
    options = {"accelerator": "gpu", "devices": [1], "precision": precision, "max_epochs": 1}
    window = SlidingWindowSettings(precision=OF_TRAINING[training_devices(options).precision])
    noted: list[Any] = []
    one = with_plan(toy.record, resampling_fn_probabilities_kwargs=tiny_models.RESAMPLING)
    scorer = volume_scorer(one, toy.store, references, window)

    def score(*arguments: Any) -> Mapping[str, float]:
        with record() as gpu:
            found = scorer(*arguments)
        noted.extend(gpu.convolutions)
        return found

    settings = {"volume_every": 1, "volume_count": 1, "compile": "off", "augmentation_device": "cpu"}
    assert toy.train(trainer=options, settings=settings, record=one, score_volumes=score).finished
    expected = {"auto": "float16", "bf16-mixed": "bfloat16", "32-true": "float32", "16-true": "float16"}[precision]
    assert {(dtype, device) for dtype, _, device, _ in noted} == {(expected, "cuda:1")}
    facts = json.loads(toy.run().record_file.read_text())["machine"]
    assert facts["precision"] == {"auto": "16-mixed"}.get(precision, precision)
    assert (facts["device"], facts["device_name"]) == ("cuda:1", "Pretended GPU")
    assert facts["cudnn_search"] is True
    assert facts["tf32_convolutions"] is True


def test_prediction_searches_no_kernels_and_takes_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    one = predictor("32-true")
    one.networks[0].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    torch.backends.cudnn.benchmark = True
    one.predict(make_image())
    assert set(seen) == {False}
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"  # resampling multiplies matrices


def test_gpus_are_chosen_by_name() -> None:
    assert choose_device().type == "cuda"
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SegflowError, match=r"no device 'cuda:2'; found 2 GPUs: cuda:0 \(Pretended GPU\), cuda:1"):
        choose_device("cuda:2")


def test_a_busy_gpu_is_told_with_the_other_one(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might be")

    monkeypatch.setattr("segflow.network.devices.torch.zeros", busy)
    with pytest.raises(SegflowError, match=r"'cuda:0' cannot be used now; found .*busy or unavailable\..*\[1\]\.$"):
        toy.train(trainer={"accelerator": "gpu"})
    assert not toy.run().record_file.exists()
    with pytest.raises(SegflowError, match=r"'cuda:1' cannot be used now.*inference\.device=cuda:0\.$"):
        choose_device("cuda:1")


def test_more_gpus_than_there_are(toy: Toy) -> None:
    with pytest.raises(SegflowError, match=r"devices=3 asks for more than there is; found 2 GPUs.*Type .*devices=2"):
        toy.train(trainer={"accelerator": "gpu", "devices": 3})
