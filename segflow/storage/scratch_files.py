"""Files for what does not fit into memory. They have no name, so that they vanish with the process, however it ends."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import size_text, system_error
from segflow.storage.json_files import TEMPORARY_PREFIX

SPARE = 1 << 26
"""Bytes of a disk that are left free."""


def scratch_file(needed: int, subject: str, folder: Path | None = None) -> BinaryIO:
    """An empty file to read and write, which is deleted when it is closed.

    Args:
        needed: Bytes that will be written.
        subject: What needs them, for messages.
        folder: Where it lies; None takes the system's folder for temporary files (TMPDIR).

    Raises:
        SegflowError: The disk has less space, or the folder cannot be written to.
    """
    place = Path(tempfile.gettempdir()) if folder is None else folder
    try:
        free = shutil.disk_usage(place).free
        if free >= needed + SPARE:
            return cast(BinaryIO, tempfile.TemporaryFile(dir=place, prefix=TEMPORARY_PREFIX))
    except OSError as error:
        raise system_error(error, f"{subject} needs a temporary file in {place}") from error
    # Not a NoSpaceError: another image may need less.
    raise SegflowError(
        f"{subject} needs more temporary space than {place} has",
        found=f"{size_text(free)} free",
        expected=size_text(needed + SPARE),
        fix="Make room there"
        + (", or name another folder in the environment variable TMPDIR." if folder is None else "."),
    )


def check_space(folder: Path, needed: int, file: Path) -> None:
    """Refuse a file that is larger than the free space, before work on it begins.

    Args:
        folder: A folder on the disk; it exists.
        needed: Bytes of the file.
        file: Named in the error.

    Raises:
        NoSpaceError: The disk has less space.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpaceError(
            f"cannot write {file}: it is larger than the free space",
            found=f"{size_text(free)} free",
            expected=size_text(needed),
            fix="Make room there, or choose another place.",
        )
