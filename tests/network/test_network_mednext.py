"""MedNeXt is the published one, with the plan's strides, and its size in closed form is its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segflow.apps import _edge
from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate
from segflow.planning.configuration import build_topology, pool

PUBLISHED = {
    "mednext_s": 5.6,
    "mednext_b": 10.5,
    "mednext_m": 17.6,
    "mednext_l": 61.8,
    "mednext_s_k5": 5.9,
    "mednext_b_k5": 11.0,
    "mednext_m_k5": 18.3,
    "mednext_l_k5": 63.0,
}
"""Million parameters of the paper's table 1."""

PARTS = {"conv1": "depthwise", "norm": "norm", "conv2": "expand", "conv3": "compress", "res_conv": "shortcut"}
"""MONAI's name of a block's layer → ours."""


def small(dims: int, *, recompute: int = 0, levels: int = 4, **changes: Any) -> NetworkTopology:
    return replace(
        NetworkTopology(
            network="mednext",
            features=tuple(4 * 2**level for level in range(levels)),
            kernel_sizes=((3,) * dims,) * levels,
            strides=((1,) * dims, *((2,) * dims,) * (levels - 1)),
            encoder_blocks=(1, 2, 1, 2)[:levels],
            decoder_convs=(1, 2, 1, 2)[: levels - 1][::-1],
            options={"expansion": (2, 3, 4, 4)[:levels], "recompute": recompute},
        ),
        **changes,
    )


def anisotropic() -> NetworkTopology:
    kernels = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
    return small(3, strides=((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)), kernel_sizes=kernels)


@pytest.mark.parametrize("option", list(PUBLISHED))
@pytest.mark.parametrize("dims", [2, 3])
def test_parameters_are_as_many_as_published(option: str, dims: int) -> None:
    """The paper counts in 3D, with one channel and without the heads of coarser levels, as MONAI's class has them."""
    monai = pytest.importorskip("monai.networks.nets.mednext", reason="MONAI is not installed")
    settings = _edge.compose("plan", f"planner={option}").planner
    topology = build_topology(pool((1.0,) * dims, (128,) * dims, settings), settings)
    with torch.device("meta"):
        network = build_network(topology, 1, 3)
        reference = monai.create_mednext(option[8].upper(), dims, 1, 3, kernel_size=settings.kernel_size)
    count = parameters(network)
    assert count == topology.size(1, 3)
    published = count - sum(parameters(head) for head in network.heads[:-1])
    assert published == parameters(reference)
    if dims == 3:
        assert published / 1e6 == pytest.approx(PUBLISHED[option], abs=0.1)


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("dims", [2, 3])
def test_with_equal_weights_it_computes_what_the_reference_computes(dims: int) -> None:
    monai = pytest.importorskip("monai.networks.nets.mednext", reason="MONAI is not installed")
    torch.manual_seed(0)
    reference = monai.MedNeXt(
        dims,
        4,
        2,
        3,
        encoder_expansion_ratio=(2, 3, 4),
        decoder_expansion_ratio=(4, 3, 2),
        bottleneck_expansion_ratio=4,
        kernel_size=3,
        use_residual_connection=True,
        blocks_down=(1, 2, 1),
        blocks_bottleneck=2,
        blocks_up=(1, 2, 1),
    )
    network = build_network(small(dims), 2, 3, False)
    weights = renamed(reference.state_dict(), levels=4)
    assert set(network.state_dict()) - set(weights) == {
        f"heads.{k}.{name}" for k in (0, 1) for name in ("weight", "bias")
    }
    network.load_state_dict(weights, strict=False)
    image = torch.randn(2, 2, *(16,) * dims)
    with torch.inference_mode():
        expected = reference.eval()(image)
        torch.testing.assert_close(network(image)[0], expected)
        torch.testing.assert_close(accelerate(network)(image)[0], expected, rtol=1e-4, atol=1e-5)


def renamed(weights: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """MONAI's weights under our names."""
    stages = {"enc_stages": "encoder", "down_blocks": "down", "up_blocks": "up", "dec_stages": "decoder"}
    result = {}
    for name, value in weights.items():
        first, *others, last = name.split(".")
        if first == "out_0":  # a transposed convolution
            result[f"heads.{levels - 2}.{last}"] = value.transpose(0, 1) if value.ndim > 1 else value
            continue
        path = [f"encoder.{levels - 1}" if first == "bottleneck" else stages.get(first, first)]
        result[".".join([*path, *(PARTS.get(part, part) for part in others), last])] = value
    return result


CASES = [
    ("2d", small(2), (32, 24)),
    ("3d", small(3), (16, 24, 16)),
    ("anisotropic", anisotropic(), (4, 32, 24)),
    ("one level", small(3, levels=1), (5, 6, 7)),
]


@pytest.mark.parametrize(("topology", "patch"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_step_gives_logits_of_every_level_and_gradients(topology: NetworkTopology, patch: Sequence[int]) -> None:
    network = build_network(topology, 2, 3)
    logits = network(torch.randn(2, 2, *patch))
    shapes, shape = [], list(patch)
    for stride in topology.strides[: max(topology.levels - 2, 1)]:
        shape = [n // s for n, s in zip(shape, stride, strict=True)]
        shapes.append((2, 3, *shape))
    assert [tuple(one.shape) for one in logits] == shapes
    sum(one.square().mean() for one in logits).backward()
    without = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert not without
    network.deep_supervision = False
    assert len(network(torch.randn(1, 2, *patch))) == 1


def test_blocks_that_are_computed_again_change_no_gradient() -> None:
    kept, again = (build_network(small(3, recompute=n), 1, 2) for n in (0, 1))
    again.load_state_dict(kept.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    for network in (kept, again):
        network(image)[0].square().mean().backward()
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(("topology", "patch"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_memory_estimate_is_near_what_autograd_keeps(topology: NetworkTopology, patch: Sequence[int]) -> None:
    estimate = topology.kind.kept_values(topology, patch, 2, 3) if topology.kind else 0
    assert estimate == pytest.approx(kept_by_autograd(topology, patch), rel=0.15)


def kept_by_autograd(topology: NetworkTopology, patch: Sequence[int]) -> int:
    """Numbers in all tensors that a forward pass of one sample saves, without parameters."""
    network = build_network(topology, 2, 3)
    own = {value.untyped_storage().data_ptr() for value in network.parameters()}
    found: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        found[value.untyped_storage().data_ptr()] = value  # which keeps the storage, so that no other has its address
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        logits = network(torch.randn(1, 2, *patch))
    assert logits
    return sum(value.untyped_storage().nbytes() // 4 for place, value in found.items() if place not in own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"expansion": (2, 3, 4, 4)}}, "lacks an option"),
        ({"options": {"expansion": (2, 3), "recompute": 0}}, "there are 4 levels"),
        ({"options": {"expansion": (2, 3, 4, 99), "recompute": 0}}, "from 1 to 16"),
        ({"options": {"expansion": (2, 3, 4, 4), "recompute": 0.5}}, "whole number from 0 to 1"),
        ({"options": {"expansion": (2, 3, 4, 4), "recompute": 0, "width": 3}}, "has no option 'width'"),
        ({"norm": "batch"}, "a normalisation and an activation of its own"),
        ({"network": "plain_unet"}, "has no options"),
        ({"network": "mednext_xl"}, "unknown network"),
    ],
)
def test_options_that_it_cannot_have_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        small(3, **changes)
