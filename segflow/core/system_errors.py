"""Refusals of the operating system in plain words: no space, too many open files, no permission.

An `OSError` says which call failed and why. It never says that a file is damaged.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from segflow.core.errors import NoSpaceError, SegflowError

_PROBE_BYTES = 2**20

_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS}
_GOES_ON = "To continue, run the same command again; finished work is kept."
_FIXES = {
    errno.ENOSPC: f"Make room there, or choose another place. {_GOES_ON}",
    getattr(errno, "EDQUOT", errno.ENOSPC): f"Make room within your quota, or choose another place. {_GOES_ON}",
    errno.EROFS: "The place is mounted read-only: choose another.",
    errno.EFBIG: "The file system, or ulimit -f, allows no file of this size: choose another place.",
    errno.EMFILE: "This process may not open more files: raise the limit with ulimit -n, or use fewer processes.",
    errno.ENFILE: "The machine cannot open more files: end other programs, or use fewer processes.",
    errno.ENOMEM: "Memory ran out: use fewer processes, or a larger machine.",
    errno.EACCES: "Check the permissions.",
    errno.EPERM: "Check the permissions.",
    errno.EIO: "The disk or the network reports an error: the file itself may be undamaged. Try again.",
    getattr(errno, "ESTALE", errno.EIO): "The network's file system lost the file, which may be undamaged. Try again.",
}


def system_error(
    error: OSError, doing: str | None = None, *, place: Path | None = None, needed: int | None = None
) -> SegflowError:
    """An error that says what the system refused, and what to do about it.

    Args:
        error: The system's error.
        doing: What failed, such as ``cannot write /data/x.nii.gz``; None takes the file that the error names.
        place: Folder that was written to. If space ran out, the message says how much is free there.
        needed: Upper limit of the bytes to write, if known.

    Returns:
        A `NoSpaceError` if nothing more can be written there, else a `SegflowError`.
    """
    reason = error.strerror or str(error) or type(error).__name__
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else None
    problem = f"{doing}: {reason}" if doing else f"{name}: {reason}" if name else f"the system refuses: {reason}"
    fix = _FIXES.get(error.errno or 0)
    if error.errno not in _SPACE:
        return SegflowError(problem, fix=fix)
    where = place or (Path(name).parent if name else None)
    found = None if where is None or error.errno == errno.EROFS else _free(where)
    expected = None if needed is None or found is None else f"{size_text(needed)} at most"
    return NoSpaceError(problem, found=found, expected=expected, fix=fix)


def hidden_error(place: Path) -> OSError | None:
    """The system's error if a folder can no longer be written to. Some libraries only say that they failed."""
    try:
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return error
    return None


def size_text(size: int) -> str:
    """A number of bytes as text: ``0 B``, ``3.2 MB``, …"""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _free(place: Path) -> str | None:
    try:
        return f"{size_text(shutil.disk_usage(place).free)} free"
    except OSError:
        return None
