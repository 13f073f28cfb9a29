"""The device and the precision of a prediction: what a name means, what is refused, and what a stamp counts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from inference_images import make_image
from torch import nn

from segflow.core.errors import SegflowError
from segflow.inference.load_model import Model
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings, SlidingWindowSettings
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import NotFiniteError, predict_logits
from segflow.models.bundle_file import read_bundle, write_bundle
from segflow.models.own_runs import read_fold
from segflow.network.devices import choose_device
from segflow.network.precision import choose_precision, precisions_of
from segflow.storage.folds import Fold

CPU = torch.device("cpu")


class Noting(nn.Module):
    """A layer that notes the types in which it is computed."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 3, 3, padding=1)
        self.types: set[torch.dtype] = set()
        nn.init.constant_(self.layer.bias, scale)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.layer(image)
        self.types.add(logits.dtype)
        return logits


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch believe in this many GPUs, with bfloat16 or without."""

    def have(count: int, *, bfloat16: bool = True, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8 if bfloat16 else 7, 5))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    have(0)
    return have


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu", "", "cuda:x", "cpu:3"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(gpus: Any, name: str) -> None:
    with pytest.raises(SegflowError, match=r"there is no device .*found no GPU.*expected auto \| cpu\. Type"):
        choose_device(name)
    assert choose_device("auto") == choose_device("cpu") == CPU


def test_the_gpus_there_are_named(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(SegflowError, match=r"no device 'cuda:2'; found 2 GPUs: cuda:0 \(GPU 0\), cuda:1 \(GPU 1\)"):
        choose_device("cuda:2")


def test_auto_takes_cuda_then_mps_and_a_busy_one_names_another(gpus: Any) -> None:
    gpus(2)
    with pytest.raises(SegflowError, match=r"'cuda' cannot be used now.*or type inference.device=cuda:1\."):
        choose_device()  # believed in, but there is none
    gpus(1)
    with pytest.raises(SegflowError, match=r"'cuda' cannot be used now.*or type inference.device=cpu\."):
        choose_device()
    gpus(0, mps=True)
    with pytest.raises(SegflowError, match=r"'mps' cannot be used now"):
        choose_device()


@pytest.mark.parametrize(
    ("trained", "on_new", "on_old"),
    [
        ("16-mixed", "16", "16"),
        ("16-true", "16", "16"),
        ("bf16-mixed", "bf16", "32"),
        ("32-true", "32", "32"),
        ("64-true", "32", "32"),
        (None, "16", "16"),  # nnU-Net's, and runs of which nothing is known
        ("nonsense", "16", "16"),
    ],
)
def test_auto_is_what_the_model_was_trained_in(gpus: Any, trained: str | None, on_new: str, on_old: str) -> None:
    gpus(1)
    assert choose_precision("auto", torch.device("cuda", 0), trained) == on_new
    gpus(1, bfloat16=False)
    assert choose_precision("auto", torch.device("cuda", 0), trained) == on_old
    for other in ("cpu", "mps"):
        assert choose_precision("auto", torch.device(other), trained) == "32"


def test_a_precision_that_the_device_lacks_is_refused(gpus: Any) -> None:
    gpus(1, bfloat16=False)
    with pytest.raises(SegflowError, match=r"=bf16 is not possible on cuda:0 \(GPU 0\); expected auto \| 16 \| 32"):
        choose_precision("bf16", torch.device("cuda", 0))
    with pytest.raises(SegflowError, match=r"precision=16 is not possible on mps; expected auto \| 32"):
        choose_precision("16", torch.device("mps"))
    with pytest.raises(SegflowError, match=r"precision=16 is not possible on cpu; expected auto \| bf16 \| 32"):
        predict_logits([Noting()], torch.randn(1, 8, 8, 8), (8, 8, 8), (), SlidingWindowSettings(precision="16"))
    for device in ("cpu", "mps", "cuda"):
        for precision in precisions_of(torch.device(device)):
            assert choose_precision(precision, torch.device(device)) == precision


@pytest.mark.parametrize(("typed", "meant"), [(16, "16"), ("bf16-mixed", "bf16"), ("32-true", "32"), ("auto", "auto")])
def test_a_precision_may_be_written_as_for_a_training(typed: Any, meant: str) -> None:
    assert PredictSettings(precision=typed).window.precision == meant
    for wrong in ("64", "half", 8):
        with pytest.raises(SegflowError, match=r"inference\.precision is unknown"):
            SlidingWindowSettings(precision=wrong)


def test_the_network_computes_in_the_chosen_precision() -> None:
    image = torch.randn(1, 9, 8, 8)
    net = Noting()
    found = {}
    for precision in ("auto", "32", "bf16"):
        net.types.clear()
        found[precision] = predict_logits([net], image, (8, 8, 8), (0,), SlidingWindowSettings(precision=precision))
        assert net.types == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert found[precision].dtype == torch.float32
    assert torch.equal(found["auto"], found["32"])
    torch.testing.assert_close(found["bf16"], found["32"], rtol=0.02, atol=0.02)
    assert not torch.equal(found["bf16"], found["32"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_type_decide_themselves(dtype: torch.dtype) -> None:
    """As those of a network that is trained with 16-true, when whole cases are scored."""
    image = torch.randn(1, 9, 8, 8)
    net = Noting()
    expected = predict_logits([net], image, (8, 8, 8), ())
    net.types.clear()
    found = predict_logits([net.to(dtype)], image, (8, 8, 8), (), SlidingWindowSettings(precision="bf16"))
    assert net.types == {dtype}
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_prediction_searches_no_kernels_and_leaves_the_choice_of_a_training() -> None:
    class Looking(Noting):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert not torch.backends.cudnn.benchmark
            return super().forward(image)

    predictor = Predictor(Model(tiny_models.record(), (Looking(),), ("0",), Path()), device="cpu")
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        predictor.predict(make_image())
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


class Narrow(Noting):
    """A network whose values fit into float32 only: under autocast it behaves as float16 does on a GPU."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = super().forward(image)
        return logits * torch.inf if logits.dtype == torch.bfloat16 else logits


