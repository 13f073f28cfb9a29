"""Full-size steps on a fake GPU: memory, traffic, precision, and what autograd keeps.

Started by `test_fake_gpu.py`, in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import fake_gpu  # before torch
import pytest
import shipped_parts
import torch

from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology
from segflow.inference.sliding_window import GPU_BYTES_PER_VOXEL
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.network.build import build_network
from segflow.sampling.batch import PatchBatch
from segflow.training.module import SegmentationModule
from segflow.training.optimization import Optimization

GIB = 2**30
LABELS = Labels.from_json({"background": 0, "a": 1, "b": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
PATCHES = {2: (512, 512), 3: (128, 128, 128)}


def topology(network: str = "plain_unet", dims: int = 3, norm: str = "instance") -> NetworkTopology:
    """nnU-Net's network for a patch of `PATCHES`."""
    kernels, strides = ((3,) * dims,) * 6, ((1,) * dims, *((2,) * dims,) * 5)
    features = (32, 64, 128, 256, 320, 320)
    blocks, convs = ((1, 3, 4, 6, 6, 6), (1,) * 5) if network == "residual_unet" else ((2,) * 6, (2,) * 5)
    return NetworkTopology(network, features, kernels, strides, blocks, convs, norm=norm)


@dataclass(frozen=True)
class Step:
    """A training step in float16, and what it may need in GiB.

    Attributes:
        peak: Of all tensors together: weights, momentum, patches, features, loss, gradients.
        kept: Of all tensors between forward and backward pass.
        traffic: Read and written by all operations.
    """

    peak: float
    kept: float
    traffic: float
    topology: NetworkTopology
    batch: int = 2
    channels: int = 1
    labels: Labels = LABELS


# Counted in the same way, nnU-Net's peak is 4.65 GiB with its plain network in 3D, and 6.05 GiB with its residual one.
STEPS = {
    "plain": Step(4.16, 3.76, 29.8, topology()),
    "residual": Step(5.56, 5.16, 45.8, topology("residual_unet")),
    "2d": Step(4.11, 3.82, 30.4, topology(dims=2), batch=12),
    "batch norm": Step(4.16, 3.76, 29.8, topology(norm="batch")),
    "cascade": Step(4.20, 3.81, 29.8, topology(), channels=3),
    "regions, ignore": Step(4.16, 3.77, 29.9, topology(), labels=REGIONS),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_training_step(step: Step) -> None:
    with torch.device("meta"):
        network = build_network(step.topology, step.channels, step.labels.num_outputs)
    loss = DeepSupervisionLoss(DiceCrossEntropy(step.labels, False), step.topology.strides)
    module = SegmentationModule(network, loss, step.labels, Optimization(None, None, 1))
    patch = PATCHES[step.topology.spatial_dims]
    autocast = torch.autocast("cuda", torch.float16)

    def batch() -> PatchBatch:
        image = torch.empty(step.batch, step.channels, *patch, device="cuda")
        return PatchBatch(image, torch.zeros(step.batch, 1, *patch, dtype=torch.int16, device="cuda"), [])

    with fake_gpu.fake_gpu() as memory:
        module.to_empty(device="cuda")
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)

        def train() -> int:
            given = batch()
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                value = module.training_step(given, 0)
            kept = memory.now
            assert "CopySlices" not in fake_gpu.functions_behind(value)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
            return kept

        train()  # the first step makes the momentum
        memory.begin_anew()
        kept = train()
        found = memory.peak / GIB, kept / GIB, memory.traffic.total() / GIB
        assert set(memory.convolutions) == {"float16"}
        assert found[0] <= step.peak, found
        assert found[1] <= step.kept, found
        assert found[2] <= step.traffic, found

        optimizer.zero_grad(set_to_none=True)
        memory.begin_anew()
        image, label, *_ = batch()
        with torch.no_grad(), autocast:
            module.loss(module(image), label)
        assert set(memory.convolutions) == {"float16"}
        assert memory.peak / GIB < step.peak / 2


def test_augmentation_on_the_device_needs_less_than_a_step_has_free() -> None:
    """Of a batch to which all happens that can."""
    build = shipped_parts.augmentation()
    augmentation = build(PATCHES[3], labels=LABELS, use_mask_for_norm=[False], previous_stage=False)
    augmentation._untried.clear()  # or their results would be looked at, and have no values
    draws = augmentation.draw(2, 1, torch.Generator().manual_seed(0))
    for name in draws:
        if name.endswith(("selected", "resampled")):
            draws[name] = torch.ones_like(draws[name])
    shape = (2, 1, *augmentation.loader_patch_size)
    with fake_gpu.fake_gpu(only=True) as memory:
        image = torch.empty(shape, device="cuda")
        label = torch.zeros(shape, dtype=torch.int16, device="cuda")
        augmentation.apply(image, label, draws)
        assert memory.peak / GIB <= 0.34


@pytest.mark.parametrize(("network", "dims"), [("plain_unet", 2), ("plain_unet", 3), ("residual_unet", 3)])
def test_tiles_need_less_than_the_automatic_batch_reckons_with(network: str, dims: int) -> None:
    """Half of it is left for what kernels need besides their tensors."""
    with torch.device("meta"):
        built = build_network(topology(network, dims), 1, 118, deep_supervision=False).eval()
    with fake_gpu.fake_gpu() as memory:
        built.to_empty(device="cuda")
        tiles = torch.empty(4, 1, *PATCHES[dims], device="cuda")
        memory.begin_anew()
        before = memory.now
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            built(tiles)
        assert (memory.peak - before) / tiles.numel() < GPU_BYTES_PER_VOXEL / 2
