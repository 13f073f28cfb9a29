"""Origins of results (files, settings and a step), and comparison with their stamps."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.storage.folder_files import files_within, names_a_folder
from segflow.storage.regular_files import leave_open, open_anew

FileStamp = dict[str, Any]
"""``bytes``, ``time_ns`` (modification time), ``change_ns`` (the system's time of any change) and ``digest``."""


def stamp_file(path: Path) -> FileStamp:
    """Size, times and digest of a file, or of a folder that is one image.

    Take it before the file is read, so that every later change is seen.

    Raises:
        SegflowError: The file cannot be read.
    """
    try:
        return {**size_and_times(path), "digest": _digest(path)}
    except OSError as error:
        raise system_error(error, f"cannot read {path}") from error


def is_same_file(path: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a file still matches its stamp. Contents are compared only if a time differs, such as after copying.

    Anybody can set the modification time, so the system's time of change counts too, if the stamp has it.
    """
    try:
        status = size_and_times(path)
        if status["bytes"] != stamp["bytes"]:
            return False
        times = [name for name in ("time_ns", "change_ns") if name in stamp]
        return all(status[name] == stamp[name] for name in times) or _digest(path) == stamp["digest"]
    except (SegflowError, OSError, KeyError, TypeError):
        return False


def digest_of(value: Any) -> str:
    """A digest of plain JSON, as a short text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """Everything that a result is made from.

    Attributes:
        way: The step that makes it, such as ``predict``.
        version: Version of that step, raised when the same inputs and settings would give another result.
        settings: Plain JSON of everything that decides the result beside the files; weights are given as a digest.
        inputs: Role → file. The path of a file is not part of the origin.
    """

    way: str
    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)

    def stamp_inputs(self, *, unreadable_too: bool = False) -> dict[str, FileStamp]:
        """The stamps of the files. Take them before the files are read.

        Args:
            unreadable_too: Give a file that cannot be read an empty stamp, which matches no file.

        Raises:
            SegflowError: A file cannot be read.
        """
        stamps = {}
        for role, path in self.inputs.items():
            try:
                stamps[role] = stamp_file(path)
            except SegflowError:
                if not unreadable_too:
                    raise
                stamps[role] = {}
        return stamps

    def difference(self, stamp: Mapping[str, Any]) -> str | None:
        """The difference from a stamp, such as ``another weights``; None if there is none."""
        if (stamp.get("way"), stamp.get("version")) != (self.way, self.version):
            return "made in another way"
        key = self.changed_setting(stamp)
        if key is not None:
            return f"another '{key}'"
        stamped = stamp["inputs"]
        if sorted(stamped) != sorted(self.inputs):
            return "made from other files"
        changed = next((role for role, path in self.inputs.items() if not is_same_file(path, stamped[role])), None)
        return None if changed is None else f"another {_spoken(changed)}"

    def changed_setting(self, stamp: Mapping[str, Any]) -> str | None:
        """The first setting that differs from a stamp's, or None."""
        stamped = stamp["settings"]
        wanted = json.loads(json.dumps(dict(self.settings)))
        names = [*wanted, *(name for name in stamped if name not in wanted)]
        return next((name for name in names if stamped.get(name) != wanted.get(name)), None)


def _spoken(role: str) -> str:
    """``image_0`` → ``image``, ``previous_stage`` → ``previous stage``."""
    return re.sub(r"(_\d+)?(_beside_\d+)?$", "", role).replace("_", " ")


def size_and_times(path: Path) -> dict[str, int]:
    """``bytes``, ``time_ns`` and ``change_ns`` of a file, or of all files of a folder that is one image.

    Raises:
        OSError: There is no such file.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode) and names_a_folder(path.name):
        found = [file.stat() for file in files_within(path)]
        return {
            "bytes": sum(one.st_size for one in found),
            "time_ns": max((one.st_mtime_ns for one in found), default=0),
            "change_ns": max((one.st_ctime_ns for one in found), default=0),
        }
    return {"bytes": status.st_size, "time_ns": status.st_mtime_ns, "change_ns": status.st_ctime_ns}


def _digest(path: Path) -> str:
    if names_a_folder(path.name) and path.is_dir():
        return digest_of([[file.relative_to(path).as_posix(), _digest_of_file(file)] for file in files_within(path)])
    stream = open_anew(path)
    try:
        found = _digest_of_stream(stream)
    except BaseException:
        stream.close()
        raise
    leave_open(path, stream)
    return found


def _digest_of_file(path: Path) -> str:
    with open_anew(path) as file:  # a pipe with an image's name would never end
        return _digest_of_stream(file)


def _digest_of_stream(file: BufferedReader) -> str:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
