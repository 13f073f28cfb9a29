"""Splits are made once and kept; splits that leak or changed under way are refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.core.split_cases import make_splits
from segflow.core.split_settings import SplitSettings
from segflow.planning.split_dataset import read_fold, split_dataset
from segflow.storage.split_files import read_splits, write_splits

CASES = [f"p{i // 2}_{i % 2}" for i in range(12)]
BY_PATIENT = SplitSettings(group_by=r"^(p\d+)_")


def patients(cases: tuple[str, ...]) -> set[str]:
    return {case.split("_")[0] for case in cases}


def test_splits_are_written_once_and_kept(tmp_path: Path) -> None:
    first = split_dataset(tmp_path, CASES, SplitSettings())
    file = tmp_path / "splits_final.json"
    assert read_splits(file) == first == make_splits(CASES, SplitSettings())
    edited = list(reversed(first))
    write_splits(file, edited)
    assert split_dataset(tmp_path, CASES, SplitSettings()) == edited
    assert split_dataset(tmp_path, CASES, SplitSettings(), replace=True) == first


def test_groups_are_kept_apart_and_checked_at_every_use(tmp_path: Path) -> None:
    splits = split_dataset(tmp_path, CASES, BY_PATIENT)
    assert all(not patients(split.train) & patients(split.val) for split in splits)
    assert split_dataset(tmp_path, CASES, BY_PATIENT) == splits
    assert read_fold(tmp_path, CASES, 0, SplitSettings()) == splits[0], "training need not repeat group_by"
    write_splits(tmp_path / "splits_final.json", make_splits(CASES, SplitSettings()))
    with pytest.raises(SegflowError, match="same group"):
        read_fold(tmp_path, CASES, 0, SplitSettings())


def test_other_splits_than_those_that_were_made_are_not_silently_ignored(tmp_path: Path) -> None:
    split_dataset(tmp_path, CASES, SplitSettings())
    with pytest.raises(SegflowError, match=r"other splits than were asked for.*replace_splits=true"):
        split_dataset(tmp_path, CASES, SplitSettings(folds=3))
    with pytest.raises(SegflowError, match="same group"):
        split_dataset(tmp_path, CASES, BY_PATIENT)


def test_new_cases_are_not_silently_left_out(tmp_path: Path) -> None:
    split_dataset(tmp_path, CASES, SplitSettings())
    with pytest.raises(SegflowError, match=r"in no fold.*new_case.*replace_splits=true"):
        split_dataset(tmp_path, [*CASES, "new_case"], SplitSettings())


def test_splits_in_the_raw_folder_are_honoured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    brought = make_splits(CASES, SplitSettings(folds=3))
    write_splits(raw / "splits_final.json", brought)
    assert split_dataset(prepared, CASES, SplitSettings(), raw_folder=raw) == brought
    assert split_dataset(prepared, CASES, SplitSettings(), raw_folder=raw) == brought
    write_splits(raw / "splits_final.json", list(reversed(brought)))
    with pytest.raises(SegflowError, match="hold different splits"):
        split_dataset(prepared, CASES, SplitSettings(), raw_folder=raw)
    with caplog.at_level(logging.WARNING):
        splits = split_dataset(tmp_path / "other", CASES, BY_PATIENT, raw_folder=raw)
    assert len(splits) == 5
    assert "is not used" in caplog.text


def test_with_too_few_cases_only_fold_all_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = CASES[:3]
    with caplog.at_level(logging.WARNING):
        assert split_dataset(tmp_path, few, SplitSettings()) == []
    assert "fold=all" in caplog.text
    assert not (tmp_path / "splits_final.json").exists()
    assert read_fold(tmp_path, few, "all", SplitSettings()).train == tuple(few)
    with pytest.raises(SegflowError, match=r"no fold 0.*expected all"):
        read_fold(tmp_path, few, 0, SplitSettings())
    with pytest.raises(SegflowError, match="5 folds need at least 5 groups"):
        split_dataset(tmp_path, few, BY_PATIENT)


def test_the_group_that_each_fold_leaves_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = SplitSettings(scheme="leave_one_group_out", group_by=r"^(p\d)")
    for _ in range(2):  # made, then kept
        caplog.clear()
        with caplog.at_level(logging.INFO):
            split_dataset(tmp_path, CASES, settings)
        assert "leave out: 0 p0 (2 cases), 1 p1 (2 cases)" in caplog.text
