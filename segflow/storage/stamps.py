"""What made this file: a stamp for everything that is derived from something else.

A stamp says how a result was made (which way, in which version), by which settings, from which files (size, time and
content), and what was written. A result is *done* where it is there and its stamp says what would be said today.
Everything else is made anew. The stamps of a folder lie in its ``.segflow``, a JSON file for each result, under the
name of the result's main file. They also tell what segflow wrote from what is the user's, which is never replaced.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.core.wording import some
from segflow.storage.json_files import read_json, write_json
from segflow.storage.links import is_below, within
from segflow.storage.regular_files import open_regular

STAMPS_FOLDER = ".segflow"
MAKING_PREFIX = ".making-"
"""Folders of this name hold what was being made when a process ended."""
FORMAT = 1
MISSING = "no file"
"""The reason of a result that was never made."""
UNKNOWN = "not known what from"
"""The reason of a result without a stamp, such as one of a segflow that wrote none."""

ANOTHER_FOLDER = "Choose another output, or move them away."

logger = logging.getLogger(__name__)

FileStamp = dict[str, Any]
"""``bytes``, ``time_ns`` of the last change, ``change_ns`` of the last change of any kind, and ``digest``."""


def stamp_file(path: Path) -> FileStamp:
    """Size, times and content of a file. Take it before the file is read, so that no later change goes unseen.

    Raises:
        SegflowError: The file cannot be read.
    """
    try:
        return {**_status(path), "digest": _digest(path)}
    except OSError as error:
        raise system_error(error, f"cannot read {path}") from error


def is_same_file(path: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a file is what a stamp says. Contents are compared only where a time differs, such as after copying.

    The time of the last change can be set by anybody, so that the system's own time of change counts too, as far as
    the stamp has it.
    """
    try:
        status = _status(path)
        if status["bytes"] != stamp["bytes"]:
            return False
        times = [name for name in ("time_ns", "change_ns") if name in stamp]
        return all(status[name] == stamp[name] for name in times) or _digest(path) == stamp["digest"]
    except (SegflowError, OSError, KeyError, TypeError):
        return False


