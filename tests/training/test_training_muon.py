"""The optimizer Muon: its steps are those of torch's where torch has it, and a resumed run takes the same."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from training_toy import PowerCut, Toy, make_record

from segflow.core.errors import SegflowError
from segflow.network.build import build_network
from segflow.training.muon import Muon, hidden_kernels, orthogonal


def toy_network() -> nn.Module:
    return build_network(make_record(features=(4, 8)).plan.topology, 1, 3, True)


@pytest.mark.parametrize("shape", [(8, 8), (8, 60), (60, 8), (1, 27)])
def test_singular_values_become_nearly_equal(shape: tuple[int, int]):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(orthogonal(matrix), full_matrices=False)
    assert values.min() > 0.6
    assert values.max() < 1.25
    exact_left, _, exact_right = torch.linalg.svd(matrix, full_matrices=False)
    agreement = (exact_left @ exact_right * (left @ right)).sum() / min(shape)
    assert agreement > 0.97


def test_a_gradient_of_zeros_gives_a_step_of_zeros():
    assert torch.equal(orthogonal(torch.zeros(4, 9)), torch.zeros(4, 9))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_those_of_torch(nesterov: bool):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(16, 40, generator=generator)
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(40, 16, bias=False), nn.Linear(2, 3))
    mine, theirs = layers[1].weight, nn.Parameter(start.clone())
    mine.data.copy_(start)
    options: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    ours = Muon([mine], layers, **options)
    torchs = torch.optim.Muon([theirs], **options, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(16, 40, generator=generator)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours.step()
        torchs.step()
    moved, expected = mine.detach() - start, theirs.detach() - start
    assert (moved - expected).norm() < 0.02 * expected.norm()  # torch's rounds are in bfloat16


def one_step(kernel: torch.Tensor, gradient: torch.Tensor, **options: Any) -> torch.Tensor:
    """How a convolution between two others is changed."""
    layers = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(kernel.shape[1], len(kernel), 3), nn.Conv2d(2, 3, 1))
    parameter = layers[1].weight
    parameter.data.copy_(kernel)
    parameter.grad = gradient.clone()
    Muon([parameter], layers, weight_decay=0.1, **options).step()
    assert torch.equal(parameter.grad, gradient)
    return parameter.detach() - kernel


def test_blocks_of_outputs_are_made_orthogonal_each_for_itself():
    generator = torch.Generator().manual_seed(3)
    kernel, gradient = (torch.randn(20, 4, 3, 3, generator=generator) for _ in range(2))
    blocks = one_step(kernel, gradient, block_rows=8)
    alone = [one_step(kernel[rows], gradient[rows]) for rows in (slice(0, 8), slice(8, 16), slice(16, 20))]
    torch.testing.assert_close(blocks, torch.cat(alone))
    whole = one_step(kernel, gradient)
    assert torch.equal(one_step(kernel, gradient, block_rows=20), whole)
    assert torch.equal(one_step(kernel, gradient, block_rows=512), whole)
    assert not torch.allclose(blocks, whole)
    assert blocks.norm() == pytest.approx(whole.norm().item(), rel=0.1)


def test_the_order_of_channels_in_memory_changes_no_step():
    generator = torch.Generator().manual_seed(4)
    kernel, gradient = (torch.randn(6, 4, 3, 3, generator=generator) for _ in range(2))
    last = gradient.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(one_step(kernel, last, block_rows=4), one_step(kernel, gradient, block_rows=4))


def test_hidden_kernels_are_those_between_the_first_layer_and_the_heads():
    network = toy_network()
    named = {id(value): name for name, value in network.named_parameters()}
    hidden = [named[id(kernel)] for kernel in hidden_kernels(network)]
    kernels = [name for name, value in network.named_parameters() if value.dim() > 1]
    assert hidden == [name for name in kernels[1:] if not name.startswith("heads.")]
    depthwise = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    assert hidden_kernels(depthwise) == []
    assert hidden_kernels(nn.ReLU()) == []


def test_all_other_parameters_are_trained_by_adamw():
    network, twin = toy_network(), toy_network()
    twin.load_state_dict(network.state_dict())
    hidden = {id(kernel) for kernel in hidden_kernels(network)}
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))
        other.grad = one.grad.clone()
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    Muon(network.parameters(), network, **options).step()
    torch.optim.AdamW(twin.parameters(), betas=(0.9, 0.95), **options).step()
    for one, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other) != (id(one) in hidden)


def test_a_resumed_run_takes_the_same_steps(toy: Toy):
    parts = {"optimizer": functools.partial(Muon, lr=0.005)}
    toy.train("whole", **parts, settings={"lr_factors": {"encoder.*": 0.5}})
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("cut", callbacks=[PowerCut(1)], **parts, settings={"lr_factors": {"encoder.*": 0.5}})
    toy.train("cut", **parts, settings={"lr_factors": {"encoder.*": 0.5}})
    whole, cut = toy.weights("whole"), toy.weights("cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert all(value.isfinite().all() for value in whole.values())


def test_it_learns_what_it_is_shown():
    torch.manual_seed(0)
    network = toy_network()
    optimizer = Muon(network.parameters(), network, lr=0.01)
    image = torch.randn(2, 1, 16, 16, 16)
    target = (image[:, 0] > 0).long()
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(image)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "options", [{"momentum": 1.0}, {"betas": (0.9, 1.5)}, {"lr": -1.0}, {"weight_decay": -0.1}, {"block_rows": 0}]
)
def test_wrong_values_are_refused_by_name(options: dict[str, Any]):
    network = toy_network()
    with pytest.raises(SegflowError, match=next(iter(options))):
        Muon(network.parameters(), network, **options)
