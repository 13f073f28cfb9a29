"""Cases that are prepared as they are read equal those that are prepared as a whole, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes

from segflow.core import image_look
from segflow.core.case import Case, OpenCase
from segflow.core.cropping import crop_to_nonzero
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.geometry import Box, Geometry
from segflow.core.image_look import look_at
from segflow.core.intensities import absurd_channels
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.voxels import ArrayLabel, ArraySource, boxes_in_order
from segflow.preprocessing import inside_mask, normalized_source
from segflow.preprocessing.inside_mask import InsideMask
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.preprocessing.streamed import MEMORY, open_in_plan_space

LABELS = Labels.from_json({"background": 0, "one": 1, "two": 2})
LINEAR = "resample_torch_fornnunet"
SCHEMES = ("ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization")
shapes = st.tuples(*[st.integers(1, 9)] * 3)


def make_case(
    shape: Sequence[int], spacing: Sequence[float], channels: int = 1, *, zeros: float = 0.4, seed: int = 0
) -> Case:
    random = np.random.default_rng(seed)
    image = random.normal(40, 60, size=(channels, *shape)).astype(np.float32)
    image[:, random.random(shape) < zeros] = 0
    image[:, :1] = 0  # something to crop
    label = (random.random(shape) < 0.3) * random.integers(0, 3, size=shape)
    return Case("case_7", image, label.astype(np.int16), Geometry(tuple(spacing)))


def as_read(case: Case) -> OpenCase:
    label = None if case.label is None else ArrayLabel(case.label)
    return OpenCase(case.case_id, ArraySource(case.image), label, case.geometry)


def check_equal(case: Case, plans: Plans, memory: int = MEMORY) -> None:
    plan = plans.configuration("test")
    expected = preprocess_case(case, plans, plan, LABELS)
    found = open_in_plan_space(as_read(case), plans, plan, memory=memory)
    assert found.spatial == expected.spatial
    assert found.image.shape == expected.image.shape
    depth = expected.image.shape[1]
    step = max(1, depth // 3)
    for start in [*range(0, depth, step), 0]:  # in order, and once more from the beginning
        box = Box((start, 0, 0), (min(start + step + 1, depth), *expected.image.shape[2:]))
        assert found.image.read(box).tobytes() == expected.image[(slice(None), *box.slices)].tobytes()
        if expected.label is None:
            assert found.label is None
        else:
            assert np.array_equal(found.label.read(box), expected.label[box.slices])
    inner = Box(tuple(n // 3 for n in expected.image.shape[1:]), tuple(n // 3 + 1 for n in expected.image.shape[1:]))
    assert np.array_equal(found.image.read(inner), expected.image[(slice(None), *inner.slices)])
    if expected.label is not None:
        assert found.label.read(inner).dtype == expected.label.dtype


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image_look, normalized_source):
        monkeypatch.setattr(module, "SLAB_VALUES", 700)


@pytest.mark.parametrize("axis_order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize(
    ("spacing", "new_spacing"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ((1.0, 1.0, 1.0), (0.5, 0.7, 1.3)),
        ((1.0, 1.0, 1.0), (1.0, 0.7, 1.3)),
        ((1.0, 0.8, 0.9), (2.1, 1.7, 1.5)),
        ((5.0, 5.0, 5.0), (5.1, 1.0, 0.8)),
        ((1.0, 1.0, 1.0), (4.0, 1.2, 0.8)),
        ((1.2, 1.1, 1.3), (0.9, 1.0)),
    ],
)
def test_every_grid(
    make_plans: Callable[..., Plans], axis_order: tuple[int, ...], spacing: tuple[float, ...], new_spacing: tuple
) -> None:
    case = make_case((13, 17, 11), spacing)
    check_equal(case, make_plans(new_spacing, axis_order=axis_order))
    check_equal(replace(case, label=None), make_plans(new_spacing, axis_order=axis_order, method=LINEAR))


@pytest.mark.parametrize("spacing", [(6.0, 1.0, 1.0), (6.0, 1.0, 0.5)])
@pytest.mark.parametrize("order_through", [0, 1, 3])
def test_slices_that_lie_far_apart(
    make_plans: Callable[..., Plans], spacing: tuple[float, ...], order_through: int
) -> None:
    plans = make_plans((2.5, 0.8, 0.9), schemes=["ZScoreNormalization"] * 2)
    plans.configurations["test"]["resampling_fn_data_kwargs"]["order_z"] = order_through
    check_equal(make_case((9, 14, 12), spacing, channels=2), plans)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("zeros", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("with_label", [False, True])
def test_every_normalisation(
    make_plans: Callable[..., Plans], scheme: str, masked: bool, zeros: float, with_label: bool
) -> None:
    plans = make_plans((0.8, 1.1, 1.2), schemes=[scheme, "ZScoreNormalization"], masks=[masked, not masked])
    plans = replace(plans, intensities=(*plans.intensities, *plans.intensities))
    case = make_case((12, 15, 18), (1.0, 1.0, 1.0), 2, zeros=zeros)
    check_equal(case if with_label else replace(case, label=None), plans)


def test_colours(make_plans: Callable[..., Plans]) -> None:
    case = make_case((1, 40, 30), (999.0, 1.0, 1.0), 3, zeros=0)
    case.image[...] = np.random.default_rng(0).integers(0, 256, size=case.image.shape)
    plans = make_plans((1.0, 1.0), schemes=["RGBTo01Normalization"] * 3)
    check_equal(case, plans)
    case.image[1, 0, 3, 3] = 256
    with pytest.raises(SegflowError, match=r"case 'case_7'.*8-bit colours"):
        open_in_plan_space(as_read(case), plans, plans.configuration("test"))


def test_large_slices_are_made_in_parts(make_plans: Callable[..., Plans]) -> None:
    """Few slices of a band at once, each from parts of the image's slices. A band ends with one slice."""
    case = make_case((40, 1000, 270), (1.0, 1.0, 1.0), zeros=0)
    sources: list[int] = []

    class Counted(ArraySource):
        def read(self, box: Box) -> np.ndarray:
            sources.append(int(np.prod(box.shape)))
            return super().read(box)

    plans = make_plans((39 / 33, 0.97, 2.0))
    plan = plans.configuration("test")
    expected = preprocess_case(replace(case, label=None), plans, plan, LABELS).image
    opened = open_in_plan_space(replace(as_read(case), image=Counted(case.image)), plans, plan, memory=1)
    sources.clear()
    found = opened.image.read(Box.whole(opened.image.shape[1:]))
    assert found.shape == (1, 33, 1031, 135)
    assert found.tobytes() == expected.tobytes()
    assert max(sources) < case.image.size // 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=shapes,
    zeros=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    factors=st.tuples(*[st.sampled_from([0.6, 0.9, 1.0, 1.7])] * 3),
    masked=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_small_case(
    make_plans: Callable[..., Plans], shape: Any, zeros: float, factors: Any, masked: bool, seed: int
) -> None:
    case = make_case(shape, (1.0, 1.0, 1.0), zeros=zeros, seed=seed)
    plans = make_plans(factors, masks=[masked])
    try:
        preprocess_case(case, plans, plans.configuration("test"), LABELS)
    except SegflowError as error:
        with pytest.raises(SegflowError, match=error.problem):
            open_in_plan_space(as_read(case), plans, plans.configuration("test"))
        return
    check_equal(case, plans)


