"""A GPU whose memory does not suffice, and batch norm on several GPUs.

That memory is lacking is said by the networks, losses and operations of these checks, in torch's words.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import SimpleITK as sitk
import tiny_models
import torch
from pretended_cuda import DEVICE, on_gpu
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.inference.case_prediction import CasePrediction
from segflow.inference.load_model import Model
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings, SlidingWindowSettings
from segflow.inference.predict_stage import PredictStage
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import LogitSlab, mean_logits, predict_logits
from segflow.network.build import build_network
from segflow.preprocessing.restore import restore_labels
from segflow.training.batch_norm import synchronise_batch_norm
from segflow.training.compilation import compile_if_it_pays
from segflow.training.quicker_format import take_quicker_format
from segflow.training.step_time import NetworkStep

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from inference_images import make_image
from training_toy import Toy, make_record

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.69 GiB of which 512.00 MiB is "
    "free. Including non-PyTorch memory, this process has 22.00 GiB memory in use."
)
PLAIN = Labels.from_json({"background": 0, "a": 1, "b": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


class Lacking(TorchDispatchMode):
    """The GPU has no memory for one operation, from its n-th call on."""

    def __init__(self, operation: str, after: int = 0) -> None:
        super().__init__()
        self._operation, self._after = operation, after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == self._operation and args[0].is_cuda:
            self._after -= 1
            if self._after < 0:
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return func(*args, **(kwargs or {}))


# Training -------------------------------------------------------------------------------------------------------------


class Hungry(pl.Callback):
    """Needs more memory in the second epoch than there is."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)


