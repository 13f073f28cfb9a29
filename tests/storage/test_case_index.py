"""The index of prepared cases saves opening their files, and is never trusted over them."""

from __future__ import annotations

import json
import multiprocessing
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.preprocessed_case import SpatialRecord
from segflow.storage import case_index
from segflow.storage.case_facts import CaseFacts
from segflow.storage.case_index import INDEX_FILE, TOO_RECENT_NS, CaseIndex, FileState
from segflow.storage.preprocessed_store import PreprocessedStore

OLD = 1_700_000_000 * 10**9
SPATIAL = SpatialRecord(
    geometry=Geometry((1.0, 1.0, 1.0), {"affine": [[-1, 0, 0, 3.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}),
    shape_original=(4, 5, 6),
    axis_order=(2, 0, 1),
    crop=Box.whole((6, 4, 5)),
    spacing_transposed=(1.0, 1.0, 1.0),
    spacing_plan=(1.0, 1.0, 1.0),
    shape_plan=(6, 4, 5),
)
STAMP = {"bytes": 1, "time_ns": 2, "change_ns": 3, "digest": "d"}
PROPERTIES = {
    **SPATIAL.to_json(),
    "channels": 1,
    "foreground_locations": {"1": 3, "2": 0},
    "files": {},
    "made_from": {"choices": {"version": 2}, "files": {"image_0": STAMP}},
}


def write(folder: Path, name: str, content: Any, time_ns: int = OLD) -> Path:
    """A case's JSON file, older than any index."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    unfinished = folder / f"{name}.unfinished"  # the other process must not see half of it
    unfinished.write_text(json.dumps({**PROPERTIES, **content}, indent=4))
    os.utime(unfinished, ns=(time_ns, time_ns))
    unfinished.replace(file)
    return file


def known(folder: Path) -> dict[str, Any]:
    """Case → what is special to it in its properties."""
    index = CaseIndex.of(folder)
    found = {name: index.properties(name) for name in index.states}
    return {name: {key: value for key, value in one.items() if key not in PROPERTIES} for name, one in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "arrays", f"case_{number}", {"number": number, "mean": 0.1 + 0.2, "NaN": float("inf")})
    return tmp_path / "arrays"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The JSON files that are opened."""
    files: list[str] = []
    read = case_index.read_json
    monkeypatch.setattr(case_index, "read_json", lambda file: files.append(file.stem) or read(file))
    return files


def test_the_second_look_opens_no_case(folder: Path, opened: list[str]) -> None:
    first = known(folder)
    assert first == {f"case_{n}": {"number": n, "mean": 0.1 + 0.2, "NaN": float("inf")} for n in range(3)}
    assert sorted(opened) == ["case_0", "case_1", "case_2"]
    opened.clear()
    assert known(folder) == first
    assert opened == []


def test_facts_of_the_index_are_those_of_the_files(folder: Path) -> None:
    wanted = PreprocessedStore(folder).facts("case_0")
    assert (wanted.keys, wanted.left_right, wanted.stamps) == (("1",), 0, {"image_0": STAMP})
    for _ in range(2):  # made, then read
        assert PreprocessedStore(folder).read_index().facts("case_0") == wanted
    write(folder, "case_0", {"made_from": None, "foreground_locations": {}}, OLD + 1)
    assert PreprocessedStore(folder).read_index().facts("case_0") == CaseFacts((), 0, None, None, {})


def test_changed_added_and_deleted_cases_are_noticed(folder: Path, opened: list[str]) -> None:
    known(folder)
    opened.clear()
    write(folder, "case_0", {"number": 7}, OLD + 1)
    write(folder, "case_9", {"number": 9})
    (folder / "case_1.json").unlink()
    assert {name: content["number"] for name, content in known(folder).items()} == {
        "case_0": 7,
        "case_2": 2,
        "case_9": 9,
    }
    assert sorted(opened) == ["case_0", "case_9"]
    assert b"case_1" not in (folder / INDEX_FILE).read_bytes()
    opened.clear()
    assert len(known(folder)) == 3
    assert opened == []


def test_a_change_within_the_clock_s_step_is_noticed(folder: Path) -> None:
    known(folder)
    file = folder / INDEX_FILE
    recent = file.stat().st_mtime_ns - TOO_RECENT_NS // 2
    write(folder, "case_0", {"number": 4}, recent)
    assert known(folder)["case_0"] == {"number": 4}
    os.utime(file, ns=(recent, recent))
    write(folder, "case_0", {"number": 5}, recent)  # of the same size and time
    assert known(folder)["case_0"] == {"number": 5}


@pytest.mark.parametrize(
    "damage", ["cut", "bit", "empty", "text", "other format", "wrong lines", "too deep", "folder", "link to nowhere"]
)
def test_a_damaged_index_is_made_anew(folder: Path, damage: str) -> None:
    wanted = known(folder)
    file = folder / INDEX_FILE
    content = file.read_bytes()
    forged = {
        "wrong lines": b"case_0\tsize\n",
        "too deep": b"case_0\t%d\t%d\t[]\t%s\n" % ((folder / "case_0.json").stat().st_size, OLD, b"[" * 100_000),
    }
    file.unlink()
    if damage in forged:
        file.write_bytes(b"segflow cases 2 %08x\n%s" % (zlib.crc32(forged[damage]), forged[damage]))
        store = PreprocessedStore(folder).read_index()
        assert store.properties("case_0")["number"] == wanted["case_0"]["number"]
        assert store.facts("case_0").keys == ("1",)
        return
    if damage == "folder":
        file.mkdir()
    elif damage == "link to nowhere":
        file.symlink_to(folder / "nowhere")
    else:
        damaged = {
            "cut": content[:-40],
            "bit": content.replace(b'"number":1', b'"number":8'),
            "empty": b"",
            "text": b"hello",
            "other format": content.replace(b"cases 2", b"cases 1"),
        }
        file.write_bytes(damaged[damage])
    assert known(folder) == wanted
    if damage != "folder":
        assert file.read_bytes() == content


def test_damaged_properties_are_told_of_when_the_case_is_opened(folder: Path) -> None:
    (folder / "case_1.json").write_text("{")
    (folder / "a\tb.json").write_text("{}")  # no name of a case
    store = PreprocessedStore(folder).read_index()
    assert store.case_ids() == ["a\tb", "case_0", "case_1", "case_2"]
    assert store.properties("case_2")["number"] == 2
    with pytest.raises(SegflowError, match=r"case_1\.json is not valid JSON"):
        store.open("case_1")
    with pytest.raises(SegflowError, match="not among the preprocessed ones"):
        store.properties("case_7")


def test_a_folder_that_cannot_be_written_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(self: Path, mode: str = "r", **settings: Any) -> Any:
        if "w" in mode:
            raise OSError(30, "Read-only file system")
        return opened(self, mode, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    assert len(known(folder)) == 3
    assert [file.name for file in folder.glob(".*")] == []


def test_an_index_is_in_memory_once(folder: Path, opened: list[str]) -> None:
    content = "x" * 2**20
    for number in range(16):
        write(folder, f"large_{number}", {"comment": content})
    for files in (19, 0):  # all are read, and then none
        opened.clear()
        tracemalloc.start()
        index = CaseIndex.of(folder)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(opened) == files
        assert index.properties("large_7")["comment"] == content
        assert 16 * len(content) < peak < 24 * len(content)  # and some copies of one case


def test_there_are_no_cases_where_there_is_no_folder(tmp_path: Path) -> None:
    assert PreprocessedStore(tmp_path / "nowhere").read_index().case_ids() == []


def _look(folder: Path, times: int) -> None:
    for _ in range(times):
        (folder / "case_0.json").touch()
        assert len(known(folder)) >= 3


def test_two_writers_at_once_leave_a_whole_index(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_look, args=(folder, 40)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for number in range(10, 40):
        write(folder, f"case_{number}", {"number": number})
        assert known(folder)[f"case_{number}"] == {"number": number}
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(known(folder)) == 33
    head, _, body = (folder / INDEX_FILE).read_bytes().partition(b"\n")
    assert head == b"segflow cases 2 %08x" % zlib.crc32(body)
    assert not list(folder.glob(".writing-*"))


def test_what_was_read_since_is_not_read_again(folder: Path, opened: list[str]) -> None:
    before = CaseIndex.of(folder)
    write(folder, "case_0", {"number": 10})
    write(folder, "new", {"number": 11})
    opened.clear()
    for name in ("case_0", "new", "not_there"):
        before.read_since(folder, name)
    assert opened == ["case_0", "new"]
    assert before.properties("case_0")["number"] == 0, "it is of the time when it was listed"
    index = CaseIndex.of(folder, before)
    assert opened == ["case_0", "new"]
    assert {name: index.properties(name)["number"] for name in index.states} == {
        **{"case_0": 10, "case_1": 1, "case_2": 2},
        "new": 11,
    }
    opened.clear()
    again = CaseIndex.of(folder)
    assert opened == []
    assert {name: again.properties(name) for name in again.states} == {
        name: index.properties(name) for name in index.states
    }


def test_a_case_that_another_process_replaced_after_it_was_read_is_read_again(folder: Path) -> None:
    """Even if its file has the same size, and the same time, since both were written within one time step."""
    before = CaseIndex.of(folder)
    file = write(folder, "new", {"number": 3})
    before.read_since(folder, "new")
    size = file.stat().st_size
    write(folder, "new", {"number": 4})
    assert file.stat().st_size == size
    assert CaseIndex.of(folder, before).properties("new")["number"] == 4
    assert CaseIndex.of(folder).properties("new")["number"] == 4


def test_a_case_that_was_removed_after_it_was_read_is_not_there(folder: Path) -> None:
    before = CaseIndex.of(folder)
    for removed in (False, True):
        write(folder, "new", {"number": 3})
        before.read_since(folder, "new")
        (folder / "new.json").unlink()
        if removed:
            before.forget("new")
        assert "new" not in CaseIndex.of(folder, before).states


def test_without_inodes_everything_is_read_again(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = CaseIndex.of(folder)
    monkeypatch.setattr(case_index.FileState, "of", lambda status: FileState(status.st_size, status.st_mtime_ns))
    write(folder, "new", {"number": 3})
    before.read_since(folder, "new")
    opened.clear()
    assert CaseIndex.of(folder, before).properties("new")["number"] == 3
    assert opened == ["new"]
