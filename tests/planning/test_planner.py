"""What a user may ask of the planner, what it explains, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.plans import Plans
from segflow.planning.explain import TABLE_HEADER, report_configurations
from segflow.planning.override import override_configuration
from segflow.planning.planner import CONFIGURATIONS, ConfigurationOverride, PlannerSettings, decide, make_plans

STATISTICS = ChannelIntensities(max=9, mean=5, median=5, min=1, percentile_00_5=1, percentile_99_5=9, std=2)


def describe(*channels: str, cases: int = 100) -> DatasetDescription:
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels or ("MR",))},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    return DatasetDescription.from_json("Dataset001_Toy", content)


def uniform(
    shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), *, channels: int = 1, relative: float = 1.0
) -> Fingerprint:
    return Fingerprint((shape,) * 3, (spacing,) * 3, (STATISTICS,) * channels, relative)


def plan(fingerprint: Fingerprint, settings: PlannerSettings | None = None, *, cases: int = 100) -> Plans:
    return make_plans(fingerprint, describe(cases=cases), settings or PlannerSettings(), reader="SimpleITKIO")


@pytest.mark.parametrize(
    ("option", "fingerprint", "cases", "name", "patch", "batch"),
    [
        ("nnunet", uniform((36, 50, 35)), 260, "3d_fullres", (40, 56, 40), 9),
        ("nnunet", uniform((36, 50, 35)), 260, "2d", (56, 40), 366),
        ("resenc_m", uniform((36, 50, 35)), 260, "3d_fullres", (40, 56, 40), 58),
        ("nnunet", uniform((300, 300, 300)), 100, "3d_fullres", (128, 128, 128), 2),
        ("resenc_l", uniform((300, 300, 300)), 100, "3d_fullres", (192, 192, 192), 2),
        ("resenc_xl", uniform((300, 300, 300)), 100, "3d_fullres", (256, 224, 224), 2),
    ],
)
def test_worked_examples_of_the_recipe(
    planner_settings: Callable[..., PlannerSettings],
    option: str,
    fingerprint: Fingerprint,
    cases: int,
    name: str,
    patch: tuple[int, ...],
    batch: int,
) -> None:
    """Recipe 3.7."""
    configuration = plan(fingerprint, planner_settings(option), cases=cases).configuration(name)
    assert configuration.patch_size == patch
    assert configuration.batch_size == batch


def test_low_resolution_and_cascade() -> None:
    """Recipe 3.8."""
    plans = plan(uniform((300, 300, 300)))
    low, cascade = plans.configuration("3d_lowres"), plans.configuration("3d_cascade_fullres")
    assert low.spacing == pytest.approx((1.5126,) * 3, abs=1e-4)
    assert low.median_shape == (198, 198, 198)
    assert low.next_stages == ("3d_cascade_fullres",)
    assert cascade.previous_stage == "3d_lowres"
    assert cascade.data_identifier == plans.configuration("3d_fullres").data_identifier
    assert (low.batch_dice, cascade.batch_dice) == (False, True)


def test_an_anisotropic_low_resolution_grows_in_plane_first() -> None:
    low = plan(uniform((60, 512, 512), (5.0, 0.8, 0.8))).configuration("3d_lowres")
    assert low.spacing == pytest.approx((5, 1.2464, 1.2464), abs=1e-4)
    assert low.median_shape == (60, 329, 329)
    assert low.patch_size == (40, 224, 192)


def test_the_coarse_axis_takes_a_finer_percentile_of_the_cases() -> None:
    """Recipe 3.2."""
    spacings = tuple((z, 1.5, 1.5) for z in (5.0, 5.0, 10.0, 10.0, 10.0))
    plans = plan(Fingerprint(((12, 256, 256),) * 5, spacings, (STATISTICS,), 1.0))
    assert plans.configuration("3d_fullres").spacing == (5.0, 1.5, 1.5)


def test_the_coarsest_axis_comes_first_unless_suppressed() -> None:
    fingerprint = uniform((256, 256, 20), (1.0, 1.0, 6.0))
    assert plan(fingerprint).axis_order == (2, 0, 1)
    assert plan(fingerprint).configuration("2d").spacing == (1.0, 1.0)
    kept = plan(fingerprint, PlannerSettings(suppress_transpose=True))
    assert kept.axis_order == (0, 1, 2)
    assert kept.configuration("2d").spacing == (1.0, 6.0)


def test_a_target_spacing_is_taken_as_it_is() -> None:
    plans = plan(uniform((100, 100, 100)), PlannerSettings(target_spacing=[2, 1, 1]))
    assert plans.configuration("3d_fullres").spacing == (2.0, 1.0, 1.0)
    assert plans.configuration("3d_fullres").median_shape == (50, 100, 100)


def test_arrays_are_not_shared_with_plans_of_another_spacing(planner_settings: Callable[..., PlannerSettings]) -> None:
    """Recipe 17.3, item 33: nnU-Net silently replaces the default planner's arrays."""

    def folders(**changes: Any) -> set[str]:
        plans = plan(uniform((100, 100, 100)), planner_settings("resenc_l", **changes))
        return {plans.configuration(name).data_identifier for name in ("2d", "3d_fullres")}

    assert folders() == {"nnUNetPlans_2d", "nnUNetPlans_3d_fullres"}
    own = {"nnUNetResEncUNetLPlans_2d", "nnUNetResEncUNetLPlans_3d_fullres"}
    assert folders(target_spacing=[2.0, 2.0, 2.0]) == own
    assert folders(suppress_transpose=True) == own


