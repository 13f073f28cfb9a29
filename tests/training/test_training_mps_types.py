"""What runs on the training device computes without float64, which Apple's MPS lacks."""

from __future__ import annotations

from typing import Any

import pytest
import shipped_parts
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.loss.distance_maps import distance_unit_of
from segflow.network.build import build_network
from segflow.network.precision import FLOAT32, autocast
from segflow.sampling.batch import PatchBatch
from segflow.training.loss_terms import own_loss
from segflow.training.module import SegmentationModule
from segflow.training.optimization import Optimization

LABELS = Labels.from_json({"background": 0, "a": 1, "b": 2})
LOSSES = sorted({file.stem for file in (shipped_parts.CONF / "loss").glob("*.yaml")} - {"blend"})  # it has no terms
AUGMENTATIONS = sorted(file.stem for file in (shipped_parts.CONF / "augmentation").glob("*.yaml"))


class NoDoubles(TorchDispatchMode):
    """Refuses operations that take or give tensors of float64 on a device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            is_there = isinstance(value, torch.Tensor) and value.device.type == self._device
            if is_there and value.dtype in (torch.float64, torch.complex128):
                raise AssertionError(f"{func} in {value.dtype}")
        return result


def test_the_mode_sees_doubles() -> None:
    with NoDoubles("cpu"), pytest.raises(AssertionError, match="float64"):
        torch.ones(2).double()


@pytest.mark.parametrize("name", LOSSES)
def test_a_training_step(name: str) -> None:
    topology = NetworkTopology("plain_unet", (4, 8), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1), (1,))
    network = build_network(topology, 1, LABELS.num_outputs)
    loss = DeepSupervisionLoss(shipped_parts.build("loss", name)(LABELS, False), topology.strides)
    module = SegmentationModule(network, loss, LABELS, Optimization(None, None, 1))
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    label = torch.randint(0, 3, (2, 1, 8, 8, 8), dtype=torch.int16)
    distances = torch.randn(2, 2, 8, 8, 8) if distance_unit_of(own_loss(loss)) is not None else None
    batch = PatchBatch(torch.randn(2, 1, 8, 8, 8), label, [], distances=distances)
    with NoDoubles("cpu"):
        module.training_step(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        module.validation_step(batch, 0)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_on_the_device(name: str) -> None:
    """Draws are made in main memory, some in float64."""
    settings = shipped_parts.augmentation(name)
    if getattr(settings, "steps", None):
        settings.steps = {**settings.steps, "noise": None}  # it draws on the device, and torch draws on no "meta"
    built = settings((12, 16, 14), labels=LABELS, use_mask_for_norm=[False], previous_stage=False)
    if not hasattr(built, "draw"):
        pytest.skip("an augmentation without draws computes where its batch is")
    shape = (2, 1, *built.loader_patch_size)
    built._untried.clear()  # what a step makes for the first time is looked at, and has no values here
    for seed in range(4):
        draws = built.draw(2, 1, torch.Generator().manual_seed(seed))
        with NoDoubles("meta"):
            image, label = torch.empty(shape, device="meta"), torch.zeros(shape, dtype=torch.int16, device="meta")
            assert built.apply(image, label, draws)[0].device.type == "meta"


def test_nothing_is_cast_on_mps() -> None:
    assert not autocast(torch.device("mps"), FLOAT32)._enabled
