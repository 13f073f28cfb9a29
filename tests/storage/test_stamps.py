"""A stamp tells a result that is done from one that is out of date, and segflow's files from others."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.storage.file_stamps import Origin, digest_of, is_same_file, stamp_file
from segflow.storage.stamps import MISSING, STAMPS_FOLDER, StampedFolder, say_why

NAME = "a.nii.gz"


def origin(folder: Path, way: str = "predict", version: int = 1, settings: Mapping[str, Any] | None = None) -> Origin:
    chosen = {"weights": "w", "mirroring": True, "folds": ("0", "1")} if settings is None else settings
    return Origin(way, version, chosen, {"image_0": folder / "in.nii", "label": folder / "label.nii"})


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    (tmp_path / "in.nii").write_bytes(b"an image")
    (tmp_path / "label.nii").write_bytes(b"a label map")
    return tmp_path


def make(folder: StampedFolder, made_from: Origin, content: bytes = b"result", more: bytes | None = None) -> None:
    with folder.written(NAME, made_from) as place:
        (place / NAME).write_bytes(content)
        if more is not None:
            (place / "entropy").mkdir()
            (place / "entropy" / NAME).write_bytes(more)


def write_half(file: Path) -> None:
    file.write_bytes(b"half")
    raise RuntimeError("no space")


def test_what_was_made_is_done_and_lies_where_it_belongs(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    assert folder.why_stale(NAME, origin(inputs)) == MISSING
    make(folder, origin(inputs), more=b"entropy")
    assert (inputs / "out" / NAME).read_bytes() == b"result"
    assert (inputs / "out" / "entropy" / NAME).read_bytes() == b"entropy"
    assert folder.why_stale(NAME, origin(inputs), [inputs / "out" / "entropy" / NAME]) is None
    assert folder.why_stale(NAME, origin(inputs), [inputs / "out" / "other" / NAME]) == "a file is missing"
    assert not list((inputs / "out" / ".segflow").glob(".making*"))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"way": "ensemble"}, "made in another way"),
        ({"version": 2}, "made in another way"),
        ({"settings": {"weights": "v", "mirroring": True, "folds": ["0", "1"]}}, "another 'weights'"),
        ({"settings": {"weights": "w", "mirroring": False, "folds": ["0", "1"]}}, "another 'mirroring'"),
        ({"settings": {"weights": "w", "mirroring": True, "folds": ["0"]}}, "another 'folds'"),
        ({"settings": {"weights": "w", "mirroring": True}}, "another 'folds'"),
        ({"settings": {"weights": "w", "mirroring": True, "folds": ["0", "1"], "x": 1}}, "another 'x'"),
    ],
)
def test_any_change_of_way_or_settings_makes_it_stale(inputs: Path, changed: dict[str, Any], reason: str) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    assert folder.why_stale(NAME, origin(inputs, **changed)) == reason


def test_another_input_makes_it_stale_though_size_and_time_are_the_same(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    image = inputs / "in.nii"
    before = image.stat()
    image.write_bytes(b"AN image")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.why_stale(NAME, origin(inputs)) == "another image"
    image.write_bytes(b"an image")  # the same content at another time is the same input
    assert folder.why_stale(NAME, origin(inputs)) is None
    image.unlink()
    assert folder.why_stale(NAME, origin(inputs)) == "another image"


def test_inputs_that_come_or_go_make_it_stale(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    fewer = Origin("predict", 1, origin(inputs).settings, {"image_0": inputs / "in.nii"})
    assert folder.why_stale(NAME, fewer) == "made from other files"


def test_results_and_inputs_may_move_together(inputs: Path, tmp_path: Path) -> None:
    make(StampedFolder(inputs / "out"), origin(inputs))
    shutil.copytree(inputs, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    copied = tmp_path / "elsewhere"
    assert StampedFolder(copied / "out").why_stale(NAME, origin(copied)) is None


def test_a_missing_or_changed_result_is_not_done(inputs: Path) -> None:
    folder, file = StampedFolder(inputs / "out"), inputs / "out" / NAME
    make(folder, origin(inputs))
    file.write_bytes(b"edited")
    assert folder.why_stale(NAME, origin(inputs)) == "a file was changed"
    assert folder.foreign({NAME: [file]}) == [file]
    file.unlink()
    assert folder.why_stale(NAME, origin(inputs)) == "a file is missing"
    assert folder.foreign({NAME: [file]}) == []


def test_what_segflow_did_not_write_is_foreign(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    mine, link = inputs / "out" / "b.nii.gz", inputs / "out" / "c.nii.gz"
    mine.write_bytes(b"mine")
    link.symlink_to(inputs / "nowhere")
    files = {NAME: [inputs / "out" / NAME], "b.nii.gz": [mine], "c.nii.gz": [link], "d": [inputs / "out" / "d"]}
    assert folder.foreign(files) == [mine, link]


def test_discarding_leaves_what_is_not_segflows(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs), more=b"entropy")
    (inputs / "out" / NAME).write_bytes(b"edited by a person")
    folder.discard(NAME)
    assert (inputs / "out" / NAME).read_bytes() == b"edited by a person"
    assert not (inputs / "out" / "entropy" / NAME).exists()
    assert folder.stamp_of(NAME) is None


def test_a_result_that_fails_leaves_no_trace_and_the_old_one(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    with pytest.raises(RuntimeError, match="no space"), folder.written(NAME, origin(inputs, version=2)) as place:
        write_half(place / NAME)
    assert (inputs / "out" / NAME).read_bytes() == b"result"
    assert folder.why_stale(NAME, origin(inputs)) is None


def test_an_error_names_the_place_where_the_file_was_to_be(inputs: Path) -> None:
    folder = StampedFolder(inputs / "out")

    def fail(file: Path) -> None:
        raise NoSpaceError(f"cannot write {file}", found="0 B free", fix="Make room.")

    with pytest.raises(NoSpaceError) as caught, folder.written(NAME, origin(inputs)) as place:
        fail(place / NAME)
    assert str(caught.value) == f"cannot write {inputs / 'out' / NAME}; found 0 B free. Make room."


def test_a_process_that_ends_between_stamp_and_file_leaves_nothing_done(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StampedFolder(inputs / "out")
    moved: list[str] = []
    replace = os.replace

    def stopping(source: Any, target: Any) -> None:
        if Path(target).name == NAME and moved:
            raise KeyboardInterrupt
        moved.append(str(target))
        replace(source, target)

    monkeypatch.setattr("segflow.storage.stamps.os.replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(folder, origin(inputs), more=b"entropy")
    monkeypatch.undo()
    assert folder.why_stale(NAME, origin(inputs)) == "a file is missing"
    assert folder.foreign({NAME: [inputs / "out" / "entropy" / NAME]}) == []  # it may be replaced
    make(folder, origin(inputs), more=b"entropy")
    assert folder.why_stale(NAME, origin(inputs)) is None


def test_a_stamp_from_elsewhere_reaches_nothing_outside_its_folder(inputs: Path) -> None:
    out = inputs / "out"
    folder = StampedFolder(out)
    make(folder, origin(inputs))
    victim = inputs / "victim"
    victim.write_bytes(b"mine")
    (out / "link").symlink_to(inputs)
    file = out / ".segflow" / f"{NAME}.json"
    stamp = json.loads(file.read_text())
    for path in ("../victim", str(victim), "link/victim", "a/../../victim"):
        stamp["outputs"] = {path: stamp_file(victim)}
        file.write_text(json.dumps(stamp))
        folder.discard(NAME)
        assert victim.read_bytes() == b"mine", path


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 2}', '{"format": 1, "outputs": 3}'])
def test_a_damaged_stamp_counts_as_none(inputs: Path, text: str) -> None:
    folder = StampedFolder(inputs / "out")
    make(folder, origin(inputs))
    (inputs / "out" / ".segflow" / f"{NAME}.json").write_text(text)
    assert folder.why_stale(NAME, origin(inputs)) is not None
    assert folder.foreign({NAME: [inputs / "out" / NAME]}) == [inputs / "out" / NAME]
    folder.discard(NAME)
    assert (inputs / "out" / NAME).exists()


def test_a_link_in_the_folder_is_not_followed_out_of_it(inputs: Path) -> None:
    (inputs / "elsewhere").mkdir()
    (inputs / "out").mkdir()
    (inputs / "out" / "entropy").symlink_to(inputs / "elsewhere")
    with pytest.raises(SegflowError, match="leads out of"):
        make(StampedFolder(inputs / "out"), origin(inputs), more=b"entropy")
    assert not list((inputs / "elsewhere").iterdir())
    whole = inputs / "whole"  # the folder itself may be a link
    whole.symlink_to(inputs / "elsewhere")
    make(StampedFolder(whole), origin(inputs), more=b"entropy")
    assert (inputs / "elsewhere" / NAME).is_file()


def test_stamps_of_files_see_content_and_older_stamps_go_on(inputs: Path) -> None:
    stamp = stamp_file(inputs / "in.nii")
    assert is_same_file(inputs / "in.nii", stamp)
    older = {name: stamp[name] for name in ("bytes", "time_ns", "digest")}  # as arrays were stamped before
    assert is_same_file(inputs / "in.nii", older)
    assert not is_same_file(inputs / "label.nii", stamp)
    assert not is_same_file(inputs / "absent", stamp)
    with pytest.raises(SegflowError, match="absent"):
        stamp_file(inputs / "absent")


def test_plain_json_has_one_digest_whatever_its_order() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": [1, 2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 1.5})


def test_one_line_counts_what_is_made_anew_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        say_why("predictions", {"a": "another image", "b": "another image", "c": "a file is missing"}, 9)
        say_why("predictions", {"d": MISSING}, 9)
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 9 predictions are made anew: another image (2), a file is missing (1)"
    ]


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    """Reading it would never end."""
    os.mkfifo(tmp_path / "in.nii")
    with pytest.raises(SegflowError, match=r"in\.nii; found a pipe; expected a regular file"):
        stamp_file(tmp_path / "in.nii")
    same = {name: getattr((tmp_path / "in.nii").stat(), f"st_{key}") for name, key in (("bytes", "size"),)}
    assert not is_same_file(tmp_path / "in.nii", {**same, "time_ns": 0, "digest": "0"})


def test_discarding_lists_the_folder_once_and_leaves_what_others_are_making(tmp_path: Path) -> None:
    home = tmp_path / STAMPS_FOLDER
    for name in ("a.nii.gz", "b.nii.gz", "other-a.nii.gz"):
        (home / f".making-0123abc-{name}").mkdir(parents=True)
    StampedFolder(tmp_path).discard("a.nii.gz", "b.nii.gz", "c.nii.gz")
    assert [left.name for left in home.iterdir()] == [".making-0123abc-other-a.nii.gz"]