def test_more_memory_gives_larger_patches() -> None:
    fingerprint = uniform((300, 300, 300))
    volumes = []
    for gigabytes in (4, 8, 16, 32):
        z, y, x = plan(fingerprint, PlannerSettings(memory_target_gb=gigabytes)).configuration("3d_fullres").patch_size
        volumes.append(z * y * x)
    assert volumes == sorted(set(volumes))


def test_low_resolution_can_be_forced() -> None:
    fingerprint = uniform((100, 100, 100))
    assert "3d_lowres" not in plan(fingerprint).configurations
    decision = decide(fingerprint, describe(), PlannerSettings(force_lowres=True), reader="SimpleITKIO")
    full, low = (decision.plans.configuration(name) for name in ("3d_fullres", "3d_lowres"))
    assert full.batch_dice
    assert (low.spacing[0] / full.spacing[0]) ** 3 >= 2
    assert "force_lowres" in decision.reasons["3d_lowres"]


@pytest.mark.parametrize(
    ("option", "method", "separate"),
    [
        ("nnunet", "resample_data_or_seg_to_shape", None),
        ("nnunet_torchres", "resample_torch_fornnunet", False),
        ("resenc_l_torchres", "resample_torch_fornnunet", False),
        ("resenc_l_torchres_sepz", "resample_torch_fornnunet", None),
    ],
)
def test_resampling_variants(
    planner_settings: Callable[..., PlannerSettings], option: str, method: str, separate: bool | None
) -> None:
    configuration = plan(uniform((64, 64, 64)), planner_settings(option)).configuration("3d_fullres")
    for resampling in (
        configuration.resampling_image,
        configuration.resampling_label,
        configuration.resampling_probabilities,
    ):
        assert resampling.method == method
        assert resampling.options["force_separate_z"] is separate


def test_a_variant_may_resample_nothing(planner_settings: Callable[..., PlannerSettings]) -> None:
    configuration = plan(uniform((64, 64, 64)), planner_settings("resenc_l_noresampling")).configuration("2d")
    assert configuration.resampling_image.method == "no_resampling_hack"
    assert configuration.resampling_image.options == {}
    assert configuration.data_identifier == "nnUNetResEncUNetLPlans_noResampling_2d"


def test_channel_names_choose_the_normalisation_and_cropping_its_mask() -> None:
    names = ("ct", "NoNorm", "zscore", "Rescale_to_0_1", "RGB_to_0_1", "T1")
    fingerprint = uniform((64, 64, 64), channels=len(names), relative=0.7)
    configuration = make_plans(fingerprint, describe(*names), PlannerSettings(), reader="SimpleITKIO").configuration(
        "3d_fullres"
    )
    assert configuration.normalization_schemes == (
        "CTNormalization",
        "NoNormalization",
        "ZScoreNormalization",
        "RescaleTo01Normalization",
        "RGBTo01Normalization",
        "ZScoreNormalization",
    )
    assert configuration.use_mask_for_norm == (False, False, True, False, False, True)
    assert not any(plan(uniform((64, 64, 64), relative=0.75)).configuration("2d").use_mask_for_norm)