@pytest.mark.parametrize(
    ("precision", "place", "advised"),
    [
        ("auto", "device", "training.augmentation_device=cpu, trainer.devices=2"),
        ("32", "cpu", "trainer.precision=16, trainer.devices=2"),
    ],
)
def test_a_training_that_lacks_memory_tells_what_needs_less_and_goes_on(
    tmp_path: Path, precision: str, place: str, advised: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segflow.training.monitor.write_progress_picture", lambda curves, file: None)
    toy = Toy(tmp_path)
    options: dict[str, Any] = {
        "trainer": {"accelerator": "gpu", "precision": precision},
        "settings": {"augmentation_device": place, "compile": "off"},
    }
    with pytest.raises(SegflowError) as caught:
        toy.train(callbacks=[Hungry()], **options)
    message = str(caught.value)
    assert message.startswith("the memory of cuda:0 does not suffice for the training; found batch 2 of 1×16×16×16 in ")
    assert "; it asked for 1.50 GiB, and 512.00 MiB of 23.69 GiB are free. " in message
    assert f"the same command goes on where it ended: {advised}. " in message
    assert "configuration.batch_size=1 trainer.accumulate_grad_batches=2" in message
    result = toy.train(**options)
    assert (result.finished, result.epochs) == (True, 2)


class HungryNetwork(nn.Module):
    """Needs more memory in its n-th forward pass than there is; has running statistics and gradients."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
        self._left = at

    def forward(self, image: Tensor) -> Tensor:
        self._left -= 1
        if not self._left:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return self.layers(image)


@pytest.mark.parametrize("at", [1, 5, 8])
def test_the_measurement_of_the_compiler_survives(at: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    network = HungryNetwork(at).to(DEVICE)
    before = {name: value.cpu() for name, value in network.state_dict().items()}
    assert not compile_if_it_pays(network, "auto", NetworkStep((2, 1, 4, 4, 4), DEVICE, torch.float16))
    assert "not compiled: the memory does not suffice to measure it" in caplog.text
    assert network._compiled_call_impl is None
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value.cpu(), before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("plain", "quick", "taken"), [(2.0, 1.0, True), (1.0, 1.0, False), (1.0, 2.0, False)])
def test_the_quicker_memory_format_is_taken(
    monkeypatch: pytest.MonkeyPatch, plain: float, quick: float, taken: bool
) -> None:
    network = build_network(tiny_models.topology(3, "plain_unet"), 1, 3).to(DEVICE)
    times = {"auto": plain, "channels_last": quick}
    monkeypatch.setattr(NetworkStep, "seconds", lambda _, net: times[net.memory_format])
    step = NetworkStep((2, 1, 16, 16, 16), DEVICE, torch.float16)
    assert take_quicker_format(network, step) is taken
    assert network.memory_format == ("channels_last" if taken else "auto")
    for chosen in ("contiguous", "channels_last"):
        network.memory_format = chosen
        assert not take_quicker_format(network, step)
        assert network.memory_format == chosen
    network.memory_format = "auto"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not take_quicker_format(network, step)
    assert network.memory_format == "auto"


def test_the_memory_format_is_measured_on_the_gpu_or_left_where_memory_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(tiny_models.topology(3, "plain_unet"), 1, 3).to(DEVICE)
    step = NetworkStep((2, 1, 16, 16, 16), DEVICE, torch.float16)
    taken = take_quicker_format(network, step)
    assert network.memory_format == ("channels_last" if taken else "auto")
    assert all(parameter.grad is None for parameter in network.parameters())
    network.memory_format = "auto"

    def lack(_: NetworkStep, net: nn.Module) -> float:
        if net.memory_format == "channels_last":
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return 1.0

    monkeypatch.setattr(NetworkStep, "seconds", lack)
    assert not take_quicker_format(network, step)
    assert network.memory_format == "auto"


def test_a_network_of_ones_own_that_fails_is_told_as_before() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        compile_if_it_pays(nn.Conv3d(3, 1, 1).to(DEVICE), "auto", NetworkStep((1, 1, 4, 4, 4), DEVICE, torch.float16))


# Prediction -----------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        self.batches: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        self.batches.append(len(image))
        return self.layer(image)


def test_tiles_fill_what_torch_keeps_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = (16, 16, 16)
    tiles = 5 * 16**3 * 2048 / 0.4
    numbers = {"mem_get_info": (0, 24 * 2**30), "memory_reserved": tiles + 1000, "memory_allocated": 900}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    network = Counting().to(DEVICE)
    image = torch.randn(1, 16, 16, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        predict_logits([network], image, patch, (), SlidingWindowSettings(mirroring=False))
    assert network.batches == [5, 5, 1]


class Greedy(nn.Conv3d):
    def forward(self, image: Tensor) -> Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


def test_not_even_one_tile_fits() -> None:
    told = r"memory does not suffice for one tile; found patch \[8, 8, 8\] on cuda:0\..*inference.device=cpu"
    with pytest.raises(SegflowError, match=told):
        predict_logits(
            [Greedy(1, 2, 1).to(DEVICE)], torch.ones(1, 8, 8, 8), (8, 8, 8), (), SlidingWindowSettings(batch_size=1)
        )


def test_the_mean_of_what_fits_and_what_does_not_is_in_main_memory() -> None:
    several = [torch.full((2, 1, 1, 3), float(n)) for n in range(3)]
    mean = mean_logits([on_gpu(several[0]), several[1], on_gpu(several[2])])
    assert torch.equal(mean, torch.ones(2, 1, 1, 3))
    assert mean.device.type == "cpu"
    assert mean_logits([on_gpu(one) for one in several]).device == DEVICE


def a_case() -> tuple[SpatialRecord, Tensor]:
    """Logits that must be resampled on their way back to the image."""
    shape, cropped = (9, 11, 8), (7, 15, 12)
    spacing_plan = tuple(n / m for n, m in zip(cropped, shape, strict=True))
    spatial = SpatialRecord(
        geometry=Geometry((1.0, 1.0, 1.0)),
        shape_original=(9, 18, 14),
        axis_order=(0, 1, 2),
        crop=Box((1, 2, 0), (8, 17, 12)),
        spacing_transposed=(1.0, 1.0, 1.0),
        spacing_plan=spacing_plan,
        shape_plan=shape,
    )
    return spatial, torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("labels", "outputs"), [(PLAIN, 3), (REGIONS, 2)], ids=["labels", "regions"])
@pytest.mark.parametrize("after", [0, 7])
def test_what_the_gpu_cannot_decide_is_decided_in_main_memory(
    labels: Labels, outputs: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    spatial, logits = a_case()
    logits, plan = logits[:outputs], tiny_models.record().plan
    expected = restore_labels(logits, spatial, plan, labels)
    with Lacking("index_select", after):
        found = restore_labels(on_gpu(logits), spatial, plan, labels)
    assert np.array_equal(found, expected)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "out of memory on cuda:0; the label map is decided in main memory" in caplog.text


def test_other_errors_of_the_gpu_are_told() -> None:
    @contextmanager
    def broken() -> Iterator[None]:
        class Broken(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                raise RuntimeError("CUDA error: device-side assert triggered")

        with Broken():
            yield

    spatial, logits = a_case()
    there = on_gpu(logits)
    with broken(), pytest.raises(RuntimeError, match="device-side assert"):
        restore_labels(there, spatial, tiny_models.record().plan, PLAIN)


@pytest.mark.parametrize("keep", [False, True])
def test_a_prediction_that_waits_to_be_written_holds_no_memory_of_the_gpu(keep: bool) -> None:
    spatial, logits = a_case()
    plan = tiny_models.record().plan
    there = on_gpu(logits)
    on_device = weakref.ref(there)
    prediction = CasePrediction.of(there, spatial, plan, PLAIN, keep_logits=keep)
    del there
    assert on_device() is None
    assert (prediction.label_map() == restore_labels(logits, spatial, plan, PLAIN)).mean() > 0.999
    assert (prediction.logits is not None) is keep
    assert prediction.logits is None or torch.equal(prediction.logits, logits)


class TooLarge(nn.Conv3d):
    def _apply(self, *arguments: Any, **options: Any) -> nn.Module:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)


def test_networks_that_do_not_fit_are_told() -> None:
    networks = (TooLarge(1, 3, 1), TooLarge(1, 3, 1))
    model = Model(tiny_models.record(), networks, ("0", "1"), Path("model"))
    told = r"memory of cuda:0 does not suffice for the networks of 2 folds; found CUDA out of memory.*inference.folds=0"
    with pytest.raises(SegflowError, match=told):
        Predictor(model, device=DEVICE)


@pytest.mark.parametrize("maps", [False, True], ids=["label maps", "all maps"])
def test_the_gpu_holds_logits_of_one_case_at_a_time(
    tmp_path: Path, maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing can be written until the last case is computed."""
    (tmp_path / "images").mkdir()
    for seed, name in enumerate("abc"):
        sitk.WriteImage(make_image(seed), str(tmp_path / "images" / f"{name}_0000.nii.gz"))
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    compute, write = Predictor.slabs, PredictStage._write
    last_begun, of_cases = threading.Event(), dict[str, list[weakref.ref[Tensor]]]()

    def watched(self: Predictor, case: PreprocessedCase, **options: Any) -> Iterator[LogitSlab]:
        others = [ref() for name, refs in of_cases.items() if name != case.case_id for ref in refs]
        assert all(logits is None for logits in others)
        if case.case_id == "c":
            last_begun.set()
        for slab in compute(self, case, **options):
            for logits in (slab.logits, *slab.of_networks):
                assert logits.is_cuda
                of_cases.setdefault(case.case_id, []).append(weakref.ref(logits))
            del logits
            yield slab

    def late(self: PredictStage, *arguments: Any) -> None:
        assert last_begun.wait(120)
        write(self, *arguments)

    monkeypatch.setattr(Predictor, "slabs", watched)
    monkeypatch.setattr(PredictStage, "_write", late)
    options = dict.fromkeys(("probabilities", "entropy", "disagreement"), maps)
    report = predict_cases(run, tmp_path / "images", tmp_path / "out", PredictSettings(device="cuda", **options))
    assert report.done == ("a", "b", "c"), report.failed
    assert [len(refs) for refs in of_cases.values()] == [1 + 2 * maps] * 3


# Several GPUs ---------------------------------------------------------------------------------------------------------


def test_batch_norm_is_synchronised(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    topology = make_record().plan.topology
    network = build_network(topology, 1, 3, norm="batch")
    network.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    frozen = [parameter.requires_grad for parameter in network.parameters()]
    trainer = pl.Trainer(accelerator="gpu", devices=2, strategy="ddp", logger=False)
    assert synchronise_batch_norm(network, trainer, False) is network
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())

    synchronised = synchronise_batch_norm(network, trainer, None)
    assert "over the samples of all 2 processes" in caplog.text
    kinds = [type(module) for module in synchronised.modules()]
    assert nn.SyncBatchNorm in kinds
    assert nn.BatchNorm3d not in kinds
    assert [parameter.requires_grad for parameter in synchronised.parameters()] == frozen
    after = synchronised.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    plain = build_network(topology, 1, 3, norm="batch")
    plain.load_state_dict(after)
    synchronised.load_state_dict(plain.state_dict())
