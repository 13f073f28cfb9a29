"""Folders written whole or not at all: filled under a temporary name, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.system_errors import hidden_error, system_error
from segflow.storage.json_files import TEMPORARY_PREFIX


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``, and rename it to ``folder`` when the block succeeds.

    On any failure, Ctrl-C included, the temporary folder is removed.

    Args:
        folder: Must not exist. Its parent is made where it is missing.

    Raises:
        FileExistsError: Somebody else made ``folder`` meanwhile.
        NoSpaceError: The disk is full or read-only, whatever the library made of it.
        SegflowError: The folder cannot be written; names it and says why.
    """
    temporary = folder.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{folder.name}")
    try:
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # left by a process of this number that was killed
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                raise FileExistsError(folder)
            temporary.rename(folder)
        except FileExistsError:
            raise
        except SegflowError as error:  # of a file in it
            raise error.moved(temporary, folder) from error.__cause__
        except Exception as error:
            if isinstance(error, OSError) and folder.exists():
                raise FileExistsError(folder) from error
            refused = error if isinstance(error, OSError) else hidden_error(temporary)
            if refused is None:
                raise
            shutil.rmtree(temporary, ignore_errors=True)  # before the free space is looked at
            raise system_error(refused, f"cannot write {folder}", place=folder.parent) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