def test_every_configuration_is_explained_made_or_not() -> None:
    def reports(shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> dict[str, Any]:
        fingerprint, settings = uniform(shape, spacing), PlannerSettings()
        decision = decide(fingerprint, describe(), settings, reader="SimpleITKIO")
        rows = report_configurations(decision.plans, decision.reasons, fingerprint, describe(), settings)
        assert [report.name for report in rows if report.made] == list(decision.plans.configurations)
        assert all(len(report.row()) == len(TABLE_HEADER) for report in rows)
        assert {report.name for report in rows} == set(CONFIGURATIONS)
        return {report.name: report for report in rows}

    flat = reports((1, 300, 300), (999.0, 1.0, 1.0))
    assert "2D" in flat["3d_fullres"].reason
    assert "less than 25 %" in reports((100, 100, 100))["3d_lowres"].reason
    assert "times fewer voxels" in reports((210, 210, 210))["3d_lowres"].reason
    made = reports((300, 300, 300))
    assert all(report.made for report in made.values())
    assert made["3d_fullres"].disk_bytes == 3 * 300**3 * 6
    assert made["3d_cascade_fullres"].disk_bytes == 0, "it shares the arrays of 3d_fullres"
    assert made["2d"].disk_bytes == 3 * 300**3 * 6
    assert 0 < made["3d_fullres"].gpu_memory_gb <= 8


@pytest.mark.parametrize("name", ["3d_fullres", "_3d_fullres"])
def test_overrides_are_applied_and_checked(name: str) -> None:
    fingerprint = uniform((300, 300, 300))
    override = ConfigurationOverride(patch_size=[64, 96, 96], batch_size=5)
    plans = plan(fingerprint, PlannerSettings(overrides={name: override}))
    assert plans.configuration("3d_fullres").patch_size == (64, 96, 96)
    assert plans.configuration("3d_cascade_fullres").batch_size == 5, "it inherits"
    assert plans.configuration("2d").patch_size == plan(fingerprint).configuration("2d").patch_size


def test_a_patch_that_the_network_cannot_divide_is_refused_with_the_nearest() -> None:
    plans = plan(uniform((300, 300, 300)))
    with pytest.raises(SegflowError, match=r"\[96, 128, 128\] and \[128, 128, 128\]"):
        override_configuration(plans, "3d_fullres", patch_size=[100, 128, 128])
    with pytest.raises(SegflowError, match="3 entries"):
        override_configuration(plans, "3d_fullres", patch_size=[128, 128])
    with pytest.raises(SegflowError, match="at least 1"):
        override_configuration(plans, "3d_fullres", batch_size=0)
    assert plans.configuration("3d_fullres").patch_size == (128, 128, 128), "the plans given stay as they were"


def test_an_override_of_what_was_not_made_says_why_it_was_not() -> None:
    settings = PlannerSettings(overrides={"3d_lowres": ConfigurationOverride(batch_size=3)})
    with pytest.raises(SegflowError, match=r"'3d_lowres' was not made.*covers"):
        plan(uniform((64, 64, 64)), settings)


@pytest.mark.parametrize(
    ("fingerprint", "message"),
    [
        (uniform((64, 64, 64), (0.0, 1.0, 1.0)), "positive spacings"),
        (uniform((64, 64, 64), (-1.0, 1.0, 1.0)), "positive spacings"),
        (uniform((64, 64, 64), (float("nan"), 1.0, 1.0)), "positive spacings"),
        (uniform((0, 64, 64)), "positive spacings and shapes"),
        (uniform((64, 64), (1.0, 1.0)), "three axes"),
        (uniform((64, 64, 64), channels=2), "differ in channels"),
        (Fingerprint((), (), (STATISTICS,), 1.0), "every case"),
    ],
)
def test_a_fingerprint_that_cannot_be_planned_from_is_refused(fingerprint: Fingerprint, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        plan(fingerprint)


def test_impossible_wishes_are_refused_rather_than_searched_for_ever() -> None:
    with pytest.raises(SegflowError, match="memory target"):
        plan(uniform((64, 64, 64)), PlannerSettings(memory_target_gb=1e-9))
    with pytest.raises(SegflowError, match="no voxels left"):
        plan(uniform((64, 64, 64)), PlannerSettings(target_spacing=[500, 1, 1]))
    with pytest.raises(SegflowError, match="levels"):
        plan(uniform((1, 1, 10**7), (999.0, 1.0, 1e-6)))


@pytest.mark.parametrize(
    "values",
    [
        {"network": "vnet"},
        {"resampling": "cubic"},
        {"memory_target_gb": 0},
        {"lowres_step": 1.0},
        {"target_spacing": [1.0, 1.0]},
        {"target_spacing": [1.0, 1.0, 0.0]},
        {"plans_name": "a/b"},
        {"decoder_convs": [2]},
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SegflowError):
        PlannerSettings(**values)


def test_defaults_are_the_shipped_default_planner(planner_settings: Callable[..., PlannerSettings]) -> None:
    assert planner_settings("nnunet") == PlannerSettings()
