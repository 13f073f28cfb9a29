"""Primus, SegResNet and Swin UNETR are the published ones, and their size in closed form is their size."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_network_mednext import parameters, small
from torch import Tensor, nn

from segflow.apps import _edge
from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate
from segflow.planning.configuration import build_topology, pool

PUBLISHED = {
    "primus_s": 26_351_774,
    "primus_b": 98_173_994,
    "primus_m": 152_021_402,
    "primus_l": 332_177_954,
    "segresnet": 87_164_200,
    "swin_unetr": 62_186_708,
}
"""Parameters of the reference in 3D: one channel, two outputs, a patch of 160³. Swin UNETR's 62.2 million are those of
its paper; Primus' are those of dynamic_network_architectures 0.4."""


def primus(grid: Sequence[int] = (2, 3, 2), width: int = 36, **options: Any) -> NetworkTopology:
    tokens = {f"tokens_{axis}": n for axis, n in zip("zyx", grid, strict=True)}
    return NetworkTopology(
        network="primus",
        features=(8, width),
        kernel_sizes=((1,) * 3,) * 2,
        strides=((1,) * 3, (8,) * 3),
        encoder_blocks=(1, 3),
        decoder_convs=(1,),
        options={"heads": 3, "drop_path": 0.2, "layer_scale": 0.1, **tokens, **options},
    )


def segresnet(dims: int, anisotropic: bool = False) -> NetworkTopology:
    strides, kernels = ((1,) * dims, *((2,) * dims,) * 3), ((3,) * dims,) * 4
    if anisotropic:
        strides = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
        kernels = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
    return NetworkTopology("segresnet", (4, 8, 16, 32), kernels, strides, (1, 2, 1, 2), (1, 1, 1))


def swin_unetr(dims: int, **options: Any) -> NetworkTopology:
    pytest.importorskip("monai", reason="MONAI is not installed")
    return NetworkTopology(
        network="swin_unetr",
        features=(12, 12, 24, 48, 96, 192),
        kernel_sizes=((3,) * dims,) * 6,
        strides=((1,) * dims, *((2,) * dims,) * 5),
        encoder_blocks=(1, 2, 1, 1, 1, 1),
        decoder_convs=(1,) * 5,
        options={"heads": 3, "window": 4, "recompute": 0, **options},
    )


CASES: dict[str, tuple[str, tuple[Any, ...], tuple[int, ...]]] = {
    "primus": ("primus", (), (16, 24, 16)),
    "segresnet 2d": ("segresnet", (2,), (32, 24)),
    "segresnet 3d": ("segresnet", (3,), (16, 24, 16)),
    "segresnet anisotropic": ("segresnet", (3, True), (4, 32, 24)),
    "swin 2d": ("swin_unetr", (2,), (64, 96)),
    "swin 3d": ("swin_unetr", (3,), (32, 32, 64)),
}
MAKERS = {"primus": primus, "segresnet": segresnet, "swin_unetr": swin_unetr}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[NetworkTopology, tuple[int, ...]]:
    name, arguments, patch = CASES[request.param]
    return MAKERS[name](*arguments), patch


@pytest.mark.parametrize("option", list(PUBLISHED))
def test_parameters_are_as_many_as_published(option: str) -> None:
    settings = _edge.compose("plan", f"planner={option}").planner
    topology = build_topology(pool((1.0,) * 3, (160,) * 3, settings), settings)
    assert topology.size(1, 2) == PUBLISHED[option]


def test_the_size_in_closed_form_is_that_of_the_network(case: tuple[NetworkTopology, tuple[int, ...]]) -> None:
    topology, _ = case
    assert parameters(build_network(topology, 2, 3)) == topology.size(2, 3)


def test_one_step_gives_logits_and_gradients(case: tuple[NetworkTopology, tuple[int, ...]]) -> None:
    topology, patch = case
    network = build_network(topology, 2, 3)
    logits = network(torch.randn(2, 2, *patch))
    assert logits[0].shape == (2, 3, *patch)
    assert len(logits) == (2 if topology.network == "segresnet" else 1)
    sum(one.square().mean() for one in logits).backward()
    without = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert not without


