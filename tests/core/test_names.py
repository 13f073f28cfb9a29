"""Names from outside are single plain parts of a path, whichever record gives them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_models

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.names import LONGEST_NAME, check_fold, safe_ending, safe_name, why_unsafe
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.splits import splits_from_json

HOSTILE = (
    *("", " ", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:\\x", "..\\x", ".hidden", "a\0b", "a\nb", "\x1b[2J"),
    *("x" * (LONGEST_NAME + 1), "ä" * LONGEST_NAME, "\udc80", "a\x9bb", None, 7, True, ["a"], {"a": 1}),
)
GOOD = ("la_003", "BraTS-01.02", "case 7 (left)", "Müller 北京", "a..b", "x~", "$HOME", "-m", "1", "case:1", "a" * 200)


@pytest.mark.parametrize("name", GOOD)
def test_names_that_people_give_are_taken(name: str) -> None:
    assert safe_name(name, "it") == name


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_plain_name_is_refused(name: Any) -> None:
    with pytest.raises(SegflowError, match=r"^the key cannot be part of a path: it .* rename it where it comes from"):
        safe_name(name, "the key")


@pytest.mark.parametrize("name", ["nul", "CON", "aux.nii", "com1.a.b", "lpt9 ", "a:b", "what?", "a<b", "end.", "end "])
def test_names_that_only_windows_refuses(name: str) -> None:
    assert why_unsafe(name, on_windows=True) == "is none that Windows allows"
    assert why_unsafe(name, on_windows=False) is None


@pytest.mark.parametrize("name", [name for name in GOOD if ":" not in name] + ["console", "nullable", "com10", "a.con"])
def test_what_windows_allows(name: str) -> None:
    assert why_unsafe(name, on_windows=True) is None


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".PNG", ".tif", ".seg.nrrd", ".v2-1.mha"])
def test_endings_of_files(ending: str) -> None:
    assert safe_ending(ending) == ending


@pytest.mark.parametrize(
    "ending", ["", ".", "..", "./x", "./../x.nii.gz", "nii.gz", ".nii/", ".a\\b", ".*", ".nii gz", ".a\0", 7, None]
)
def test_what_is_no_ending_of_files(ending: Any) -> None:
    with pytest.raises(SegflowError, match="'file_ending'"):
        safe_ending(ending)


@pytest.mark.parametrize("fold", [0, 12, "0", "all", "outer_1"])
def test_folds(fold: Any) -> None:
    check_fold(fold)


@pytest.mark.parametrize("fold", [-1, 10**9, 0.0, True, None, "../0", "", [0]])
def test_what_is_no_fold(fold: Any) -> None:
    with pytest.raises(SegflowError, match="fold"):
        check_fold(fold)


FULLRES = ("plans", "configurations", "3d_fullres")
NAME_FIELDS = (
    *(("dataset_name",), ("configuration",), ("plans", "dataset_name"), ("plans", "plans_name")),
    *((*FULLRES, "data_identifier"), (*FULLRES, "previous_stage"), (*FULLRES, "next_stage")),
    *(("train_cases", 0), ("val_cases", 0)),
)


@pytest.mark.parametrize("name", [*(name for name in HOSTILE if isinstance(name, str) and name), 7])
@pytest.mark.parametrize("field", NAME_FIELDS)
def test_no_name_field_of_a_run_takes_a_hostile_name(field: tuple[Any, ...], name: Any) -> None:
    content = tiny_models.record(val_cases=["c"]).to_json()
    node: Any = content
    for key in field[:-1]:
        node = node[key]
    node[field[-1]] = name
    with pytest.raises(SegflowError):
        assert RunRecord.from_json(content).plan


def test_a_configuration_has_no_hostile_name() -> None:
    content = tiny_models.plans().to_json()
    content["configurations"]["../2d"] = content["configurations"].pop("2d")
    with pytest.raises(SegflowError, match="the name of a configuration"):
        Plans.from_json(content)


def test_the_message_names_key_and_value() -> None:
    content = tiny_models.plans().to_json() | {"plans_name": "../../x"}
    with pytest.raises(SegflowError, match=r"the plans_name of the plans .* a separator of paths; found '\.\./\.\./x'"):
        Plans.from_json(content)
    with pytest.raises(SegflowError, match=r"splits\.json, fold 1: the name of a case .* found '\.\./b'"):
        splits_from_json([{"train": ["a"], "val": ["b"]}, {"train": ["a"], "val": ["../b"]}], source="splits.json")


def test_records_that_are_made_and_not_read_are_checked_too() -> None:
    with pytest.raises(SegflowError, match="the name of a case"):
        CaseFiles("../a", ())
    with pytest.raises(SegflowError, match="the fold"):
        replace(tiny_models.record(), fold="../0")
    with pytest.raises(SegflowError, match="file_ending"):
        replace(DatasetDescription.from_json("D", tiny_models.dataset_json()), file_ending="/../x.nii.gz")
