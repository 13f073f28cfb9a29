"""The pretended GPUs refuse what GPUs refuse, and count each wait of the processors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny_models
import torch
from pretended_cuda import DEVICE, on_gpu, record, values

from segflow.network.build import build_network

OTHER = torch.device("cuda", 1)


def test_there_are_two_gpus() -> None:
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == 2
    made = [torch.zeros(2, device=device) for device in ("cuda", "cuda:1")]
    assert [each.device for each in made] == [DEVICE, OTHER]
    with torch.cuda.device(1):
        assert torch.ones(2, device="cuda").device == OTHER
    assert torch.equal(values(made[0] + 1), torch.ones(2))
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:2")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here: here + torch.ones(3),
        lambda here: torch.ones(3) + here,
        lambda here: torch.cat([here, torch.ones(())[None]]),
        lambda here: here.add_(torch.ones(3)),
        lambda here: here + torch.ones(3, device=OTHER),
        lambda here: torch.where(here > 0, here, torch.ones(3)),
        lambda here: torch.nn.functional.conv1d(here[None, None], torch.ones(1, 1, 1)),
        lambda here: torch.nn.functional.cross_entropy(here[None], torch.zeros(1, dtype=torch.long)),
    ],
)
def test_tensors_of_several_devices_are_refused(mixed: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mixed(torch.ones(3, device=DEVICE))


def test_numbers_and_indices_may_come_from_main_memory() -> None:
    here = torch.arange(3.0, device=DEVICE)
    assert values(here * torch.tensor(2.0)).tolist() == [0, 2, 4]
    assert values(here[torch.tensor([2, 0])]).tolist() == [2, 0]


def test_a_generator_of_main_memory_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.rand(3, device=DEVICE, generator=torch.Generator())
    assert torch.rand(3, device=DEVICE, generator=torch.Generator(DEVICE)).device == DEVICE


def test_values_of_a_tensor_in_main_memory_are_refused() -> None:
    with pytest.raises(AssertionError, match="not on the GPU: cpu"):
        values(torch.ones(3))


@pytest.mark.parametrize(
    ("act", "wait"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: bool((x > 0).all()), "item"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "copy to main memory"),
        (lambda x: torch.empty(3).copy_(x), "copy to main memory"),
        (lambda x: torch.ones(3).to(x.device), "copy to the device"),
        (lambda x: torch.tensor([1.0], device=x.device), "copy to the device"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index with a mask"),
        (lambda x: x[torch.tensor([0])], "index with values from main memory"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: x.long().bincount(), "bincount"),
        (lambda x: torch.cuda.synchronize(), "synchronize"),
        (lambda x: torch.cuda.empty_cache(), "empty_cache"),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), None),
        (lambda x: x.to("cpu", non_blocking=True), None),
        (lambda x: x.masked_fill_(x > 0, 2), None),
        (lambda x: x.__setitem__(x > 0, 2.0), None),
        (lambda x: x.__setitem__(1, 2.0), "copy to the device"),
        (lambda x: x.__setitem__(slice(1, 3), 2.0), None),
        (lambda x: torch.full((3,), 2.0, device=x.device), None),
    ],
)
def test_waits_are_counted(act: Callable[[torch.Tensor], object], wait: str | None) -> None:
    here = torch.ones(3, device=DEVICE)
    torch.cuda.init()
    with record() as gpu:
        act(here)
    assert gpu.waits == ({} if wait is None else {f"{wait} in backward or test": 1})


def test_waits_are_told_by_the_function_that_waits() -> None:
    module = torch.nn.Linear(2, 2).to(DEVICE)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cuda")
    scaler.scale(module(on_gpu(torch.ones(1, 2))).sum()).backward()
    with record() as gpu:
        scaler.step(optimizer)
    assert gpu.waits == {"item in torch/amp/grad_scaler.py:_maybe_opt_step": 1}


def test_autocast_and_the_scaler_reach_the_convolutions() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 2, 3)).to(DEVICE)
    kept = list(network.parameters())
    network.to(memory_format=torch.channels_last)
    assert all(mine is now for mine, now in zip(kept, network.parameters(), strict=True))
    for dtype in (torch.float16, torch.bfloat16):
        image = torch.rand(1, 2, 8, 8, device=DEVICE).contiguous(memory_format=torch.channels_last)
        with record() as gpu, torch.autocast("cuda", dtype):
            network(image).float().sum().backward()
        name = str(dtype).removeprefix("torch.")
        assert gpu.convolutions == {(name, "channels last", "cuda:0", "backward or test"): 4}


def test_a_network_comes_back_to_main_memory_with_its_values() -> None:
    network = build_network(tiny_models.topology(2), 1, 3)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network.to(OTHER)
    assert {parameter.device for parameter in network.parameters()} == {OTHER}
    network.cpu()
    assert all(torch.equal(mine, now) for mine, now in zip(before, network.parameters(), strict=True))