def test_the_memory_estimate_is_near_what_autograd_keeps(case: tuple[NetworkTopology, tuple[int, ...]]) -> None:
    topology, patch = case
    network = build_network(topology, 2, 3)
    own = {value.untyped_storage().data_ptr() for value in (*network.parameters(), *network.buffers())}
    found: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        found[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        logits = network(torch.randn(1, 2, *patch))
    assert logits
    kept = sum(value.untyped_storage().nbytes() // 4 for place, value in found.items() if place not in own)
    assert topology.kind is not None
    assert topology.kind.kept_values(topology, patch, 2, 3) == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "patch", "resolution"),
    [((2,), (32, 24), None), ((3,), (16, 24, 16), None), ((3, True), (4, 32, 24), (4, 1, 1))],
)
def test_segresnet_computes_what_monais_class_computes(
    arguments: tuple[Any, ...], patch: tuple[int, ...], resolution: tuple[int, ...] | None
) -> None:
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    topology = segresnet(*arguments)
    reference = nets.SegResNetDS(
        *(len(patch), 4, 2, 3),
        norm=("instance", {"affine": True}),
        blocks_down=topology.encoder_blocks,
        dsdepth=2,
        resolution=resolution,
    )
    network = build_network(topology, 2, 3)
    names = list(network.state_dict())
    order = [name for name in names if name.startswith("stem.")]
    for level in range(4):
        order += [name for part in ("encoder", "down") for name in names if name.startswith(f"{part}.{level}.")]
    for level in range(3):
        parts = ("up", "decoder", "heads") if level else ("up", "decoder")
        order += [name for part in parts for name in names if name.startswith(f"{part}.{level}.")]
    network.load_state_dict(dict(zip(order, reference.state_dict().values(), strict=True)), strict=False)
    image = torch.randn(2, 2, *patch)
    with torch.inference_mode():
        expected = reference.train()(image)
        for found, one in zip(network(image), expected, strict=True):
            torch.testing.assert_close(found, one)
        torch.testing.assert_close(accelerate(network)(image)[0], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_swin_unetr_is_monais_and_may_compute_attention_again(dims: int) -> None:
    kept, again = (build_network(swin_unetr(dims, recompute=n), 2, 3) for n in (0, 1))
    again.load_state_dict(kept.state_dict())
    image = torch.randn(1, 2, *((32,) * (dims - 1)), 64)
    results = [network(image)[0] for network in (kept, again)]
    torch.testing.assert_close(*results)
    topology = swin_unetr(dims, recompute=1)
    assert topology.kind is not None
    assert topology.kind.kept_values(topology, image.shape[2:], 2, 3) < topology.kind.kept_values(
        swin_unetr(dims), image.shape[2:], 2, 3
    )


def test_without_monai_swin_unetr_is_refused_with_what_to_install() -> None:
    script = (
        "import sys; sys.modules['monai'] = None\n"
        "from segflow.core.errors import SegflowError\n"
        "from segflow.core.topology import NetworkTopology\n"
        "from segflow.network.build import build_network\n"
        "t = NetworkTopology('swin_unetr', (12, 12, 24, 48, 96, 192), ((3, 3),) * 6, ((1, 1), *((2, 2),) * 5),"
        " (1, 2, 2, 2, 2, 1), (1,) * 5, options={'heads': 3, 'window': 7, 'recompute': 0})\n"
        "try: build_network(t, 1, 2)\n"
        "except SegflowError as error: print(error.fix)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "pip install segflow[monai]"


def test_attention_of_primus_depends_on_the_distance_of_tokens_only() -> None:
    """Rotary positions: the product of a query and a key is that of their difference in place."""
    from segflow.network.primus import rotated, rotations

    cosine, sine = rotations((3, 4, 5), 12)
    query, key = torch.randn(2, 1, 12)
    at = [rotated(one.expand(60, 12), cosine, sine).view(3, 4, 5, 12) for one in (query, key)]
    one = at[0][0, 1, 2] @ at[1][1, 2, 4]
    other = at[0][1, 2, 0] @ at[1][2, 3, 2]
    torch.testing.assert_close(one, other)


def test_samples_skip_blocks_as_the_generator_says_and_never_in_evaluation() -> None:
    network, image = build_network(primus(drop_path=0.8), 1, 2), torch.randn(4, 1, 16, 24, 16)
    state = torch.get_rng_state()
    first = network(image)[0]
    second = network(image)[0]
    torch.set_rng_state(state)
    assert torch.equal(network(image)[0], first)
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(image)[0], network(image)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: primus(heads=5), "divisible by six times the heads"),
        (lambda: replace(primus(), strides=((1, 1, 1), (8, 8, 4))), "cubes whose edge is a power of two"),
        (lambda: primus(drop_path=1), "from 0 to 0.9"),
        (
            lambda: replace(primus(), kernel_sizes=((1, 1),) * 2, strides=((1, 1), (8, 8))),
            "'primus' has no 2D form",
        ),
        (lambda: replace(swin_unetr(3), strides=((1, 1, 1), *((1, 2, 2),) * 5)), "halves all axes"),
        (lambda: swin_unetr(3, heads=5), "divisible by 12 and by its heads"),
        (lambda: replace(swin_unetr(2), decoder_convs=(2,) * 5), "single blocks"),
        (lambda: build_network(primus(), 1, 2)(torch.zeros(1, 1, 16, 16, 16)), "patches of one shape"),
    ],
)
def test_what_a_network_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        make()


LEARNERS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "primus": (lambda: primus(drop_path=0, layer_scale=1), (16, 24, 16), 120),
    "segresnet": (lambda: segresnet(3), (16, 24, 16), 60),
    "swin_unetr": (lambda: swin_unetr(2), (64, 96), 60),
    "mednext": (lambda: small(3), (16, 24, 16), 60),
}
"""Topology, patch and steps."""


@pytest.mark.parametrize("name", LEARNERS)
def test_a_small_network_learns_two_images_by_heart(name: str) -> None:
    torch.manual_seed(0)
    topology, patch, steps = LEARNERS[name]
    network = build_network(topology(), 1, 2, False)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in patch), indexing="ij")).norm(dim=0)
    target = torch.stack([grid < 0.9, grid > 1.0]).long()
    image = (target + 0.3 * torch.randn(target.shape)).unsqueeze(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(image)[0], target).backward()
        optimizer.step()
    found = network(image)[0].argmax(1)
    assert (found == target).float().mean() > 0.95
    assert math.isfinite(float(found.sum()))
