"""The networks: what comes out, what they weigh, and that what they skip changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def topology(network: str = "plain_unet", dims: int = 3, levels: int = 4, **changes: object) -> NetworkTopology:
    """A small topology whose first kernel and first stride leave one axis of 3D alone."""
    flat, cube = (1, *(3,) * (dims - 1)) if dims == 3 else (3, 3), (3,) * dims
    strides = ((1,) * dims, (1, 2, 2) if dims == 3 else (2, 2), (2,) * dims, (2,) * dims)
    values: dict[str, object] = {
        "features": (4, 8, 16, 16)[:levels],
        "kernel_sizes": (flat, cube, cube, cube)[:levels],
        "strides": strides[:levels],
        "encoder_blocks": (2, 1, 2, 1)[:levels],
        "decoder_convs": (1, 2, 1)[: levels - 1],
        **changes,
    }
    return NetworkTopology(network, **values)  # type: ignore[arg-type]


NETWORKS = [(network, dims) for network in ("plain_unet", "residual_unet") for dims in (2, 3)]


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_logits_come_finest_first_and_the_unsupervised_level_is_left_out(network: str, dims: int, norm: str) -> None:
    built = build_network(topology(network, dims, norm=norm), 2, 3)
    logits = built(torch.randn(2, 2, *(16,) * dims))
    assert [tuple(one.shape) for one in logits] == [
        (2, 3, *(16,) * dims),
        (2, 3, *((16, 8, 8) if dims == 3 else (8, 8))),
    ]


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
def test_switching_deep_supervision_off_leaves_the_finest_logits_as_they_were(network: str, dims: int) -> None:
    built = build_network(topology(network, dims), 1, 2)
    image = torch.randn(1, 1, *(16,) * dims)
    supervised = built(image)[0]
    built.deep_supervision = False
    single = built(image)
    assert len(single) == 1
    torch.testing.assert_close(single[0], supervised)


@pytest.mark.parametrize(("levels", "outputs"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_small_topologies_give_at_least_the_finest_logits(levels: int, outputs: int) -> None:
    built = build_network(topology(levels=levels), 1, 2)
    assert len(built(torch.randn(1, 1, 8, 16, 16))) == outputs


def test_parameter_count_of_a_net_counted_by_hand() -> None:
    plan = NetworkTopology("plain_unet", (4, 8), ((3, 3), (3, 3)), ((1, 1), (2, 2)), (1, 1), (1,))
    conv = (9 * 1 * 4 + 4) + (9 * 4 * 8 + 8) + (9 * 8 * 4 + 4)
    norms, up, head = 2 * (4 + 8 + 4), 4 * 8 * 4 + 4, 4 * 3 + 3
    assert sum(p.numel() for p in build_network(plan, 1, 3).parameters()) == conv + norms + up + head


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_every_parameter_that_asks_for_a_gradient_gets_one(network: str, dims: int, deep_supervision: bool) -> None:
    built = build_network(topology(network, dims), 1, 2, deep_supervision)
    sum(one.square().sum() for one in built(torch.randn(2, 1, *(16,) * dims))).backward()
    asked = {name: p for name, p in built.named_parameters() if p.requires_grad}
    assert [name for name, p in asked.items() if p.grad is None] == []
    unused = {name for name, p in built.named_parameters() if not p.requires_grad}
    expected = {"heads.0"} if deep_supervision else {"heads.0", "heads.1"}
    assert {name.rsplit(".", 1)[0] for name in unused} == expected


def test_weights_are_drawn_as_the_recipe_says() -> None:
    torch.manual_seed(0)
    built = build_network(topology("residual_unet", 3, features=(32, 64, 64, 64)), 1, 2)
    weight = built.encoder.stages[2][1].conv1.conv.weight
    expected = (2 / (1 + 0.01**2) / (27 * 64)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert all(m.bias.abs().max() == 0 for m in built.modules() if isinstance(m, nn.Conv3d) and m.bias is not None)
    assert built.encoder.stages[0][0].conv2.norm.weight.abs().max() == 0
    assert built.encoder.stages[0][0].conv1.norm.weight.min() == 1


@pytest.mark.parametrize(
    ("name", "network", "dims", "encoder_blocks", "decoder_convs"),
    [("plain_3d", "plain_unet", 3, (2, 2, 2), (2, 1)), ("residual_2d", "residual_unet", 2, (1, 2, 2), (1, 1))],
)
def test_the_same_seed_gives_the_initial_weights_of_nnunet(
    name: str, network: str, dims: int, encoder_blocks: tuple[int, ...], decoder_convs: tuple[int, ...]
) -> None:
    """First, second and last value of every weight of nnU-Net 2.8.1's network after ``torch.manual_seed(7)``."""
    kernels, strides = ((3,) * dims,) * 3, ((1,) * dims, (2,) * dims, (2,) * dims)
    torch.manual_seed(7)
    built = build_network(
        NetworkTopology(network, (4, 8, 16), kernels, strides, encoder_blocks, decoder_convs), 2, 3
    ).state_dict()
    for key, (first, second, last) in json.loads((GOLDEN / "initial_weights.json").read_text())[name].items():
        values = built[key].flatten()
        assert [*values[:2].tolist(), values[-1].item()] == pytest.approx([first, second, last], abs=1e-6), key


