"""Folders written as a whole or not at all: filled under a temporary name, then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.system_errors import hidden_error, system_error
from segflow.storage.json_files import TEMPORARY_PREFIX, process_mark


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``, and rename it to ``folder`` if the block succeeds.

    On any failure, and on Ctrl-C, the temporary folder is removed.

    Args:
        folder: Must not exist. Its parent is made if it is missing.

    Raises:
        FileExistsError: Somebody else made ``folder`` meanwhile.
        NoSpaceError: The disk is full or read-only, whatever error the library raised.
        SegflowError: The folder cannot be written. The error names it and the reason.
    """
    temporary = folder.with_name(f"{TEMPORARY_PREFIX}{process_mark()}-{folder.name}")
    try:
        try:
            shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process with the same number
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                raise FileExistsError(folder)
            temporary.rename(folder)
        except FileExistsError:
            raise
        except SegflowError as error:  # about a file in it
            raise error.moved(temporary, folder) from error.__cause__
        except Exception as error:
            if isinstance(error, OSError) and folder.exists():
                raise FileExistsError(folder) from error
            refused = error if isinstance(error, OSError) else hidden_error(temporary)
            if refused is None:
                raise
            shutil.rmtree(temporary, ignore_errors=True)  # before the free space is measured
            raise system_error(refused, f"cannot write {folder}", place=folder.parent) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
