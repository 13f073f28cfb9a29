"""What runs on a GPU computes there what it computes on the CPU, mixes no devices, and waits only where it must."""

from __future__ import annotations

import functools
import itertools
import os
from typing import Any

import numpy as np
import pytest
import shipped_parts
import tiny_models
import torch

from segflow.augmentation.batch_augmentation import Augmentation
from segflow.augmentation.intensity import Brightness, BrightnessShift, Contrast, Gamma
from segflow.augmentation.local import Gradient, LocalGamma, Rectangles
from segflow.augmentation.orientation import TurnSettings
from segflow.augmentation.resolution import Sharpen
from segflow.augmentation.validation_transform import ValidationTransform
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.sliding_window import predict_logits
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.loss.hard_counts import hard_counts
from segflow.network.build import build_network
from segflow.preprocessing.restore import restore_labels, restore_probabilities
from segflow.training.device_augmentation import DeviceAugmentation

IS_REAL = "SEGFLOW_TEST_DEVICE" in os.environ
if IS_REAL:
    from real_device import DEVICE, on_gpu, record, values
else:
    from pretended_cuda import DEVICE, on_gpu, record, values

PLAIN = Labels.from_json({"background": 0, "a": 1, "b": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
PARTLY = Labels.from_json({"background": 0, "a": 1, "b": 2, "ignore": 3})
SHAPES = {"3d": (20, 28, 20), "dummy 2d": (4, 48, 48), "2d": (64, 64)}


def batch(shape: tuple[int, ...], channels: int, labels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(3, channels, *shape, generator=generator)
    return image, torch.randint(-1, 3, (3, labels, *shape), generator=generator).to(torch.int16)


def seeded(seed: int, *arguments: Any, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(*arguments, **options)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("previous", [False, True], ids=["", "cascade"])
def test_augmentation(shape: tuple[int, ...], previous: bool) -> None:
    more = {
        "brightness_shift": BrightnessShift(probability=0.1, channel_probability=0.5),
        "contrast_free": Contrast(probability=0.15, keep_range=False),
        **{
            kind.__name__: kind(probability=0.3, channel_probability=0.5) for kind in (Rectangles, Gradient, LocalGamma)
        },
        "sharpen": Sharpen(probability=0.3, channel_probability=0.5),
    }
    settings = shipped_parts.augmentation()
    settings.steps = {**settings.steps, **more}
    if IS_REAL:  # each device draws noise of its own
        settings.steps = {**settings.steps, "noise": None}
    settings.turn = TurnSettings(turn_probability=0.3, exchange_probability=0.3)
    augmentation = settings(shape, labels=PLAIN, use_mask_for_norm=[True, False], previous_stage=previous)
    for seed in range(8):
        image, label = batch(augmentation.loader_patch_size, 2, 1 + previous, seed)
        draws = augmentation.draw(3, 2, torch.Generator().manual_seed(seed))
        expected = augmentation.apply(image, label, draws)
        augmentation._untried.clear()  # what a step makes is looked at once, which waits
        there = on_gpu(image), on_gpu(label)
        with record() as gpu:
            found = augmentation.apply(*there, draws)
        # A part of the previous stage's label that is removed is found in main memory.
        assert not [wait for wait in gpu.waits if "augmentation/cascade.py" not in wait]
        for here, moved in zip(expected, found, strict=True):
            torch.testing.assert_close(values(moved), here, rtol=1e-5, atol=1e-5)


def test_augmentation_of_a_training_batch() -> None:
    shape = SHAPES["3d"]
    plain = Augmentation(steps={"brightness": Brightness(probability=0.15), "gamma": Gamma(probability=0.3)})
    build = functools.partial(plain, shape, labels=PLAIN, use_mask_for_norm=[False], previous_stage=False)
    for augmentation in (build(), ValidationTransform(shape, labels=PLAIN, previous_stage=False)):
        on_device = DeviceAugmentation(augmentation, seed=1, batch_size=3, rank=0, world_size=1)
        image, label = batch(augmentation.loader_patch_size, 1, 1, 0)
        expected = on_device(image, label, epoch=2, index=5)
        found = on_device(on_gpu(image), on_gpu(label), epoch=2, index=5)
        for here, there in zip(expected, found, strict=True):
            if IS_REAL:  # powers differ in the last bits
                torch.testing.assert_close(values(there), here, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(values(there), here)


LOSSES = {
    "dice_ce": DiceCrossEntropy,
    "topk": functools.partial(DiceCrossEntropy, top_k_percent=10, dice_weight=0.0),
    "smoothed": functools.partial(DiceCrossEntropy, label_smoothing=0.1),
}


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("network", ["plain_unet", "residual_unet", "batch norm"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("labels", "loss"),
    [*((PLAIN, name) for name in LOSSES), (REGIONS, "dice_ce"), (PARTLY, "dice_ce")],
    ids=[*LOSSES, "regions", "ignore"],
)
def test_a_training_step(network: str, dims: int, labels: Labels, loss: str, precision: str) -> None:
    norm = "batch" if network == "batch norm" else "instance"
    topology = tiny_models.topology(dims, "plain_unet" if network == "batch norm" else network)
    here, there = (seeded(0, topology, 1, labels.num_outputs, norm=norm) for _ in range(2))
    image, label = batch((16,) * dims, 1, 1, 0)
    label = label.clamp(min=0)
    if labels.ignore_label is not None:
        label[:, :, :3] = labels.ignore_label
    compute = DeepSupervisionLoss(LOSSES[loss](labels, True), topology.strides)

    def step(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.float16, enabled=x.is_cuda and precision == "float16"):
            value = compute(net(x), y)
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
        torch.optim.SGD(net.parameters(), 0.01, momentum=0.99, nesterov=True).step()
        return value.detach()

    expected = step(here, image, label)
    there.to(DEVICE)
    compute.to(DEVICE)
    x, y = on_gpu(image), on_gpu(label)
    with record() as gpu:
        found = step(there, x, y)
    assert not gpu.waits, "a step waits for the device"
    assert {dtype for dtype, *_ in gpu.convolutions} == {precision}
    exact = precision == "float32"
    torch.testing.assert_close(values(found), expected, rtol=1e-4 if exact else 1e-2, atol=1e-5 if exact else 1e-3)
    for mine, theirs in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(
            values(theirs.data), mine.data, rtol=1e-3 if exact else 1e-2, atol=1e-5 if exact else 1e-3
        )


@pytest.mark.parametrize("labels", [PLAIN, REGIONS, PARTLY], ids=["labels", "regions", "ignore"])
def test_the_counts_of_the_pseudo_dice(labels: Labels) -> None:
    logits = torch.randn(3, labels.num_outputs, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    label = batch((8, 8, 8), 1, 1, 0)[1].clamp(min=0)
    if labels.ignore_label is not None:
        label[:, :, :3] = labels.ignore_label
    expected = hard_counts(logits, label, labels)
    x, y = on_gpu(logits), on_gpu(label)
    with record() as gpu:
        found = hard_counts(x, y, labels)
    assert not gpu.waits
    assert all(torch.equal(values(there), here) for here, there in zip(expected, found, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["16", "32"])
@pytest.mark.parametrize("sums", ["float32", "float16"])
def test_the_sliding_window(dims: int, sums: str, precision: str) -> None:
    networks = [seeded(k, tiny_models.topology(dims), 1, 3, deep_supervision=False).eval() for k in range(2)]
    image = torch.randn(1, 10, 21, 26, generator=torch.Generator().manual_seed(0))
    patch, axes = (8, 16, 16)[-dims:], tuple(range(dims))
    settings = SlidingWindowSettings(sums=sums, precision=precision)
    expected = predict_logits(networks, image, patch, axes, SlidingWindowSettings(sums=sums))
    for network in networks:
        network.to(DEVICE)
    with record() as gpu:
        found = predict_logits(networks, image, patch, axes, settings)
    assert {dtype for dtype, *_ in gpu.convolutions} == {f"float{precision}"}
    exact = (sums, precision) == ("float32", "32")
    torch.testing.assert_close(values(found), expected, rtol=1e-3, atol=1e-4 if exact else 1e-2)


@pytest.mark.parametrize(
    ("labels", "spacing"),
    list(itertools.product([PLAIN, REGIONS], [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)])),
    ids=["labels", "labels, thick slices", "regions", "regions, thick slices"],
)
def test_the_way_back_to_the_image(labels: Labels, spacing: tuple[float, ...]) -> None:
    shape_plan, cropped = (9, 11, 8), (7, 15, 12)
    spatial = SpatialRecord(
        geometry=Geometry((1.0, 1.0, 1.0)),
        shape_original=(9, 18, 14),
        axis_order=(0, 1, 2),
        crop=Box((1, 2, 0), (8, 17, 12)),
        spacing_transposed=spacing,
        spacing_plan=tuple(s * n / m for s, n, m in zip(spacing, cropped, shape_plan, strict=True)),
        shape_plan=shape_plan,
    )
    plan = tiny_models.record().plan
    logits = torch.randn(labels.num_outputs, *shape_plan, generator=torch.Generator().manual_seed(0))
    expected = restore_labels(logits, spatial, plan, labels)
    probabilities = list(restore_probabilities(logits, spatial, plan, labels))
    found = restore_labels(on_gpu(logits), spatial, plan, labels)
    of_gpu = list(restore_probabilities(on_gpu(logits), spatial, plan, labels))
    assert (found == expected).mean() > 0.999
    for here, there in zip(probabilities, of_gpu, strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5)
