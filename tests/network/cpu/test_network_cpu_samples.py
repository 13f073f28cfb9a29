"""A batch in parts that are computed at the same time: the same logits and gradients as of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.network.cpu import samples
from segflow.network.cpu.accelerate import accelerate
from segflow.network.cpu.samples import divided, logits_side_by_side
from segflow.network.levels import logits_of_levels


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
        assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)


def network(dims: int = 3, norm: str = "instance", name: str = "plain_unet") -> nn.Module:
    torch.manual_seed(0)
    shapes = ((3,) * dims,) * 3, ((1,) * dims, (2,) * dims, (2,) * dims)
    topology = NetworkTopology(name, (8, 12, 16), *shapes, (1, 1, 1), (1, 1), norm=norm)
    return accelerate(build_network(topology, 2, 3)).double().train()


def image(samples: int, dims: int = 3) -> Tensor:
    return torch.randn((samples, 2, *(16,) * dims), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss(logits: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=logits[0].dtype)
    for n, level in enumerate(logits):
        total = total + level.softmax(1)[:, n % 3].square().mean() + level.mean()
    return total


def gradients(net: nn.Module, batch: Tensor, *, whole: bool = False) -> dict[str, Tensor]:
    net.zero_grad(set_to_none=True)
    loss(logits_of_levels(net(batch)) if whole else logits_side_by_side(net, batch)).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.fixture(autouse=True)
def large_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_LARGE_SAMPLE", 100)


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of parts that were computed side by side."""
    found: list[int] = []
    whole = samples.in_order

    def watched(calls: list[object], *arguments: object) -> object:
        found.append(len(calls))
        return whole(calls, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(samples, "in_order", watched)
    return found


@pytest.mark.parametrize("name", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize(("dims", "count", "used"), [(3, 5, 2), (3, 4, 3), (2, 7, 3)])
def test_gradients_are_those_of_the_whole_batch(dims: int, count: int, used: int, name: str) -> None:
    net, batch = network(dims, name=name), image(count, dims)
    expected = gradients(net, batch, whole=True)
    with threads(used):
        found = gradients(net, batch)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=key)


def test_single_precision_agrees_within_its_digits() -> None:
    net, batch = network().float(), image(5).float()
    expected = gradients(net, batch, whole=True)
    with threads(2):
        found = gradients(net, batch)
    largest = max(float(value.abs().max()) for value in expected.values())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * largest, msg=key)


def test_a_training_repeats_to_the_bit() -> None:
    def trained() -> list[Tensor]:
        net, batch = network().float(), image(5).float()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(4):
            gradients(net, batch)
            optimizer.step()
        return [p.detach().clone() for p in net.parameters()]

    with threads(3):
        first, second = trained(), trained()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_frozen_weights_and_heads_that_are_not_used_have_no_gradient() -> None:
    net, batch = network(), image(4)
    net.encoder.requires_grad_(False)
    for head in net.heads:
        head.requires_grad_(True)
    net.deep_supervision = False
    expected = gradients(net, batch, whole=True)
    with threads(2):
        found = gradients(net, batch)
    assert found.keys() == expected.keys()
    assert not any(key.startswith("encoder") for key in found)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_logits_without_gradients(mode: type, broken_off: list[int]) -> None:
    net, batch = network(), image(5)
    with threads(2), mode():
        found, expected = logits_side_by_side(net, batch), net(batch)
    assert broken_off == [2, 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert not one.requires_grad


def test_networks_whose_samples_depend_on_each_other_get_the_whole_batch(broken_off: list[int]) -> None:
    batch = image(4)
    dropping, hooked = network(), network()
    dropping.heads[0] = nn.Sequential(nn.Dropout(0.5), dropping.heads[0])
    hooked.heads[0].register_forward_hook(lambda *_: None)
    with threads(2):
        for net in (network(norm="batch"), dropping, hooked, nn.Conv3d(2, 3, 1).double()):
            gradients(net, batch)
        gradients(network(), batch.requires_grad_())
        assert not broken_off
        gradients(network(), batch.detach())
        assert broken_off == [2, 2]


def test_an_error_of_a_part_reaches_the_caller() -> None:
    net, batch = network(), image(4)
    batch = batch[:, :1]
    with threads(2), pytest.raises(RuntimeError, match="to have 2 channels"):
        logits_side_by_side(net, batch)


def test_a_batch_is_divided_among_the_threads() -> None:
    def sizes(count: int, voxels: int, used: int) -> list[list[int]]:
        groups = divided(count, voxels, used)
        flat = [part for group in groups for part in group]
        assert [n for part in flat for n in range(part.start, part.stop)] == list(range(count))
        return [[part.stop - part.start for part in group] for group in groups]

    assert sizes(7, 90000, 2) == [[3, 3], [1]]
    assert sizes(9, 90000, 16) == [[1] * 8, [1]]
    assert sizes(2, 2**21, 16) == [[1, 1]]
    assert sizes(10, 50, 2) == [[5, 5]]
    assert sizes(3, 10, 2) == [[1, 2]]
