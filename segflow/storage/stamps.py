"""Stamps: records of how each derived file was made.

A stamp says by which step and version a result was made, with which settings, from which files (size, time and
content), and what was written. A result is *done* if it exists and its stamp equals the one that would be written
today. Every other result is made anew. The stamps of a folder lie in its ``.segflow``: a JSON file for each result,
with the name of the result's main file. They also mark what segflow wrote; other files belong to the user and are
never replaced.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.core.wording import some
from segflow.storage.file_stamps import FileStamp, Origin, is_same_file, stamp_file
from segflow.storage.folder_files import images_within, move_image, remove_image
from segflow.storage.json_files import process_mark, read_json, write_json
from segflow.storage.links import is_below, within

STAMPS_FOLDER = ".segflow"
MAKING_PREFIX = ".making-"
"""Mark in the names of folders with unfinished results."""
FORMAT = 1
MISSING = "no file"
"""Why a result is not done: it was never made."""
UNKNOWN = "not known what from"
"""Why a result is not done: it has no stamp, such as one from a version that wrote none."""

ANOTHER_FOLDER = "Choose another output, or move them away."

logger = logging.getLogger(__name__)


class StampedFolder:
    """A folder of results, each with its stamp.

    A result has the name of its main file, and may consist of several files in and below the folder.

    Args:
        path: The folder. It is made or read only when a method needs it.
        remember: Read each stamp only once. Use it where nobody else writes meanwhile.
    """

    def __init__(self, path: Path, *, remember: bool = False) -> None:
        self.path = path
        self._known: dict[str, dict[str, Any] | None] | None = {} if remember else None

    def stamp_of(self, name: str) -> dict[str, Any] | None:
        """The stamp of a result; None if it is missing or cannot be read."""
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
        """Why a result must be made anew; None if it is done.

        Args:
            name: The result.
            origin: The origin that it should have.
            files: Files that it must have, at least.
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
        """Existing files that segflow did not write, or that were changed since.

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
        """Refuse to replace files that are not segflow's.

        Args:
            files: Name of a result → its files.
            documents: Names of further files that only need a stamp, since several processes may replace them at once.

        Raises:
            SegflowError: There are such files. The error names them.
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

    def discard(self, *names: str) -> None:
        """Delete results and their stamps, except files that segflow did not write.

        Raises:
            SegflowError: A file cannot be deleted.
        """
        try:
            for name in names:
                self._discard_one(name)
            self._clear_unfinished(set(names))
        except OSError as error:
            raise system_error(error, f"cannot delete what is out of date in {self.path}", place=self.path) from error

    def _discard_one(self, name: str) -> None:
        stamp = self.stamp_of(name)
        for file, written in (self._outputs(stamp) if stamp else {}).items():
            if is_same_file(file, written):
                remove_image(file)  # another process may discard the same
        if self._stamp_file(name).exists():
            self._stamp_file(name).unlink(missing_ok=True)

    def _clear_unfinished(self, names: set[str]) -> None:
        """Delete what killed processes left of these results. The folder is listed once for all of them."""
        home = self.path / STAMPS_FOLDER
        if names and home.is_dir():
            for left in home.glob(f"{MAKING_PREFIX}*"):
                _, _, name = left.name.removeprefix(MAKING_PREFIX).partition("-")
                if name in names:
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def written(self, name: str, origin: Origin, inputs: Mapping[str, FileStamp] | None = None) -> Iterator[Path]:
        """Yield a temporary folder for the files of a result; stamp them and move them in if the block succeeds.

        The stamp is moved first. If the process ends in between, the files that arrived are known to be segflow's. The
        result is done when all its files have arrived.

        Args:
            name: The result.
            origin: Its origin.
            inputs: Stamps of the origin's files, taken before they were read. None takes them now.

        Raises:
            NoSpaceError: The disk is full or read-only.
            SegflowError: The folder cannot be written, or a folder in it is a link that leads out of it.
        """
        inputs = origin.stamp_inputs() if inputs is None else inputs
        home = self._inside(self.path / STAMPS_FOLDER)
        staging = home / f"{MAKING_PREFIX}{process_mark()}-{name}"
        try:
            shutil.rmtree(staging, ignore_errors=True)  # left by a killed process with the same mark
            staging.mkdir(parents=True)
            yield staging
            files = sorted(
                images_within(staging),
                key=lambda file: (file.name == name, str(file)),  # the main file last, since others look for it
            )
            self._write_stamp(name, origin, inputs, {file.relative_to(staging): file for file in files})
            for file in files:
                target = self.path / file.relative_to(staging)
                self._inside(target.parent).mkdir(parents=True, exist_ok=True)
                move_image(file, target)
        except SegflowError as error:
            raise error.moved(staging, self.path) from error.__cause__
        except OSError as error:
            raise system_error(error, f"cannot write {self.path / name}", place=self.path) from error
        finally:
            _clear(staging)

    def _write_stamp(
        self, name: str, origin: Origin, inputs: Mapping[str, FileStamp], files: Mapping[Path, Path]
    ) -> None:
        outputs = {}
        for relative, file in files.items():
            stamp = stamp_file(file)
            del stamp["change_ns"]  # moving the file changes this time
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
        """The files that a stamp names. Files outside the folder are ignored, since a stamp may come from elsewhere."""
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


def _clear(staging: Path) -> None:
    """Delete a temporary folder, which is empty if all went well. Then it need not be listed."""
    try:
        staging.rmdir()
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)


def say_why(what: str, reasons: Mapping[str, str], total: int) -> None:
    """Log one line that counts results to be made anew and says why. Nothing is logged if all were never made.

    Args:
        what: The results in the plural, such as ``predictions``.
        reasons: Name → reason; see `StampedFolder.why_stale`.
        total: Number of all results.
    """
    counts = Counter(reason for reason in reasons.values() if reason != MISSING)
    if counts:
        text = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
        logger.warning("%d of %d %s are made anew: %s", counts.total(), total, what, text)
