"""Normalisations of a user's own: applied where the plans name them, told from each other, held to their contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from raw_setup import HERE, Setup

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.core.own_part import OwnPart
from segflow.core.plans import OWN_NORMALIZATIONS, Plans
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.preprocessed_store import PreprocessedStore

STATISTICS = ChannelIntensities(
    max=200.0, mean=50.0, median=48.0, min=-100.0, percentile_00_5=-80.0, percentile_99_5=150.0, std=30.0
)
LABELS = Labels({"background": 0, "one": 1, "two": 2})


@dataclass
class Scaled:
    """Values in units of a fixed number and of the dataset's own mean."""

    by: float = 10.0

    def __call__(self, image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
        return image / self.by + (0 if intensities is None else intensities.mean)


def in_place(image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
    image *= 2
    return image


def nothing(image: np.ndarray, intensities: ChannelIntensities | None) -> Any:
    image *= 2


def cut(image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
    return image[1:]


def infinite(image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
    return image / np.zeros((), dtype=np.float32)


def text(image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
    return image.astype(str)


def failing(image: np.ndarray, intensities: ChannelIntensities | None) -> np.ndarray:
    return image[{}]  # type: ignore[index]


def of_one(image: np.ndarray) -> np.ndarray:
    return image


def own(call: Any, name: str = "SUV", **options: Any) -> dict[str, OwnPart]:
    return {name: OwnPart(f"normalization.{name}", call, {"_target_": "own.Scaled", **options})}


@pytest.fixture
def case() -> Case:
    image = np.random.default_rng(0).uniform(1, 100, size=(2, 6, 8, 10)).astype(np.float32)
    return Case("a", image, None, Geometry((1.0, 1.0, 1.0)))


def planned(make_plans: Callable[..., Plans], *schemes: str) -> Plans:
    plans = make_plans(schemes=schemes)
    return replace(plans, intensities=(STATISTICS,) * len(schemes))


def prepared(case: Case, plans: Plans, normalizations: dict[str, OwnPart] | None = None) -> np.ndarray:
    return preprocess_case(case, plans, plans.configuration("test"), LABELS, normalizations=normalizations).image


def test_it_normalises_the_channels_that_the_plans_name(make_plans: Callable[..., Plans], case: Case) -> None:
    before = case.image.copy()
    image = prepared(case, planned(make_plans, "ZScoreNormalization", "SUV"), own(Scaled(5.0)))
    ours = prepared(case, planned(make_plans, "ZScoreNormalization", "NoNormalization"))
    assert image.dtype == np.float32
    assert np.array_equal(image[0], ours[0])
    np.testing.assert_allclose(image[1], ours[1] / 5 + 50, rtol=1e-5)
    assert np.array_equal(case.image, before)


def test_it_may_work_in_place(make_plans: Callable[..., Plans], case: Case) -> None:
    image = prepared(case, planned(make_plans, "SUV", "SUV"), own(in_place))
    ours = prepared(case, planned(make_plans, "NoNormalization", "NoNormalization"))
    np.testing.assert_allclose(image, 2 * ours, rtol=1e-6)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_dataset_is_preprocessed_with_it_and_anew_where_its_options_change(setup: Setup, processes: int) -> None:
    settings = PreprocessSettings(processes=processes)

    def run(by: float) -> tuple[int, int]:
        setup.plans = replace(setup.plans, extra={OWN_NORMALIZATIONS: {"SUV": {"_target_": "own.Scaled", "by": by}}})
        report = setup.run(settings, names=["fine"], normalizations=own(Scaled(by), by=by))
        return len(report.done), len(report.skipped)

    setup.change("fine", normalization_schemes=["SUV"])
    assert run(10.0) == (3, 0)
    assert run(10.0) == (0, 3)
    identifier = setup.plans.configuration("fine").data_identifier
    image = PreprocessedStore(setup.out / identifier).open("case_0").read_image()
    raw = sitk.GetArrayFromImage(sitk.ReadImage(str(setup.raw / "imagesTr" / "case_0_0000.nii.gz")))
    assert float(image.max()) == pytest.approx(raw.max() / 10 + setup.plans.intensities[0].mean, rel=0.2)
    assert run(20.0) == (3, 0)


def test_without_it_nothing_is_begun_and_the_part_is_named(setup: Setup) -> None:
    setup.change("fine", normalization_schemes=["SUV"])
    with pytest.raises(SegflowError, match="the plans name the normalisation 'SUV'") as caught:
        setup.run(names=["fine"])
    assert "by the setting 'normalization'" in str(caught.value)
    setup.plans = replace(setup.plans, extra={OWN_NORMALIZATIONS: {"SUV": {"_target_": "own.Scaled", "by": 10.0}}})
    with pytest.raises(SegflowError, match=r"'SUV', a part of one's own: _target_=own\.Scaled, by=10\.0"):
        setup.run(names=["fine"])
    assert not list(setup.out.rglob("*.b2nd"))


def test_another_one_under_its_name_is_refused(setup: Setup) -> None:
    setup.change("fine", normalization_schemes=["SUV"])
    setup.plans = replace(setup.plans, extra={OWN_NORMALIZATIONS: {"SUV": {"_target_": "own.Scaled", "by": 10.0}}})
    with pytest.raises(SegflowError, match=r"normalization\.SUV: the plans were made with another") as caught:
        setup.run(names=["fine"], normalizations=own(Scaled(20.0), by=20.0))
    assert "found _target_=own.Scaled, by=20.0; expected _target_=own.Scaled, by=10.0" in str(caught.value)


def test_what_the_plans_say_of_it_is_never_imported(make_plans: Callable[..., Plans], case: Case) -> None:
    plans = replace(planned(make_plans, "SUV", "SUV"), extra={OWN_NORMALIZATIONS: {"SUV": {"_target_": "os.abort"}}})
    again = Plans.from_json(json.loads(json.dumps(plans.to_json())))
    with pytest.raises(SegflowError, match=r"os\.abort"):
        prepared(case, again)
    for odd in (None, [1], {"SUV": 3}, "text"):
        with pytest.raises(SegflowError, match="the normalisation 'SUV'"):
            prepared(case, replace(plans, extra={OWN_NORMALIZATIONS: odd}))


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (own(3), "int, which cannot be called"),
        (own(of_one), "of_one"),
        (own(lambda image, intensities: image), "processes that work on cases"),
        (own(Scaled(), "CTNormalization"), "a name of its own; found 'CTNormalization'"),
        (own(Scaled(), " "), "a name of its own"),
        (own(Scaled()) | own(Scaled(), "suv"), "a name of its own; found 'SUV'"),
    ],
)
def test_what_is_no_normalisation_is_refused_before_any_work(
    setup: Setup, parts: dict[str, OwnPart], found: str
) -> None:
    setup.change("fine", normalization_schemes=["SUV"])
    with pytest.raises(SegflowError) as caught:
        setup.run(names=["fine"], normalizations=parts)
    assert str(caught.value).startswith("normalization.")
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (nothing, "found NoneType"),
        (cut, "found shape (5, 8, 10) for an image of shape (6, 8, 10)"),
        (infinite, "found NaN or infinity"),
        (text, "found an array of <U"),
        (failing, "found IndexError"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_one_that_breaks_its_contract_is_named_with_it(
    make_plans: Callable[..., Plans], case: Case, call: Any, found: str
) -> None:
    with pytest.raises(SegflowError, match=r"case 'a': normalization\.SUV: the part does not keep") as caught:
        prepared(case, planned(make_plans, "SUV", "SUV"), own(call))
    assert found in str(caught.value)
    assert "(image, intensities) → array of the same shape" in str(caught.value)


def test_an_image_with_nan_is_refused_as_ever(make_plans: Callable[..., Plans], case: Case) -> None:
    case.image[0, 0, 0, 0] = np.nan
    with pytest.raises(SegflowError, match="values that are not numbers; found NaN"):
        prepared(case, planned(make_plans, "SUV", "SUV"), own(Scaled()))


def test_arrays_say_which_one_made_them(setup: Setup, tmp_path: Path) -> None:
    setup.change("fine", normalization_schemes=["SUV"])
    setup.plans = replace(setup.plans, extra={OWN_NORMALIZATIONS: {"SUV": {"_target_": "own.Scaled", "by": 10.0}}})
    setup.run(HERE, names=["fine"], normalizations=own(Scaled(), by=10.0))
    store = PreprocessedStore(setup.out / setup.plans.configuration("fine").data_identifier)
    channel = store.open("case_0").properties["made_from"]["choices"]["channels"][0]
    assert channel["own"] == {"_target_": "own.Scaled", "by": 10.0}
