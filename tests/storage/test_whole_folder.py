"""A folder is there when it is complete, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.storage.whole_folder import folder_written_whole


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with folder_written_whole(folder) as partial:
        (partial / "a.txt").write_text("a")
        assert not folder.exists()
    assert (folder / "a.txt").read_text() == "a"
    assert [child.name for child in folder.parent.iterdir()] == ["data"]


def write(folder: Path, then: Callable[[], object]) -> None:
    with folder_written_whole(folder) as partial:
        (partial / "a.txt").write_text("mine")
        then()


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), SegflowError("stop")])
def test_nothing_is_left_after_a_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / "data", lambda: fail(error))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_disk_is_reported_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceError, match=r"cannot write .*data: No space left.*; found .* free. Make room"):
        write(tmp_path / "data", lambda: fail(OSError(28, "No space left on device")))


def test_a_folder_that_somebody_else_made_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def somebody_else() -> None:
        folder.mkdir()
        (folder / "a.txt").write_text("theirs")

    with pytest.raises(FileExistsError):
        write(folder, somebody_else)
    assert (folder / "a.txt").read_text() == "theirs"
    assert [child.name for child in tmp_path.iterdir()] == ["data"]