@settings(max_examples=150, deadline=None)
@given(st.tuples(st.sampled_from([0.3, 0.6, 0.8, 0.95]), shapes, st.integers(0, 2**31)))
def test_holes_are_filled(parameters: tuple[float, tuple[int, ...], int]) -> None:
    share, shape, seed = parameters
    mask = np.random.default_rng(seed).random(shape) < share
    inside = InsideMask(ArraySource(mask[None]), most_values=40)
    assert np.array_equal(inside.read(Box.whole(shape)), binary_fill_holes(mask))


def test_a_way_out_that_winds_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.ones((9, 15, 70), bool)
    for number, y in enumerate(range(2, 13, 2)):  # canals along z, joined at the top and the bottom in turn
        mask[1:8, y, 30] = False
        if y < 12:
            mask[1 if number % 2 else 7, y + 1, 30] = False
    closed = mask.copy()
    mask[4, 12, 30:] = False
    monkeypatch.setattr(inside_mask, "MOST_BITS_BYTES", 0)  # the bits lie in a file
    for case in (mask, closed):
        box = Box((2, 1, 11), (8, 14, 61))
        found = InsideMask(ArraySource(case[None]), most_values=1 << 20).read(box)
        assert np.array_equal(found, binary_fill_holes(case)[box.slices])


