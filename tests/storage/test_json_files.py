"""Whatever is wrong with a JSON file, the message names the file."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.plans import Plans
from segflow.core.postprocessing import PostprocessingChoice
from segflow.core.run_record import RunRecord
from segflow.storage import json_files
from segflow.storage.json_files import read_json, read_json_as, write_json, write_json_lines


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", "null", '"text"', "3"])
@pytest.mark.parametrize(
    "build", [Plans.from_json, Fingerprint.from_json, PostprocessingChoice.from_json, RunRecord.from_json]
)
def test_a_file_of_something_else_is_named(tmp_path: Path, build: Callable[[Any], Any], text: str) -> None:
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(SegflowError) as caught:
        read_json_as(file, build, fix="Make it anew.")
    assert str(file) in str(caught.value)


def test_what_is_wrong_in_it_and_what_to_do_are_said(tmp_path: Path) -> None:
    file = tmp_path / "postprocessing.json"
    file.write_text('{"steps": [{"kind": "polish", "labels": [1]}]}')
    with pytest.raises(SegflowError, match=r"postprocessing.json: unknown step; found .*polish.* Make it anew\."):
        read_json_as(file, PostprocessingChoice.from_json, fix="Make it anew.")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_mark_that_editors_put_before_a_text_is_passed_over(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "dataset.json"
    file.write_text('{"name": "Fuß"}', encoding=encoding)
    assert read_json(file) == {"name": "Fuß"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "dataset.json"
    file.write_text('{"name": "Fuß"}', encoding=encoding)
    with pytest.raises(SegflowError, match=rf"dataset.json.*found {encoding[:6].upper()}.*expected UTF-8"):
        read_json(file)


def test_a_text_that_is_not_utf_8_is_told_how_to_become_it(tmp_path: Path) -> None:
    file = tmp_path / "dataset.json"
    file.write_text('{"name": "Fuß"}', encoding="latin-1")
    with pytest.raises(SegflowError, match=r"dataset.json: its text is not UTF-8.*Save it as UTF-8"):
        read_json(file)


def test_a_file_of_zeros_is_no_json(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(bytes(64))
    with pytest.raises(SegflowError, match=r"run.json is not valid JSON"):
        read_json(file)


def test_a_file_that_another_process_has_open_is_replaced_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which refuses until then."""
    original, calls = os.replace, []

    def refuse_twice(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) < 3:
            raise PermissionError(13, "Access is denied")
        original(source, target)

    monkeypatch.setattr(json_files, "_WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "replace", refuse_twice)
    write_json(tmp_path / "a.json", 1)
    assert len(calls) == 3
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    monkeypatch.setattr(json_files, "_WAITS", ())
    calls.clear()
    with pytest.raises(SegflowError, match="Access is denied"):
        write_json(tmp_path / "a.json", 2)
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


ODD = {"b": {"é": [1, float("nan"), None]}, "a": {}, "half \ud800": [[], True, 'quo"ted\n']}


@pytest.mark.parametrize("sort_keys", [False, True])
def test_the_text_is_that_of_the_json_module(tmp_path: Path, sort_keys: bool) -> None:
    write_json(tmp_path / "a.json", ODD, sort_keys=sort_keys)
    expected = json.dumps(ODD, indent=4, sort_keys=sort_keys, ensure_ascii=False) + "\n"
    assert (tmp_path / "a.json").read_bytes() == expected.encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("value", [{}, {"one": [1, 2]}, ODD])
def test_lines_hold_a_key_each(tmp_path: Path, value: dict[str, Any]) -> None:
    write_json_lines(tmp_path / "a.json", value)
    assert repr(read_json(tmp_path / "a.json")) == repr(value)
    assert len((tmp_path / "a.json").read_text().splitlines()) == len(value) + 2


def test_a_text_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    value = {str(number): [0.1 * number] * 10 for number in range(20_000)}
    tracemalloc.start()
    write_json(tmp_path / "a.json", value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (tmp_path / "a.json").stat().st_size / 20
