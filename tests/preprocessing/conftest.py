"""Plans as small as a test needs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from raw_setup import Setup

from segflow.core.fingerprint import ChannelIntensities
from segflow.core.plans import Plans
from segflow.core.topology import NetworkTopology

SPLINE = "resample_data_or_seg_to_shape"


def configuration_json(
    spacing: Sequence[float],
    *,
    identifier: str = "arrays",
    schemes: Sequence[str] = ("ZScoreNormalization",),
    masks: Sequence[bool] | None = None,
    method: str = SPLINE,
    patch_size: Sequence[int] | None = None,
) -> dict[str, Any]:
    dims = len(spacing)
    topology = NetworkTopology("plain_unet", (8, 16), ((3,) * dims,) * 2, ((1,) * dims, (2,) * dims), (2, 2), (2,))

    def options(order: int, is_seg: bool) -> dict[str, Any]:
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None} if method == SPLINE else {}

    return {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size or (16,) * dims),
        "median_image_size_in_voxels": [16.0] * dims,
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": list(masks or [False] * len(schemes)),
        "resampling_fn_data": method,
        "resampling_fn_data_kwargs": options(3, False),
        "resampling_fn_seg": method,
        "resampling_fn_seg_kwargs": options(1, True),
        "resampling_fn_probabilities": method,
        "resampling_fn_probabilities_kwargs": options(1, False),
        "architecture": topology.to_architecture(),
        "batch_dice": False,
    }


@pytest.fixture
def make_configuration() -> Callable[..., dict[str, Any]]:
    """Makes one configuration's JSON object."""
    return configuration_json


@pytest.fixture
def make_plans() -> Callable[..., Plans]:
    """Makes plans from ``configurations=``, or from one spacing under the name ``test``."""

    def make(
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        axis_order: Sequence[int] = (0, 1, 2),
        configurations: dict[str, dict[str, Any]] | None = None,
        reader: str = "SimpleITKIO",
        **options: Any,
    ) -> Plans:
        return Plans(
            dataset_name="Dataset900_Test",
            plans_name="nnUNetPlans",
            median_spacing=(1.0, 1.0, 1.0),
            median_shape=(16, 16, 16),
            reader=reader,
            axis_order=tuple(axis_order),
            intensities=(ChannelIntensities(200.0, 50.0, 48.0, -100.0, -80.0, 150.0, 30.0),),
            configurations=configurations or {"test": configuration_json(spacing, **options)},
        )

    return make


@pytest.fixture
def setup(tmp_path: Path, make_plans: Callable[..., Plans], make_configuration: Callable[..., dict[str, Any]]) -> Setup:
    configurations = {
        "2d": make_configuration((1.5, 1.0), identifier="plans_2d"),
        "fine": make_configuration((2.0, 1.0, 1.0), identifier="plans_fine"),
        "coarse": make_configuration((3.0, 2.0, 2.0), identifier="plans_coarse"),
        "cascade": {"inherits_from": "fine", "previous_stage": "coarse"},
    }
    return Setup(tmp_path, make_plans(configurations=configurations), make_configuration)
