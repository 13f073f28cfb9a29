"""Full disks during a training. The next writer meets them: a logger, a callback, or Lightning at its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import system_error


@contextmanager
def full_disk_told_once(folder: Path) -> Iterator[None]:
    """Turn all errors that a full disk causes in the block into one.

    Loggers wrap the system's error in their own, and TensorBoard's thread prints it before its next call raises it.

    Args:
        folder: Folder of the fold, for the message.

    Raises:
        NoSpaceError: The disk is full.
    """
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    except SegflowError:
        raise
    except Exception as error:
        refused = _first_refusal(error, folder)
        if refused is None:
            raise
        raise refused from error
    finally:
        threading.excepthook = before


def _first_refusal(error: BaseException | None, folder: Path) -> NoSpaceError | None:
    first = None
    while error is not None:
        if isinstance(error, OSError):
            told: BaseException = system_error(error, f"cannot write into {folder}", place=folder)
        else:
            told = error
        first = told if isinstance(told, NoSpaceError) else first
        error = error.__cause__ or error.__context__
    return first
