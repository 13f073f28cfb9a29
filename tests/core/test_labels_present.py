"""``labels_present`` of dataset.json: which cases it means, and what it may not say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError


def _described(present: Any = None, labels: Any = None, **more: Any) -> DatasetDescription:
    content = {
        "channel_names": {"0": "CT"},
        "labels": labels or {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **({} if present is None else {"labels_present": present}),
        **more,
    }
    return DatasetDescription.from_json("Dataset001_X", content)


def test_names_count_before_patterns_and_other_cases_have_all() -> None:
    labels = _described({"b_*": ["liver"], "b_7": ["spleen", "background"]}).labels
    assert labels.absent_keys("b_1") == (2,)
    assert labels.absent_keys("b_7") == (1,)
    assert labels.absent_keys("a_1") == ()
    assert labels.absent_labels("b_1") == {2: "spleen"}


def test_an_entry_of_the_list_of_files_may_say_it() -> None:
    entry = {"images": ["x.nii.gz"], "label": "y.nii.gz", "labels_present": ["liver"]}
    labels = _described(dataset={"a": entry}).labels
    assert labels.absent_keys("a") == (2,)


def test_of_regions_those_that_were_drawn_are_named() -> None:
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    labels = _described({"b_*": ["whole"]}, regions, regions_class_order=[1, 2]).labels
    assert labels.absent_keys("b_1") == (2,)


def test_a_dataset_without_it_is_as_before() -> None:
    labels = _described().labels
    assert labels.present is None
    assert labels.absent_keys("a") == ()


@pytest.mark.parametrize(
    ("present", "problem"),
    [
        (["liver"], "must map cases to labels"),
        ({"a": "liver"}, "must list names of labels"),
        ({"a": ["livr"]}, "names what is no label; found livr.*Did you mean 'liver'"),
        ({"a": []}, "names no label of a case"),
        ({"a": ["background"]}, "names no label of a case"),
    ],
)
def test_what_cannot_be_used_is_refused(present: Any, problem: str) -> None:
    with pytest.raises(SegflowError) as refused:
        _described(present)
    assert re.search(problem, str(refused.value))