def test_what_is_not_finite_in_the_precision_of_auto_is_predicted_again(caplog: pytest.LogCaptureFixture) -> None:
    """`auto` never means autocast on a CPU, so the choice is put in here."""
    predictor = Predictor(Model(tiny_models.record(), (Narrow(),), ("0",), Path()), device="cpu")
    expected = predictor.predict(make_image())
    predictor.settings.precision = "bf16"
    with caplog.at_level(logging.WARNING):
        found = predictor.predict(make_image())
    assert "not finite in bf16; again in float32" in caplog.text
    assert found == expected
    asked_for = Predictor(predictor_model(Narrow()), device="cpu", settings=SlidingWindowSettings(precision="bf16"))
    with pytest.raises(NotFiniteError, match=r"case '.*computed in bfloat16.*Try inference\.precision=32\."):
        asked_for.predict(make_image())


def predictor_model(network: nn.Module) -> Model:
    return Model(tiny_models.record(), (network,), ("0",), Path())


def test_a_result_that_is_not_finite_says_in_what() -> None:
    settings = SlidingWindowSettings(sums="float16")
    with pytest.raises(NotFiniteError, match=r"float32 and summed in float16\. Try inference\.sums=float32"):
        predict_logits([Noting(scale=1e6)], torch.randn(1, 8, 8, 8), (8, 8, 8), (), settings)


def test_a_stamp_counts_a_precision_that_was_asked_for(tmp_path: Path, write_images: Any) -> None:
    run, images, output = tiny_models.make_run(tmp_path / "run"), write_images("a", "b"), tmp_path / "out"

    def predict(**changes: Any) -> tuple[str, ...]:
        return predict_cases(run, images, output, PredictSettings(device="cpu", mirroring=False, **changes)).done

    assert predict() == ("a", "b")
    assert "precision" not in next(iter((output / ".segflow").glob("*a*"))).read_text()  # as before there was a choice
    assert predict() == ()
    with pytest.raises(SegflowError, match="another 'precision'"):
        predict(precision="bf16")
    assert predict(precision="bf16", resume=False) == ("a", "b")
    assert predict(precision="bf16") == ()


def test_a_bundle_predicts_in_the_precision_of_its_training(tmp_path: Path) -> None:
    fold = Fold(tiny_models.make_run(tmp_path / "run") / "fold_0")
    fold.note_machine({"precision": "bf16-mixed", "device_name": "NVIDIA A100"})
    bundle = tmp_path / "model.segflow"
    write_bundle(bundle, [read_fold(fold)])
    record = read_bundle(bundle)[0].record
    assert record.trained_precision == "bf16-mixed"
    assert record.machine == {"precision": "bf16-mixed"}  # nothing else of the machine


def test_facts_that_are_none_are_refused_or_ignored(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    file = Fold(run / "fold_0").record_file
    content = json.loads(file.read_text())
    for machine in ("fast", 5, ["cuda"], None):
        file.write_text(json.dumps({**content, "machine": machine}))
        with pytest.raises(SegflowError, match=r"run\.json"):
            Predictor.load(run / "fold_0", device="cpu")
    for precision in (["16"], {}, "half", 7):
        file.write_text(json.dumps({**content, "machine": {"precision": precision}}))
        assert Predictor.load(run / "fold_0", device="cpu").settings.precision == "32"
