"""A MedNeXt with kernels of 5 begins from one with kernels of 3."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.network.larger_kernels import enlarged_kernel, is_larger_kernel
from segflow.training.initial_weights import transfer_weights


def topology(dims: int, kernel: int) -> NetworkTopology:
    return NetworkTopology(
        network="mednext",
        features=(4, 8, 16),
        kernel_sizes=((1, *(kernel,) * (dims - 1)), (kernel,) * dims, (kernel,) * dims),
        strides=((1,) * dims, (1, *(2,) * (dims - 1)), (2,) * dims),
        encoder_blocks=(1, 1, 1),
        decoder_convs=(1, 1),
        options={"expansion": (2, 2, 2), "recompute": 0},
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_depthwise_kernels_are_interpolated_and_all_else_is_copied(dims: int) -> None:
    source, network = (build_network(topology(dims, kernel), 1, 2) for kernel in (3, 5))
    weights = source.state_dict()
    transfer = transfer_weights(network, weights, "the source")
    kernels = {name for name in weights if name.endswith("depthwise.weight")}
    assert {line.split(":")[0] for line in transfer.adapted} == kernels
    assert set(transfer.copied) == set(weights) - kernels
    assert not transfer.skipped
    assert "became" in transfer.adapted[0]
    for name in kernels:
        found = network.get_parameter(name)
        mode = "bilinear" if dims == 2 else "trilinear"
        torch.testing.assert_close(found, functional.interpolate(weights[name], size=found.shape[2:], mode=mode))


def test_an_even_kernel_stays_even() -> None:
    torch.testing.assert_close(enlarged_kernel(torch.ones(2, 1, 1, 3, 3), (1, 5, 5)), torch.ones(2, 1, 1, 5, 5))


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ((8, 1, 3, 3), (8, 1, 5, 5)),  # smaller
        ((8, 4, 5, 5), (8, 4, 3, 3)),  # not depthwise
        ((8, 1, 5, 5), (4, 1, 3, 3)),  # other channels
        ((8, 1, 5, 5, 5), (8, 1, 3, 3)),  # other dimensions
    ],
)
def test_other_weights_are_not(new: tuple[int, ...], old: tuple[int, ...]) -> None:
    assert not is_larger_kernel(new, old)
