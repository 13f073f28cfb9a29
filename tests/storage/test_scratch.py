"""Copies of cases on a machine's own disk: whole, current, shared by jobs, or not used at all."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.storage.preprocessed_store import PREDICTED_BY, PreprocessedStore
from segflow.storage.scratch import copy_to_scratch

CASES = ("case_1", "case_10", "case_2")


def write_case(store: PreprocessedStore, case_id: str, seed: int, channels: int = 1, **properties: object) -> None:
    shape = (12, 20, 16)
    random = np.random.default_rng(seed)
    spacing = (1.0, 1.0, 1.0)
    spatial = SpatialRecord(Geometry(spacing), shape, (0, 1, 2), Box.whole(shape), spacing, spacing, shape)
    image = random.normal(size=(channels, *shape)).astype(np.float32)
    label = random.integers(0, 2, size=shape).astype(np.int16)
    locations = {1: np.argwhere(label == 1).astype(np.int32)}
    store.write(PreprocessedCase(case_id, image, label, spatial, locations), (8, 16, 16), properties)


@pytest.fixture
def store(tmp_path: Path) -> PreprocessedStore:
    made = PreprocessedStore(tmp_path / "Dataset001_X" / "plans_3d")
    for seed, case_id in enumerate(CASES):
        write_case(made, case_id, seed)
    return PreprocessedStore(made.folder)


def times(store: PreprocessedStore) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in store.folder.iterdir() if not file.name.startswith(".")}


def same(one: PreprocessedStore, other: PreprocessedStore, case_id: str) -> bool:
    a, b = one.open(case_id), other.open(case_id)
    return (
        np.array_equal(a.read_image(), b.read_image())
        and np.array_equal(a.read_label(), b.read_label())
        and a.foreground.location(1, 3) == b.foreground.location(1, 3)
        and a.properties == b.properties
    )


def test_only_the_cases_that_are_asked_for_are_copied_and_only_once(store: PreprocessedStore, tmp_path: Path) -> None:
    near = copy_to_scratch(store, ["case_1", "case_2"], tmp_path / "disk")
    assert near.folder.is_relative_to(tmp_path / "disk")
    assert near.case_ids() == ["case_1", "case_2"]
    assert all(same(store, near, case_id) for case_id in near.case_ids())
    before = times(near)
    more = copy_to_scratch(PreprocessedStore(store.folder), CASES, tmp_path / "disk")
    assert more.folder == near.folder
    assert sorted(more.case_ids()) == sorted(CASES)
    assert {name: at for name, at in times(more).items() if not name.startswith("case_10")} == before


def test_the_input_of_a_cascade_is_copied_with_its_origin(tmp_path: Path) -> None:
    handed = PreprocessedStore(tmp_path / "run" / "predicted_next_stage" / "3d_cascade_fullres")
    write_case(handed, "case_1", 0, channels=0, **{PREDICTED_BY: {"way": "next stage"}})
    near = copy_to_scratch(handed, ["case_1"], tmp_path / "disk")
    assert near.open("case_1").properties[PREDICTED_BY] == {"way": "next stage"}
    assert np.array_equal(near.open("case_1").read_label(), handed.open("case_1").read_label())


def test_a_case_that_was_made_anew_is_copied_anew(store: PreprocessedStore, tmp_path: Path) -> None:
    near = copy_to_scratch(store, CASES, tmp_path / "disk")
    before = times(near)
    write_case(store, "case_2", seed=77)
    again = copy_to_scratch(PreprocessedStore(store.folder), CASES, tmp_path / "disk")
    assert all(same(PreprocessedStore(store.folder), again, case_id) for case_id in CASES)
    changed = {name for name, at in times(again).items() if before[name] != at}
    assert changed == {"case_2.json", "case_2.b2nd", "case_2_seg.b2nd", "case_2_locations.npy"}


@pytest.mark.parametrize("harm", ["no properties", "no array", "short array", "left by a kill"])
def test_what_a_killed_job_left_is_completed(store: PreprocessedStore, tmp_path: Path, harm: str) -> None:
    near = copy_to_scratch(store, CASES, tmp_path / "disk")
    if harm == "no properties":
        near.properties_file("case_1").unlink()
    elif harm == "no array":
        (near.folder / "case_1_seg.b2nd").unlink()
    elif harm == "short array":
        (near.folder / "case_1.b2nd").write_bytes(b"short")
    else:
        (near.folder / ".writing-1-case_1.b2nd").write_bytes(b"half")
    again = copy_to_scratch(store, CASES, tmp_path / "disk")
    assert all(same(store, PreprocessedStore(again.folder), case_id) for case_id in CASES)
    assert not list(again.folder.glob(".writing-*"))


def test_originals_of_one_name_in_two_places_have_two_copies(store: PreprocessedStore, tmp_path: Path) -> None:
    other = PreprocessedStore(tmp_path / "elsewhere" / "Dataset001_X" / "plans_3d")
    write_case(other, "case_1", seed=5)
    one = copy_to_scratch(store, ["case_1"], tmp_path / "disk")
    two = copy_to_scratch(other, ["case_1"], tmp_path / "disk")
    assert one.folder != two.folder
    assert same(one, store, "case_1")
    assert same(two, other, "case_1")


@contextmanager
def small_files_only(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_cases_that_do_not_fit_are_read_where_they_are(
    store: PreprocessedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
        assert copy_to_scratch(store, CASES, tmp_path / "disk") is store
    (line,) = caplog.messages
    assert "3 cases do not fit" in line
    assert "1.0 kB are free" in line
    assert str(store.folder) in line
    caplog.clear()
    with small_files_only(8000):  # the disk becomes full while they are copied
        assert copy_to_scratch(store, CASES, tmp_path / "disk") is store
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "ulimit -f" in line
    left = next((tmp_path / "disk").glob("*/Dataset001_X-plans_3d-*"))
    assert not [file for file in left.iterdir() if file.name != ".lock"]
    assert copy_to_scratch(store, CASES, tmp_path / "disk").folder == left  # when there is room again


@pytest.mark.parametrize("place", ["a file", "no right to write", "of another user", "a link"])
def test_a_place_that_cannot_be_used_is_a_warning(
    store: PreprocessedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    disk = tmp_path / "disk"
    own = disk / f"segflow-{os.getuid()}"
    if place == "a file":
        disk.write_text("")
    elif place == "no right to write":
        disk = Path("/proc/segflow")
    elif place == "of another user":
        own.mkdir(parents=True)
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(own, 12345, 12345)
    else:
        disk.mkdir()
        own.symlink_to(tmp_path)
    assert copy_to_scratch(store, CASES, disk) is store
    (line,) = caplog.messages
    assert f"paths.scratch={disk} cannot be used" in line


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_damaged_original_is_told(store: PreprocessedStore, tmp_path: Path, harm: str) -> None:
    file = store.folder / "case_2.b2nd"
    if harm == "gone":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(SegflowError, match="case 'case_2'"):
        copy_to_scratch(store, CASES, tmp_path / "disk")
    near = next((tmp_path / "disk").glob("*/Dataset001_X-plans_3d-*"))
    assert not (near / "case_2.json").exists()


SCRIPT = """
import logging, sys
from pathlib import Path
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.scratch import copy_to_scratch
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
store = PreprocessedStore(Path(sys.argv[1]))
print(copy_to_scratch(store, store.case_ids(), Path(sys.argv[2])).folder)
"""


def test_several_jobs_at_once_share_one_copy(store: PreprocessedStore, tmp_path: Path) -> None:
    for number in range(20):
        write_case(store, f"more_{number}", number)
    command = [sys.executable, "-c", SCRIPT, str(store.folder), str(tmp_path / "disk")]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert sum("copying 23 of 23 cases" in output for output in outputs) == 1
    assert sum("all 23 cases are already in" in output for output in outputs) == 2


def test_a_job_killed_while_it_copies_holds_up_nobody(store: PreprocessedStore, tmp_path: Path) -> None:
    pipe = store.folder / "case_2_locations.npy"  # reading it never ends, so the job hangs with the lock
    whole = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    command = [sys.executable, "-c", SCRIPT, str(store.folder), str(tmp_path / "disk")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        end = time.monotonic() + 120
        while not list((tmp_path / "disk").glob("*/*/case_1.json")) and time.monotonic() < end:
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
    pipe.unlink()
    pipe.write_bytes(whole)
    near = copy_to_scratch(PreprocessedStore(store.folder), CASES, tmp_path / "disk")
    assert all(same(store, near, case_id) for case_id in CASES)


def test_the_copy_of_other_properties_is_not_trusted(store: PreprocessedStore, tmp_path: Path) -> None:
    near = copy_to_scratch(store, CASES, tmp_path / "disk")
    marker = near.properties_file("case_1")
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"channels": 9}))
    again = copy_to_scratch(store, CASES, tmp_path / "disk")
    assert PreprocessedStore(again.folder).open("case_1").channels == 1
