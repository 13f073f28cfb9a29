"""The instance norm of our networks is torch's to the bit, without the copy that torch's costs before an activation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network import norms
from segflow.network.build import build_network

NORMS = {2: (norms.InstanceNorm2d, nn.InstanceNorm2d), 3: (norms.InstanceNorm3d, nn.InstanceNorm3d)}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def functions_behind(*outputs: Tensor) -> set[str]:
    """Names of the autograd functions that made these."""
    seen: set[object] = set()
    waiting = [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


def with_torchs_norms(network: nn.Module) -> nn.Module:
    own = copy.deepcopy(network)
    for module in own.modules():
        for ours, torchs in NORMS.values():
            if type(module) is ours:
                module.__class__ = torchs
    return own


def topology(network: str, dims: int) -> NetworkTopology:
    kernels, strides = ((3,) * dims,) * 3, ((1,) * dims, (2,) * dims, (2,) * dims)
    return NetworkTopology(network, (4, 8, 8), kernels, strides, (1, 2, 2), (1, 1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_are_torchs_to_the_bit(
    dims: int, batch: int, dtype: torch.dtype, channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 4, *(7, 9, 8)[-dims:], generator=generator).to(dtype)
    x = x.contiguous(memory_format=FORMATS[dims]) if channels_last else x
    upstream = torch.randn(x.shape, generator=generator).to(dtype)
    results = []
    for kind in NORMS[dims]:
        norm = kind(4, affine=True)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 4))
            norm.bias.copy_(torch.linspace(-1, 1, 4))
        norm = norm.double() if dtype == torch.float64 else norm
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = nn.functional.leaky_relu(norm(given), 0.01, inplace=True)
        y.backward(upstream)
        with torch.no_grad():
            again = nn.functional.leaky_relu(norm(given), 0.01)
        results.append([y.detach(), given.grad, norm.weight.grad, norm.bias.grad, again])
        assert y.stride() == results[0][0].stride()
    assert all(torch.equal(ours, torchs) for ours, torchs in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["plain_unet", "residual_unet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_learns_the_same_without_the_copies(kind: str, dims: int) -> None:
    torch.manual_seed(0)
    ours = build_network(topology(kind, dims), 1, 3)
    torchs = with_torchs_norms(ours)
    image = torch.randn(2, 1, *(16,) * dims)
    results = []
    for network in (ours, torchs):
        logits = network(image)
        behind = functions_behind(*logits)
        sum(one.square().mean() for one in logits).backward()
        results.append([*logits, *(p.grad for p in network.parameters() if p.grad is not None)])
        assert ("CopySlices" in behind) is (network is torchs)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert list(ours.state_dict()) == list(torchs.state_dict())


def test_on_an_accelerator_channels_last_memory_stays() -> None:
    norm = norms.InstanceNorm3d(4, affine=True, device="meta")
    for batch in (1, 2):
        x = torch.empty(batch, 4, 6, 8, 10, device="meta", memory_format=torch.channels_last_3d)
        y = norm(x)
        assert y.shape == x.shape
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
        assert norm(x.contiguous()).is_contiguous()
        assert "CopySlices" not in functions_behind(nn.functional.leaky_relu(y, 0.01, inplace=True))


def test_what_torch_refuses_is_refused() -> None:
    norm = norms.InstanceNorm3d(4, affine=True)
    with pytest.raises(ValueError, match="num_features"):
        norm(torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="more than 1"):
        norm(torch.zeros(1, 4, 1, 1, 1))
    assert norm(torch.zeros(4, 5, 6, 7)).shape == (4, 5, 6, 7), "a single image"
