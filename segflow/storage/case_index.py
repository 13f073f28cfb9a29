"""An index of prepared cases: the content of all their JSON files in one file, read with one listing of the folder.

A training looks at the properties of every case when it starts. Opening tens of thousands of small files takes long on
the file systems of a network. The index is never trusted over the files: an entry counts only while its JSON file has
the size and time that it had. What is missing, out of date or damaged is read from the JSON files, so the index may be
deleted at any time. Of several processes that write it at once the last one wins, and what it lacks is read again.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.names import why_unsafe
from segflow.core.system_errors import system_error
from segflow.storage.case_facts import CaseFacts, facts_of
from segflow.storage.json_files import TEMPORARY_PREFIX, read_json, written_whole
from segflow.storage.open_files import OpenFiles
from segflow.storage.regular_files import open_regular
from segflow.storage.stored_case import StoredCase

INDEX_FILE = ".cases.index"
"""Name within the folder. Its first line has the format and a checksum of the rest. Each further line is an entry:
name, size and time of the JSON file, the case's facts and the file's content, separated by tabs."""

ENDING = ".json"
TOO_RECENT_NS = 2 * 10**9
"""Coarsest time step of a file system. A file may be changed twice within it and keep its time, so an entry of a file
that was not older than this when the index was written does not count."""

_FORMAT = b"segflow cases 2 "
_LARGEST_BYTES = 1 << 30

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileState:
    """By what a changed file is noticed.

    Attributes:
        size: Bytes.
        time_ns: Time of the last change of its content.
        inode: Number of the file in its file system, which is not kept in the index; 0 if the system has none. A file
            that takes the place of another one has another number, even within one time step.
    """

    size: int
    time_ns: int
    inode: int = field(default=0, compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(slots=True)
class CaseIndex:
    """The cases of a folder, as they were when it was listed.

    Attributes:
        states: Case → state of its JSON file, for all cases.
        unfinished: Names of files that killed or running processes have not finished.
    """

    states: dict[str, FileState]
    unfinished: tuple[str, ...] = ()
    _lines: dict[str, bytes] = field(default_factory=dict)
    _read_since: dict[str, tuple[FileState, bytes]] = field(default_factory=dict)

    @classmethod
    def listed(cls, folder: Path) -> CaseIndex:
        """List a folder, without looking into its files. There are no cases in a folder that does not exist.

        Raises:
            SegflowError: The folder cannot be listed.
        """
        states: dict[str, FileState] = {}
        unfinished: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(TEMPORARY_PREFIX):
                        unfinished.append(entry.name)
                    elif _is_of_case(entry.name) and (state := _state_of(entry)) is not None:
                        states[entry.name.removesuffix(ENDING)] = state
        except FileNotFoundError:
            pass
        except OSError as error:
            raise system_error(error, f"cannot list {folder}") from error
        return cls(dict(sorted(states.items())), tuple(sorted(unfinished)))

    @classmethod
    def of(cls, folder: Path, before: CaseIndex | None = None) -> CaseIndex:
        """List a folder, and read what the index lacks from the JSON files. The index is written if it was incomplete.

        Args:
            folder: With the cases.
            before: An earlier index of it. What was read since by `read_since` is not read again.

        Raises:
            SegflowError: The folder cannot be listed.
        """
        index = cls.listed(folder)
        current, others = _stored(folder / INDEX_FILE, index.states)
        lacking = [name for name in index.states if name not in current]
        since = {} if before is None else before._still_current(index.states)
        read = {name: since.get(name) or _line_of(folder, name) for name in lacking}
        added = {name: line for name, line in read.items() if line is not None}
        index._lines = current | added
        if added or others:
            index._write(folder / INDEX_FILE)
        return index

    def read_since(self, folder: Path, case_id: str) -> None:
        """Read a case that was just written, for the next index. This one is still of the time when it was listed."""
        try:
            state = FileState.of((folder / f"{case_id}{ENDING}").stat())  # before it is read: a later change is seen
        except OSError:
            return
        line = _line_of(folder, case_id)
        if line is not None and state.inode:
            self._read_since[case_id] = (state, line)

    def _still_current(self, states: Mapping[str, FileState]) -> dict[str, bytes]:
        """What was read since of files that have not changed."""
        return {
            name: line
            for name, (state, line) in self._read_since.items()
            if states.get(name) == state and states[name].inode == state.inode
        }

    def properties(self, case_id: str) -> Any:
        """The content of a case's JSON file, as a value of its own; None if it is not known or could not be read."""
        return self._part(case_id, 1)

    def facts(self, case_id: str) -> CaseFacts | None:
        """The facts of a case; None if they are not known."""
        known = self._part(case_id, 0)
        try:
            return None if known is None else CaseFacts.from_json(known)
        except (TypeError, ValueError):  # see `_part`
            return None

    def _part(self, case_id: str, number: int) -> Any:
        line = self._lines.get(case_id)
        try:
            return None if line is None else json.loads(line.split(b"\t")[number])
        except (ValueError, RecursionError, IndexError):  # an index that segflow did not write
            return None

    def forget(self, case_id: str) -> None:
        """Leave out a case whose files are about to change."""
        for known in (self.states, self._lines, self._read_since):
            known.pop(case_id, None)

    def _write(self, file: Path) -> None:
        """Write the index, or leave it where that is not possible, since it only saves time."""
        checksum = 0
        for entry in self._entries():
            checksum = zlib.crc32(entry, checksum)
        try:
            with written_whole(file) as temporary, temporary.open("wb") as stream:
                stream.write(b"%s%08x\n" % (_FORMAT, checksum))
                stream.writelines(self._entries())
        except SegflowError as error:
            _log.debug("the index of cases is not written: %s", error)

    def _entries(self) -> Iterator[bytes]:
        """The lines of the file, one at a time: all of them together take as much memory as the index."""
        for name, line in self._lines.items():
            state = self.states[name]
            yield b"%s\t%d\t%d\t%s\n" % (name.encode(), state.size, state.time_ns, line)


