"""A file that is stamped and then read is opened once, and is never another file than the one at its path."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.storage.file_stamps import stamp_file
from segflow.storage.regular_files import open_regular, stamped_files_stay_open


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened since."""
    names: list[str] = []
    original = os.open

    def counted(path: str | Path, *arguments: object, **more: object) -> int:
        names.append(Path(path).name)
        return original(path, *arguments, **more)

    monkeypatch.setattr(os, "open", counted)
    return names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "image.nii"
    path.write_bytes(b"first")
    return path


def content(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read()


def test_opened_once_between_stamp_and_reading(file: Path, opened: list[str]) -> None:
    with stamped_files_stay_open():
        stamp = stamp_file(file)
        assert content(file) == b"first"
        assert opened == [file.name]
        assert content(file) == b"first"
    assert opened == [file.name] * 2
    assert stamp_file(file) == stamp


def test_taken_by_another_thread(file: Path, opened: list[str]) -> None:
    with stamped_files_stay_open():
        stamp_file(file)
        reader = threading.Thread(target=content, args=(file,))
        reader.start()
        reader.join()
        assert opened == [file.name]


def test_a_replaced_file_is_opened_anew(file: Path) -> None:
    with stamped_files_stay_open():
        stamp_file(file)
        new = file.with_name("new")
        new.write_bytes(b"second, and longer")
        os.replace(new, file)
        assert content(file) == b"second, and longer"


def test_a_file_changed_in_place_is_read_as_it_is(file: Path) -> None:
    with stamped_files_stay_open():
        before = stamp_file(file)
        file.write_bytes(b"other")
        assert content(file) == b"other"
        assert stamp_file(file)["digest"] != before["digest"]


def test_a_deleted_file_is_missing(file: Path) -> None:
    with stamped_files_stay_open():
        stamp_file(file)
        file.unlink()
        with pytest.raises(SegflowError, match=r"image\.nii"):
            open_regular(file)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux only")
def test_nothing_stays_open_behind_the_block(tmp_path: Path) -> None:
    folder = tmp_path / "image.zarr"
    folder.mkdir()
    for number in range(100):
        (tmp_path / f"{number}.nii").write_bytes(b"voxels")
        (folder / str(number)).write_bytes(b"chunk")
    before = len(os.listdir("/proc/self/fd"))
    with suppress(KeyError), stamped_files_stay_open():
        stamp_file(folder)
        assert len(os.listdir("/proc/self/fd")) == before  # a folder has any number of files
        for number in range(100):
            stamp_file(tmp_path / f"{number}.nii")
        assert before < len(os.listdir("/proc/self/fd")) < before + 70
        raise KeyError
    assert len(os.listdir("/proc/self/fd")) == before
