"""Plans that were edited by hand into something impossible are refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology


def plan() -> dict[str, Any]:
    topology = NetworkTopology(
        network="plain_unet",
        features=(4, 8),
        kernel_sizes=((3, 3, 3),) * 2,
        strides=((1, 1, 1), (2, 2, 2)),
        encoder_blocks=(1, 1),
        decoder_convs=(1,),
    )
    resampling: dict[str, Any] = {}
    for kind in ("data", "seg", "probabilities"):
        resampling |= {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape", f"resampling_fn_{kind}_kwargs": {}}
    return {
        "data_identifier": "toy",
        "batch_size": 2,
        "patch_size": [8, 8, 8],
        "median_image_size_in_voxels": [8.0, 8.0, 8.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": topology.to_architecture(),
        "batch_dice": False,
        **resampling,
    }


def test_a_sound_plan_is_read() -> None:
    ConfigurationPlan.from_json("3d_fullres", plan()).check()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p, net: p.update(batch_size="two"), "'3d_fullres' of the plans holds a value.*two"),
        (lambda p, net: p.update(patch_size="8x8x8"), "'3d_fullres' of the plans holds a value"),
        (lambda p, net: p.update(spacing=None), "'3d_fullres' of the plans holds a value"),
        (lambda p, net: p.update(architecture=None), "'3d_fullres' of the plans holds a value"),
        (lambda p, net: net.update(features_per_stage=[4, "a"]), "'3d_fullres' of the plans holds a value"),
        (lambda p, net: net.update(features_per_stage=[4, 0]), r"impossible numbers; found \{'features': \[4, 0\]\}"),
        (lambda p, net: net.update(strides=[[1, 1, 1], [0, 2, 2]]), "impossible numbers.*strides"),
        (lambda p, net: net.update(n_conv_per_stage=[0, 1]), "impossible numbers.*encoder"),
        (lambda p, net: net.update(kernel_sizes=[[3, 4, 3], [3, 3, 3]]), "impossible numbers.*kernels.*odd"),
        (lambda p, net: net.update(strides=[[1, 1, 1]]), "does not fit together"),
        (lambda p, net: p.update(patch_size=[8, 9, 8]), r"multiples of \[2, 2, 2\]"),
        (lambda p, net: p.update(batch_size=0), "batch_size must be at least 1"),
        (lambda p, net: p.update(use_mask_for_norm=[]), "'3d_fullres': every channel needs its entry"),
    ],
)
def test_an_impossible_plan_is_refused(edit: Callable[[dict[str, Any], dict[str, Any]], None], message: str) -> None:
    edited = plan()
    edit(edited, edited["architecture"]["arch_kwargs"])
    with pytest.raises(SegflowError, match=message):
        ConfigurationPlan.from_json("3d_fullres", edited).check()
