"""Weights travel to nnU-Net's names and back."""

from __future__ import annotations

import pytest
import torch

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.models.nnunet_names import from_nnunet, to_nnunet
from segflow.network.build import build_network


def topology(network: str, norm: str = "instance", conv_bias: bool = True) -> NetworkTopology:
    kernels, strides = ((1, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (1, 2, 2), (2, 2, 2))
    return NetworkTopology(network, (4, 8, 8), kernels, strides, (1, 2, 2), (2, 1), conv_bias=conv_bias, norm=norm)


CASES = [(network, norm, bias) for network in ("plain_unet", "residual_unet") for norm, bias in
         (("instance", True), ("batch", True), ("instance", False))]  # fmt: skip


@pytest.mark.parametrize(("network", "norm", "bias"), CASES)
def test_round_trip(network: str, norm: str, bias: bool) -> None:
    plan = topology(network, norm, bias)
    state = build_network(plan, 2, 3).state_dict()
    back = from_nnunet(to_nnunet(state, plan), plan)
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state)


def test_every_alias_of_a_plain_block_is_written() -> None:
    plan = topology("plain_unet")
    state = build_network(plan, 2, 3).state_dict()
    theirs = to_nnunet(state, plan)
    weight = state["encoder.stages.1.blocks.1.conv.weight"]
    for name in ("conv.weight", "all_modules.0.weight"):
        assert theirs[f"encoder.stages.1.0.convs.1.{name}"] is weight
        assert theirs[f"decoder.encoder.stages.1.0.convs.1.{name}"] is weight
    assert theirs["decoder.stages.0.convs.1.all_modules.1.bias"] is state["decoder.0.stack.blocks.1.norm.bias"]
    assert tuple(theirs["decoder.transpconvs.0.weight"].shape) == (8, 8, 2, 2, 2)
    assert tuple(theirs["decoder.seg_layers.1.weight"].shape) == (3, 4, 1, 1, 1)
    blocks = 1 + 2 + 2
    assert len(theirs) == blocks * 16 + 3 * 8 + 2 * 4  # recipe 8.5: 8 names a block, twice in the encoder


def test_the_shortcut_of_a_pooling_block_has_index_one() -> None:
    plan = topology("residual_unet")
    theirs = to_nnunet(build_network(plan, 2, 3).state_dict(), plan)
    assert "encoder.stages.1.blocks.0.skip.1.conv.weight" in theirs
    assert "encoder.stages.1.blocks.0.skip.1.conv.bias" not in theirs
    assert not any(
        name.startswith("encoder.stages.2.blocks.0.skip") for name in theirs
    )  # as many features: pooling only


def test_prefixes_of_wrappers_are_dropped() -> None:
    plan = topology("plain_unet")
    state = build_network(plan, 2, 3).state_dict()
    wrapped = {f"module._orig_mod.{name}": value for name, value in to_nnunet(state, plan).items()}
    assert from_nnunet(wrapped, plan).keys() == state.keys()


def test_weights_of_another_topology_are_refused_with_the_name() -> None:
    plain, residual = topology("plain_unet"), topology("residual_unet")
    theirs = to_nnunet(build_network(plain, 2, 3).state_dict(), plain)
    with pytest.raises(SegflowError, match=r"encoder[.]stem"):
        from_nnunet(theirs, residual)
    with pytest.raises(SegflowError, match=r"more than the plans describe.*surplus"):
        from_nnunet({**theirs, "surplus.weight": torch.zeros(1)}, plain)
    del theirs["decoder.seg_layers.0.bias"]
    with pytest.raises(SegflowError, match=r"seg_layers[.]0[.]bias"):
        from_nnunet(theirs, plain)
