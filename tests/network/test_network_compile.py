"""The compiler sees a network as one graph: nothing in it sends it back to Python."""

from __future__ import annotations

import pytest
import torch

from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.network.levels import logits_of_levels


@pytest.mark.parametrize(
    ("network", "dims", "norm"),
    [
        *((network, dims, "instance") for network in ("plain_unet", "residual_unet") for dims in (2, 3)),
        ("plain_unet", 3, "batch"),
    ],
)
def test_there_are_no_graph_breaks(network: str, dims: int, norm: str) -> None:
    kernels, strides = ((3,) * dims,) * 2, ((1,) * dims, (2,) * dims)
    topology = NetworkTopology(network, (4, 8), kernels, strides, (1, 1), (1,), norm=norm)
    built = build_network(topology, 1, 2)
    image = torch.randn(2, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        torch.compiler.reset()
        built.train(training).deep_supervision = training
        with torch.set_grad_enabled(training):
            # The backend runs the graph as it is, and `fullgraph` refuses a second one.
            compiled = torch.compile(built, backend="eager", fullgraph=True)(image)
            eager = built(image)
        for one, other in zip(logits_of_levels(compiled), logits_of_levels(eager), strict=True):
            torch.testing.assert_close(one, other)