def test_the_global_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_network(topology(), 1, 2).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("network", "dims"), NETWORKS)
def test_memory_format_does_not_change_the_result(network: str, dims: int) -> None:
    built = build_network(topology(network, dims), 1, 2)
    image = torch.randn(2, 1, *(16,) * dims)
    results = []
    for memory_format in ("contiguous", "channels_last"):
        built.memory_format = memory_format
        built.zero_grad()
        logits = built(image)
        sum(one.square().sum() for one in logits).backward()
        results.append((logits[0], built.encoder.get_submodule(_first_conv(network)).weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)


def _first_conv(network: str) -> str:
    return "stem.conv" if network == "residual_unet" else "stages.0.blocks.0.conv"


def test_it_runs_in_bfloat16_on_the_cpu() -> None:
    built = build_network(topology(), 1, 2)
    image = torch.randn(1, 1, 8, 16, 16)
    plain = built(image)[0]
    with torch.autocast("cpu", torch.bfloat16):
        logits = built(image)
        sum(one.float().square().sum() for one in logits).backward()
    assert logits[0].dtype == torch.bfloat16
    torch.testing.assert_close(logits[0].float(), plain, rtol=0.1, atol=0.1 * plain.abs().max().item())


@pytest.mark.parametrize("shape", [(8, 16, 20), (16, 16)])
def test_a_patch_that_does_not_fit_is_refused_with_the_multiples(shape: tuple[int, ...]) -> None:
    with pytest.raises(SegflowError, match=r"multiples of \[4, 8, 8\]"):
        build_network(topology(), 1, 2)(torch.randn(1, 1, *shape))


def test_the_norm_option_replaces_the_planned_one() -> None:
    built = build_network(topology(), 1, 2, norm="batch")
    assert not any(isinstance(m, nn.InstanceNorm3d) for m in built.modules())
    assert any(isinstance(m, nn.BatchNorm3d) for m in built.modules())


@pytest.mark.parametrize("option", [{"norm": "layer"}, {"memory_format": "nhwc"}])
def test_an_unknown_option_is_named(option: dict[str, str]) -> None:
    with pytest.raises(SegflowError, match=next(iter(option.values()))):
        build_network(topology(), 1, 2, **option)


def test_the_network_can_be_exported() -> None:
    built = build_network(topology(dims=2), 1, 2, deep_supervision=False).eval()
    image = torch.randn(1, 1, 16, 16)
    exported = torch.export.export(built, (image,))
    torch.testing.assert_close(exported.module()(image)[0], built(image)[0], rtol=1e-4, atol=1e-4)
