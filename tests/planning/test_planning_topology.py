"""Strides, kernels and network sizes are those of the recipe's worked examples (3.5 to 3.7)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segflow.core.topology import NetworkTopology
from segflow.planning.configuration import build_topology
from segflow.planning.memory import memory_gb, network_size
from segflow.planning.planner import PlannerSettings
from segflow.planning.pooling import plan_pooling


def test_isotropic_axes_are_pooled_together() -> None:
    pooling = plan_pooling((1, 1, 1), (36, 50, 35), 4)
    assert pooling.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert pooling.kernel_sizes == ((3, 3, 3),) * 4
    assert pooling.patch_size == (40, 56, 40)


def test_a_coarse_axis_waits_until_the_others_are_as_coarse() -> None:
    pooling = plan_pooling((5, 1.5625, 1.5625), (18, 237, 208), 4)
    assert pooling.strides[1:] == ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert pooling.kernel_sizes == ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert pooling.patch_size == (20, 256, 224)


def test_a_patch_too_small_to_pool_is_kept_whole() -> None:
    pooling = plan_pooling((1, 1), (7, 5.5), 4)
    assert pooling.strides == ((1, 1),)
    assert pooling.kernel_sizes == ((3, 3),)
    assert pooling.patch_size == (7, 6)


sizes = st.integers(1, 400)
spacings = st.floats(0.1, 10)


@given(st.lists(st.tuples(spacings, sizes), min_size=2, max_size=3), st.integers(2, 6))
def test_a_patch_is_divisible_and_no_feature_map_gets_too_small(axes: list[tuple[float, int]], edge: int) -> None:
    spacing, size = zip(*axes, strict=True)
    pooling = plan_pooling(spacing, size, edge)
    for axis, divisor in enumerate(pooling.divisor):
        assert divisor == prod(stride[axis] for stride in pooling.strides)
        assert pooling.patch_size[axis] % divisor == 0
        assert size[axis] <= pooling.patch_size[axis] < size[axis] + divisor
        assert divisor == 1 or pooling.patch_size[axis] // divisor >= edge
    assert len(pooling.kernel_sizes) == pooling.levels


def cube(settings: PlannerSettings) -> NetworkTopology:
    return build_topology(plan_pooling((1, 1, 1), (128, 128, 128), 4), settings)


def test_network_sizes_are_those_of_the_recipe(planner_settings: Callable[..., PlannerSettings]) -> None:
    """Recipe 3.6, checked there against the networks themselves."""
    assert network_size(cube(planner_settings("nnunet")), (128, 128, 128), 3) == 452_796_416
    assert network_size(cube(planner_settings("resenc")), (128, 128, 128), 3) == 557_420_544


def test_a_network_of_one_level_has_no_head_to_count() -> None:
    topology = build_topology(plan_pooling((1, 1), (7, 6), 4), PlannerSettings())
    assert network_size(topology, (7, 6), 3) == 2 * 32 * 42


@pytest.mark.parametrize("dims", [2, 3])
def test_the_reference_batch_fills_the_reference_memory(dims: int) -> None:
    settings = PlannerSettings()
    size = settings.reference_size_2d if dims == 2 else settings.reference_size_3d
    batch = settings.reference_batch_size_2d if dims == 2 else settings.reference_batch_size_3d
    assert memory_gb(size, batch, dims, settings) == pytest.approx(8)
    assert memory_gb(size, 2 * batch, dims, settings) == pytest.approx(16)