@settings(max_examples=100, deadline=None)
@given(
    shape=shapes,
    values=st.lists(st.sampled_from([0.0, 0.0, -3.0, 5.0, 1e12, 1e-20, np.nan, np.inf]), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_a_look_tells_what_the_whole_image_tells(shape: tuple[int, ...], values: list[float], seed: int) -> None:
    image = np.random.default_rng(seed).choice(np.array(values, np.float32), size=(2, *shape))
    look = look_at(ArraySource(image))
    assert look.box == crop_to_nonzero(image, None).box
    assert look.inside == np.count_nonzero((image != 0).any(0))
    size = int(np.prod(look.box.shape))
    for own, channel in zip(image, look.channels, strict=True):
        cut = own[look.box.slices]
        assert np.array_equal([channel.low, channel.high], [own.min(), own.max()], equal_nan=True)
        assert channel.not_finite == np.count_nonzero(~np.isfinite(own))
        if not channel.not_finite:
            assert channel.range_within(size) == (cut.min(), cut.max())
    if np.isfinite(image).all():
        assert look.absurd == absurd_channels(image)


@given(shape=shapes, most=st.integers(0, 300))
def test_boxes_follow_the_memory(shape: tuple[int, ...], most: int) -> None:
    numbers = np.arange(np.prod(shape)).reshape(shape)
    boxes = list(boxes_in_order(shape, most))
    assert np.array_equal(np.concatenate([numbers[box.slices].ravel() for box in boxes]), numbers.ravel())
    assert all(np.prod(box.shape) <= max(most, shape[2]) for box in boxes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.ones((2, 8, 12, 10), np.float32)}, "number of channels"),
        ({"label": np.zeros((8, 12, 9), np.int16)}, "differ in shape"),
        ({"geometry": Geometry((0.0, 1.0, 1.0))}, "spacing"),
        ({"image": np.full((1, 8, 12, 10), np.nan, np.float32)}, "not numbers"),
        ({"geometry": Geometry((0.01, 1.0, 1.0))}, "nothing would be left"),
        ({"geometry": Geometry((1.0, 5.0, 1.0))}, "slices lie along another axis"),
    ],
)
def test_bad_cases_are_refused_by_name(make_plans: Callable[..., Plans], change: dict, message: str) -> None:
    case = replace(make_case((8, 12, 10), (1.0, 1.0, 1.0)), **change)
    plans = make_plans()
    with pytest.raises(SegflowError, match=f"case 'case_7'.*{message}"):
        open_in_plan_space(as_read(case), plans, plans.configuration("test"))


def test_normalisations_of_absurd_values_stay_equal(make_plans: Callable[..., Plans]) -> None:
    for scale in (1e-35, 1e-20, 1e25, 1e36):
        case = make_case((7, 9, 8), (1.0, 1.0, 1.0))
        case = replace(case, image=(case.image * scale).astype(np.float32))
        statistics = ChannelIntensities(*[value * scale for value in (200.0, 50.0, 48.0, -100.0, -80.0, 150.0, 30.0)])
        for scheme in SCHEMES:
            plans = replace(make_plans((0.8, 0.9, 1.1), schemes=[scheme]), intensities=(statistics,))
            check_equal(case, plans)