def digest_of(value: Any) -> str:
    """A short text that stands for plain JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a result is made from.

    Attributes:
        way: What makes it, such as ``predict``.
        version: Raised when the same inputs and settings begin to make another result.
        settings: What decides it beside the files, as plain JSON; weights as a digest.
        inputs: What each file is to it → the file. Where the file lies is no part of the origin.
    """

    way: str
    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)

    def stamp_inputs(self, *, unreadable_too: bool = False) -> dict[str, FileStamp]:
        """The stamps of the files. Take them before the files are read.

        Args:
            unreadable_too: Whether a file that cannot be read gets an empty stamp, which no file is the same as.

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
        """In what a stamp differs, such as ``another weights``; None where it says the same."""
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
        """The first setting in which a stamp differs; None where there is none."""
        stamped = stamp["settings"]
        wanted = json.loads(json.dumps(dict(self.settings)))
        names = [*wanted, *(name for name in stamped if name not in wanted)]
        return next((name for name in names if stamped.get(name) != wanted.get(name)), None)


class StampedFolder:
    """A folder of results, each with its stamp.

    A result has a name, that of its main file, and may consist of several files in the folder and below it.

    Args:
        path: The folder. Nothing is made or read before a method says so.
        remember: Whether each stamp is read once only; for a look at many results in which nobody else writes.
    """

    def __init__(self, path: Path, *, remember: bool = False) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any] | None] | None = {} if remember else None

    def stamp_of(self, name: str) -> dict[str, Any] | None:
        """The stamp of a result; None where there is none, or it cannot be read."""
        if self._known is None:
            return self._read_stamp(name)
        if name not in self._known:
            self._known[name] = self._read_stamp(name)
        return self._known[name]

    def _read_stamp(self, name: str) -> dict[str, Any] | None:
        try:
            stamp = read_json(self._stamp_file(name))
        except SegflowError:
            return None
        if not isinstance(stamp, dict) or stamp.get("format") != FORMAT:
            return None
        return stamp if all(isinstance(stamp.get(part), dict) for part in ("settings", "inputs", "outputs")) else None

    def stamps(self) -> dict[str, dict[str, Any]]:
        """Name → stamp of every result."""
        folder = self.path / STAMPS_FOLDER
        names = [file.name.removesuffix(".json") for file in folder.glob("*.json")] if folder.is_dir() else []
        found = {name: self.stamp_of(name) for name in sorted(names)}
        return {name: stamp for name, stamp in found.items() if stamp is not None}

    def why_stale(self, name: str, origin: Origin, files: Iterable[Path] = ()) -> str | None:
        """Why a result must be made anew; None where it is done.

        Args:
            name: The result.
            origin: What it is to be made from.
            files: What it must consist of, at the least.
        """
        stamp = self.stamp_of(name)
        if stamp is None:
            return UNKNOWN if (self.path / name).exists() else MISSING
        outputs = self._outputs(stamp)
        if any(file not in outputs for file in (self.path / name, *files)):
            return "a file is missing"
        difference = origin.difference(stamp)
        if difference is not None:
            return difference
        other = next((file for file, written in outputs.items() if not is_same_file(file, written)), None)
        if other is None:
            return None
        return "a file was changed" if other.exists() else "a file is missing"

    def foreign(self, files: Mapping[str, Iterable[Path]]) -> list[Path]:
        """Files that are there and are not what segflow wrote: somebody else's, or changed by somebody since.

        Args:
            files: Name of a result → its files.
        """
        found = []
        for name, paths in files.items():
            stamp = self.stamp_of(name)
            outputs = self._outputs(stamp) if stamp else {}
            for path in paths:
                if os.path.lexists(path) and not is_same_file(path, outputs.get(path, {})):
                    found.append(path)
        return found

    def refuse_foreign(self, files: Mapping[str, Iterable[Path]], documents: Iterable[str] = ()) -> None:
        """Refuse to write where something lies that is not segflow's.

        Args:
            files: Name of a result → its files.
            documents: Names of further files, of which no more is asked than that they have a stamp: several processes
                may replace them at a time.

        Raises:
            SegflowError: Names the files that are in the way.
        """
        found = self.foreign(files)
        found += [
            self.path / name for name in documents if os.path.lexists(self.path / name) and self.stamp_of(name) is None
        ]
        if found:
            names = sorted(str(file.relative_to(self.path)) for file in found)
            raise SegflowError(
                f"{self.path} holds files that segflow did not write, or that were changed since; none is replaced",
                found=some(names),
                fix=ANOTHER_FOLDER,
            )

    def discard(self, name: str) -> None:
        """Delete a result, as far as its files are what segflow wrote, and its stamp.

        Raises:
            SegflowError: A file cannot be deleted.
        """
        stamp = self.stamp_of(name)
        try:
            for file, written in (self._outputs(stamp) if stamp else {}).items():
                if is_same_file(file, written):
                    file.unlink()
            if stamp or self._stamp_file(name).exists():
                self._stamp_file(name).unlink()
            for left in (self.path / STAMPS_FOLDER).glob(f"{MAKING_PREFIX}*-{glob.escape(name)}"):
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        except OSError as error:
            raise system_error(error, f"cannot delete what is out of date in {self.path}", place=self.path) from error

    @contextmanager
    def written(self, name: str, origin: Origin, inputs: Mapping[str, FileStamp] | None = None) -> Iterator[Path]:
        """Give a temporary folder for the files of a result; stamp them and move them in when the block succeeds.

        The stamp goes first, so that what arrives is known to be segflow's wherever the process ends. The result is
        done when all its files are there.

        Args:
            name: The result.
            origin: What it is made from.
            inputs: The stamps of the origin's files, from before they were read. None takes them now.

        Raises:
            NoSpaceError: The disk is full or read-only.
            SegflowError: The folder cannot be written, or a folder in it is a link that leads out of it.
        """
        inputs = origin.stamp_inputs() if inputs is None else inputs
        home = self._inside(self.path / STAMPS_FOLDER)
        staging = home / f"{MAKING_PREFIX}{os.getpid()}-{name}"
        try:
            shutil.rmtree(staging, ignore_errors=True)  # left by a process of this number that was killed
            staging.mkdir(parents=True)
            yield staging
            files = sorted(
                (file for file in staging.rglob("*") if file.is_file()),
                key=lambda file: (file.name == name, str(file)),  # the main file last: it is what others look for
            )
            self._write_stamp(name, origin, inputs, {file.relative_to(staging): file for file in files})
            for file in files:
                target = self.path / file.relative_to(staging)
                self._inside(target.parent).mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        except SegflowError as error:
            raise error.moved(staging, self.path) from error.__cause__
        except OSError as error:
            raise system_error(error, f"cannot write {self.path / name}", place=self.path) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _write_stamp(
        self, name: str, origin: Origin, inputs: Mapping[str, FileStamp], files: Mapping[Path, Path]
    ) -> None:
        outputs = {}
        for relative, file in files.items():
            stamp = stamp_file(file)
            del stamp["change_ns"]  # moving it in is a change of the system's kind
            outputs[relative.as_posix()] = stamp
        write_json(
            self._stamp_file(name),
            {
                "format": FORMAT,
                "way": origin.way,
                "version": origin.version,
                "settings": dict(origin.settings),
                "inputs": dict(inputs),
                "outputs": outputs,
            },
        )

    def _stamp_file(self, name: str) -> Path:
        return self.path / STAMPS_FOLDER / f"{name}.json"

    def _outputs(self, stamp: Mapping[str, Any]) -> dict[Path, Mapping[str, Any]]:
        """The files that a stamp names; none outside the folder, whatever a stamp from elsewhere says."""
        found: dict[Path, Mapping[str, Any]] = {}
        for text, written in stamp["outputs"].items():
            relative = PurePosixPath(text)
            if not relative.is_absolute() and ".." not in relative.parts and isinstance(written, Mapping):
                file = self.path / relative
                if is_below(file.parent, self.path):
                    found[file] = written
        return found

    def _inside(self, folder: Path) -> Path:
        return within(self.path, str(folder.relative_to(self.path)))


def say_why(what: str, reasons: Mapping[str, str], total: int) -> None:
    """One line that counts what is made anew, and says why; nothing where there is only what was never made.

    Args:
        what: The results in the plural, such as ``predictions``.
        reasons: Name → why; see `StampedFolder.why_stale`.
        total: How many results there are in all.
    """
    counts = Counter(reason for reason in reasons.values() if reason != MISSING)
    if counts:
        text = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
        logger.warning("%d of %d %s are made anew: %s", counts.total(), total, what, text)


def _spoken(role: str) -> str:
    """``image_0`` → ``image``, ``previous_stage`` → ``previous stage``."""
    return re.sub(r"(_\d+)?(_beside_\d+)?$", "", role).replace("_", " ")


def _status(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "time_ns": status.st_mtime_ns, "change_ns": status.st_ctime_ns}


def _digest(path: Path) -> str:
    with open_regular(path) as file:  # a pipe under an image's name would never end
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
