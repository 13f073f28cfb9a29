"""Folds are nnU-Net's for the same cases, never leak, and never change silently."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segflow.core.errors import SegflowError
from segflow.core.split_cases import make_splits, values_by_pattern
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import Split, check_splits, select_fold, splits_from_json, splits_to_json


def cases(count: int) -> list[str]:
    return [f"case_{i:03d}" for i in range(count)]


def numbers(side: tuple[str, ...]) -> list[int]:
    return [int(case.split("_")[1]) for case in side]


@pytest.mark.parametrize(
    ("count", "val"),
    [
        (7, [[3, 6], [0, 4], [1], [5], [2]]),
        (10, [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]]),
        (20, [[3, 8, 13, 16], [0, 10, 12, 15], [6, 7, 11, 17], [9, 14, 18, 19], [1, 2, 4, 5]]),
    ],
)
def test_folds_are_nnunets(count: int, val: list[list[int]]) -> None:
    """Recipe 10 and conformance vector B6."""
    splits = make_splits(reversed(cases(count)), SplitSettings())
    assert [numbers(split.val) for split in splits] == val
    for split in splits:
        assert numbers(split.train) == sorted(set(range(count)) - set(numbers(split.val)))


def test_a_fold_beyond_the_last_is_refused_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    splits = make_splits(cases(10), SplitSettings())
    with pytest.raises(SegflowError, match=r"no fold 5.*random_beyond=true"):
        select_fold(splits, 5, cases(10))
    with caplog.at_level(logging.WARNING):
        split = select_fold(splits, 5, cases(10), random_beyond=True)
    assert numbers(split.train) == [0, 8, 4, 5, 3, 9, 7, 6]  # conformance vector B5
    assert numbers(split.val) == [1, 2]
    assert "random 80:20" in caplog.text


@pytest.mark.parametrize("fold", [-1, "some", "1.5"])
def test_what_is_no_fold_is_refused(fold: int | str) -> None:
    with pytest.raises(SegflowError, match="no fold"):
        select_fold(make_splits(cases(10), SplitSettings()), fold, cases(10), random_beyond=True)


def test_fold_all_trains_and_validates_on_everything() -> None:
    assert select_fold([], "all", cases(3)) == Split(tuple(cases(3)), tuple(cases(3)))


def test_too_few_cases_are_named() -> None:
    with pytest.raises(SegflowError, match=r"5 folds need at least 5 training cases.*found 4: case_000.*fold=all"):
        make_splits(cases(4), SplitSettings())


@given(st.lists(st.integers(0, 30), min_size=10, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_every_case_validates_once_and_groups_never_leak(patients: list[int], folds: int, seed: int) -> None:
    ids = [f"p{patient:02d}_{i}" for i, patient in enumerate(patients)]
    groups = values_by_pattern(ids, r"^(p\d+)_")
    settings = SplitSettings(folds=folds, seed=seed, group_by="used by the caller")
    if len(set(groups.values())) < folds:
        with pytest.raises(SegflowError, match="groups of cases"):
            make_splits(ids, settings, groups=groups)
        return
    splits = make_splits(ids, settings, groups=groups)
    check_splits(splits, ids, groups=groups)
    assert sorted(case for split in splits for case in split.val) == sorted(ids)


def test_leaving_one_group_out_makes_a_fold_of_each_group() -> None:
    ids = ["a_1", "a_2", "b_1", "c_1"]
    splits = make_splits(
        ids,
        SplitSettings(scheme="leave_one_group_out", group_by="^."),
        groups=values_by_pattern(ids, "^."),
    )
    assert [split.val for split in splits] == [("a_1", "a_2"), ("b_1",), ("c_1",)]


def test_strata_are_spread_evenly_also_over_groups() -> None:
    ids = [f"{site}{i}_{scan}" for site in "AAAB" for i in range(10) for scan in (1, 2)]
    ids = sorted({f"{case}{n}" for n, case in enumerate(ids)})
    groups = values_by_pattern(ids, r"_(.*)")
    strata = values_by_pattern(ids, "^.")
    settings = SplitSettings(scheme="stratified", stratify_by="^.", group_by="used by the caller")
    splits = make_splits(ids, settings, groups=groups, strata=strata)
    counts = [sum(case.startswith("B") for case in split.val) for split in splits]
    assert max(counts) - min(counts) <= 1
    assert max(len(s.val) for s in splits) - min(len(s.val) for s in splits) <= 1
    assert splits == make_splits(ids, settings, groups=groups, strata=strata)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(("a", "b"), ("b", "c")), "both train and validate.*found b"),
        (Split(("a", "b"), ("c", "x")), "no such training cases.*found x"),
        (Split(("a",), ("b",)), "in no fold.*found c"),
        (Split(("a", "b", "c"), ()), "no cases to validate on"),
        (Split((), ("a", "b", "c")), "no cases to train on"),
        (Split(("a", "a", "b"), ("c",)), "listed twice.*found a"),
    ],
)
def test_splits_that_leak_or_do_not_fit_are_refused(split: Split, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        check_splits([split], ["a", "b", "c"])


def test_a_group_on_both_sides_is_refused() -> None:
    groups = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    with pytest.raises(SegflowError, match=r"mine, fold 0: cases of the same group.*found p1"):
        check_splits([Split(("p1_a",), ("p1_b", "p2_a"))], groups, groups=groups, source="mine")


def test_a_pattern_must_match_every_case() -> None:
    with pytest.raises(SegflowError, match=r"finds nothing in 1 cases.*found b"):
        values_by_pattern(["a1", "b"], r"\d")
    with pytest.raises(SegflowError, match="not a regular expression"):
        values_by_pattern(["a1"], "(")


def test_json_form_is_nnunets() -> None:
    splits = make_splits(cases(10), SplitSettings())
    value = splits_to_json(splits)
    assert value[0] == {"train": list(splits[0].train), "val": ["case_000", "case_007"]}
    assert splits_from_json(value) == splits


@pytest.mark.parametrize(
    "value", [{}, [{"train": ["a"]}], ["a"], [{"train": "a", "val": ["b"]}], [{"train": [1], "val": []}]]
)
def test_a_file_that_is_no_splits_is_refused(value: object) -> None:
    with pytest.raises(SegflowError, match="not a split"):
        splits_from_json(value, source="mine.json")


@pytest.mark.parametrize(
    "values",
    [{"scheme": "kfolds"}, {"folds": 1}, {"scheme": "stratified"}, {"scheme": "leave_one_group_out"}],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SegflowError):
        SplitSettings(**values)  # type: ignore[arg-type]
