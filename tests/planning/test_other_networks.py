"""Networks beside nnU-Net's are planned by their own measure, and take the place of those in plans that exist."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.plans import Plans
from segflow.planning.configuration import build_topology, pool
from segflow.planning.memory import measure
from segflow.planning.override import override_configuration
from segflow.planning.planner import make_plans
from segflow.planning.planner_settings import PlannerSettings

STATISTICS = ChannelIntensities(*[1.0] * 7)
DESCRIPTION = DatasetDescription.from_json(
    "Dataset001_X",
    {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 40,
        "file_ending": ".nii.gz",
    },
)
Settings = Callable[..., PlannerSettings]


def plans(settings: PlannerSettings, shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Plans:
    fingerprint = Fingerprint((shape,) * 40, (spacing,) * 40, (STATISTICS,), 1.0)
    return make_plans(fingerprint, DESCRIPTION, settings, reader="SimpleITKIO")


def gb(plan: ConfigurationPlan, settings: PlannerSettings) -> float:
    return measure(plan.spatial_dims, 1, 3, settings).gb(plan.topology, plan.patch_size, plan.batch_size)


@pytest.mark.parametrize("option", ["mednext_s", "mednext_b_k5", "mednext_m", "mednext_l", "mednext_l_k5"])
@pytest.mark.parametrize("target", [8, 24])
def test_patch_and_batch_fill_the_memory_target(planner_settings: Settings, option: str, target: float) -> None:
    settings = planner_settings(option, memory_target_gb=target)
    made = plans(settings, (300, 300, 300))
    for name in ("2d", "3d_fullres"):
        plan = made.configuration(name)
        assert plan.topology.network == "mednext"
        assert 0.5 * target < gb(plan, settings) <= target
        assert plan.topology.levels == 5
    assert made.configuration("2d").data_identifier == "nnUNetPlans_2d"


def test_strides_and_kernels_follow_the_spacing(planner_settings: Settings) -> None:
    topology = (
        plans(planner_settings("mednext_l_k5"), (20, 300, 300), (5.0, 1.0, 1.0)).configuration("3d_fullres").topology
    )
    assert topology.strides[1:3] == ((1, 2, 2), (1, 2, 2))
    assert topology.kernel_sizes[0] == (1, 5, 5)
    assert topology.options == {"expansion": (3, 4, 8, 8, 8), "recompute": 1}


def test_a_small_case_gives_fewer_levels(planner_settings: Settings) -> None:
    topology = plans(planner_settings("mednext_l"), (36, 50, 35)).configuration("3d_fullres").topology
    assert (topology.encoder_blocks, topology.decoder_convs) == ((3, 4, 8, 8), (8, 4, 3))
    assert topology.options["expansion"] == (3, 4, 8, 8)


def test_plans_hold_plain_numbers_under_a_name_that_is_not_nnunets(planner_settings: Settings) -> None:
    made = plans(planner_settings("mednext_s"), (64, 64, 64))
    architecture = made.to_json()["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "segflow.mednext"
    assert architecture["_kw_requires_import"] == []
    assert Plans.from_json(made.to_json()).configuration("2d") == made.configuration("2d")


def test_the_pocket_net_has_equal_features_and_larger_patches(planner_settings: Settings) -> None:
    shape = (300, 300, 300)
    pocket, common = (plans(planner_settings(name), shape).configuration("3d_fullres") for name in ("pocket", "nnunet"))
    assert set(pocket.topology.features) == {32}
    assert np.prod(pocket.patch_size) >= np.prod(common.patch_size)
    assert pocket.topology.size(1, 3) < common.topology.size(1, 3) / 20


def test_a_network_that_fits_no_patch_is_refused_with_what_it_needs(planner_settings: Settings) -> None:
    with pytest.raises(SegflowError, match="fits the memory target") as caught:
        plans(planner_settings("mednext_l", memory_target_gb=0.005), (300, 300, 300))
    assert "needs" in str(caught.value.found)


def test_a_network_with_strides_of_its_own_that_fits_no_patch_is_refused_likewise(planner_settings: Settings) -> None:
    with pytest.raises(SegflowError, match="fits the memory target") as caught:
        plans(planner_settings("primus_s", memory_target_gb=0.05), (36, 50, 35))
    assert "the smallest patch [8, 8, 8] needs" in str(caught.value.found)


def test_only_patches_that_the_network_takes_are_named(planner_settings: Settings) -> None:
    made = plans(planner_settings("nnunet"), (36, 50, 35))
    for name, expected in (("swin_unetr", "The nearest is [64, 64, 64]."), ("primus_s", "[32, 48, 32] and")):
        with pytest.raises(SegflowError, match="does not fit the network") as caught:
            override_configuration(made, "3d_fullres", network=planner_settings(name), patch_size=[36, 52, 36])
        assert expected in str(caught.value.fix)


def test_what_swin_unetr_is_said_to_need_is_what_it_takes(planner_settings: Settings) -> None:
    with pytest.raises(SegflowError, match="single blocks") as caught:
        plans(planner_settings("swin_unetr", kernel_size=5), (64, 64, 64))
    for change in str(caught.value.expected).split():
        key, value = change.removeprefix("planner.").split("=")
        assert planner_settings("swin_unetr", **{key: json.loads(value)}) == planner_settings("swin_unetr")


def test_a_network_takes_the_place_of_the_plans_own(planner_settings: Settings) -> None:
    made = plans(planner_settings("nnunet"), (128, 128, 128))
    changed = override_configuration(made, "3d_fullres", network=planner_settings("mednext_s"))
    before, plan = made.configuration("3d_fullres"), changed.configuration("3d_fullres")
    assert plan.topology.network == "mednext"
    assert replace(plan, topology=before.topology, raw={}) == replace(before, raw={})
    assert made.configuration("3d_fullres").topology.network == "plain_unet"


def test_a_patch_that_does_not_fit_it_is_refused_with_those_that_do(planner_settings: Settings) -> None:
    made = plans(planner_settings("nnunet"), (36, 50, 35))
    fixed = planner_settings("mednext_s", strides=[1, 2, 2, 2, 2])
    with pytest.raises(SegflowError, match="does not fit the network") as caught:
        override_configuration(made, "3d_fullres", network=fixed)
    assert "[48, 64, 48]" in str(caught.value.fix)
    plan = override_configuration(made, "3d_fullres", network=fixed, patch_size=[48, 64, 48]).configuration(
        "3d_fullres"
    )
    assert plan.topology.divisor == (16, 16, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "mednextt"}, "unknown planner.network"),
        ({"network": "mednext", "network_options": {"expnsion": [2]}}, "has no option 'expnsion'"),
        ({"network_options": {"expansion": [2]}}, "has no options"),
        ({"kernel_size": 4}, "odd number"),
        ({"strides": [2, 2]}, "the first is 1"),
        ({"max_levels": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        PlannerSettings(**values)  # type: ignore[arg-type]


def test_an_option_out_of_range_is_refused_when_planning(planner_settings: Settings) -> None:
    settings = planner_settings("mednext_s", network_options={"expansion": [99] * 5, "recompute": 0})
    with pytest.raises(SegflowError, match="from 1 to 16"):
        build_topology(pool((1.0, 1.0), (64, 64), settings), settings)