def _is_of_case(name: str) -> bool:
    return name.endswith(ENDING) and not name.startswith(".")


def _state_of(entry: os.DirEntry[str]) -> FileState | None:
    try:
        return FileState.of(entry.stat())
    except OSError:  # just deleted by another process, or a link to nowhere
        return None


def _stored(file: Path, states: Mapping[str, FileState]) -> tuple[dict[str, bytes], int]:
    """The entries of an index that count; none if there is no index or it is damaged.

    Args:
        file: The index. It is read line by line, so that it is in memory only once.
        states: Case → state of its JSON file now.

    Returns:
        Name → facts and content; and the number of other entries.
    """
    current: dict[str, bytes] = {}
    others, checksum = 0, 0
    try:
        with open_regular(file) as stream:
            status = os.fstat(stream.fileno())
            if status.st_size > _LARGEST_BYTES:
                return {}, 0
            head = stream.readline(80)
            for line in stream:
                checksum = zlib.crc32(line, checksum)
                name, state, content = _parts_of(line)
                if states.get(name) == state and state.time_ns < status.st_mtime_ns - TOO_RECENT_NS:
                    current[name] = content
                else:
                    others += 1
    except (SegflowError, OSError, ValueError):  # a line that does not fit is in an index that segflow did not write
        return {}, 0
    return (current, others) if head == b"%s%08x\n" % (_FORMAT, checksum) else ({}, 0)


def _parts_of(entry: bytes) -> tuple[str, FileState, bytes]:
    name, size, time_ns, content = entry.removesuffix(b"\n").split(b"\t", 3)
    return name.decode(), FileState(int(size), int(time_ns)), content


def _line_of(folder: Path, name: str) -> bytes | None:
    """Facts and content of a case's JSON file; None if they cannot be used, of which `PreprocessedStore.open` tells."""
    if why_unsafe(name):
        return None
    try:
        content = read_json(folder / f"{name}{ENDING}")
        facts = facts_of(StoredCase(folder, name, content, OpenFiles(1)))
    except SegflowError:
        return None
    return b"\t".join(json.dumps(part, separators=(",", ":")).encode() for part in (facts.to_json(), content))
