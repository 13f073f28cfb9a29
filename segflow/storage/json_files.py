"""JSON files, and writing of any file as a whole or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import platform
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from segflow.core.errors import UNUSABLE, NoSpaceError, SegflowError
from segflow.core.names import shortened
from segflow.core.system_errors import hidden_error, system_error

Built = TypeVar("Built")

LARGEST_BYTES = 256 << 20
"""Largest JSON file. The largest records list a hundred thousand cases in a tenth of it."""

DEEPEST = 100
"""Deepest nesting of lists and objects."""

LONGEST_REASON = 300

SAVE_AS_UTF8 = "Save it as UTF-8, as every text editor can."
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ()
"""Seconds after each of which a file that is in use may be free."""

TEMPORARY_PREFIX = ".writing-"
"""Mark in the names of unfinished files. No reader takes them for results."""


def process_mark() -> str:
    """A short text that no other process has, on this machine or another that writes into the same folders."""
    return f"{zlib.crc32(f'{platform.node()} {os.getpid()}'.encode()):08x}"[1:]  # as short as a pid, for long names


def replace(source: Path, target: Path) -> None:
    """Rename a file over another. Windows refuses while a process has one of them open, such as a virus scanner, so
    that it is asked again there for some seconds.

    Raises:
        OSError: It is still refused, or for another reason.
    """
    for wait in _WAITS:
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)


@contextmanager
def written_whole(path: Path, *, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to ``path`` if the block succeeds.

    The temporary name has the ending of ``path``, by which writers choose a format. On any failure, such as a full
    disk, the temporary file is removed and an existing ``path`` stays as it was.

    Args:
        path: The file to write. Its folder is made if it is missing.
        needed: Upper limit of its bytes, for the message about a full disk; None if unknown.

    Raises:
        NoSpaceError: The disk is full or read-only, whatever error the library raised.
        SegflowError: The folder or the file cannot be written. The error names it and the reason.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{process_mark()}-{path.name}")
    renamed = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # if it is a link, writing would change its target
        yield temporary
        replace(temporary, path)
        renamed = True
    except NoSpaceError:
        raise
    except Exception as error:
        refused = error if isinstance(error, OSError) else hidden_error(path.parent)
        if refused is None:
            raise
        with suppress(OSError):  # before the free space is measured
            temporary.unlink(missing_ok=True)
        raise system_error(refused, f"cannot write {path}", place=path.parent, needed=needed) from error
    finally:
        if not renamed:
            with suppress(OSError):  # a second error here would hide the first
                temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is written bare, as nnU-Net does."""
    _write_text(path, json.JSONEncoder(indent=4, sort_keys=sort_keys, ensure_ascii=False).iterencode(value))


def write_json_lines(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a line for each key, atomically. It is several times as quick as indenting."""
    _write_text(path, _lines_of(value))


def _lines_of(value: Mapping[str, Any]) -> Iterator[str]:
    yield "{"
    for number, (key, part) in enumerate(value.items()):
        yield f"{',' if number else ''}\n    {json.dumps(key)}: {json.dumps(part, ensure_ascii=False)}"
    yield "\n}"


def _write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write a text piece by piece: the scores of many cases as text take several times the memory of their values."""
    # JSON may escape half a UTF-16 pair, which UTF-8 cannot hold; it is escaped again.
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.writelines(pieces)
        stream.write("\n")


def read_json(path: Path, fix: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        fix: Advice if it is missing, such as the command that makes it.

    Raises:
        SegflowError: The file is missing, unreadable or not JSON.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            raise SegflowError(f"{path} is not a regular file", fix=fix)
        if status.st_size > LARGEST_BYTES:
            raise SegflowError(
                f"{path} is too large for a record",
                found=f"{status.st_size >> 20} MiB",
                expected=f"at most {LARGEST_BYTES >> 20} MiB",
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise SegflowError(f"there is no {path}", fix=fix) from None
    except OSError as error:
        raise system_error(error, f"cannot read {path}") from error
    return parse_json(path, content, fix)


def parse_json(name: object, content: bytes, fix: str | None = None) -> Any:
    """The value of an untrusted JSON text.

    Args:
        name: Its name in messages, such as the file's path.
        content: The text.
        fix: Advice if it cannot be used.

    Raises:
        SegflowError: It is not JSON, or is nested too deeply or too large.
    """
    try:
        value = json.loads(_text(content, name))
    except SegflowError:
        raise
    except json.JSONDecodeError as error:
        raise SegflowError(f"{name} is not valid JSON: {error}", fix=fix) from error
    except UnicodeDecodeError as error:
        raise SegflowError(f"cannot read {name}: its text is not UTF-8", found=error, fix=SAVE_AS_UTF8) from error
    except RecursionError:
        raise _too_deep(name) from None
    except (ValueError, MemoryError) as error:  # ValueError: a number with thousands of digits
        raise SegflowError(f"{name} cannot be read: {error}", fix=fix) from error
    nodes, depth = [value], 0
    while nodes := [child for node in nodes for child in _children(node)]:
        depth += 1
        if depth > DEEPEST:
            raise _too_deep(name)
    return value


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _too_deep(name: object) -> SegflowError:
    return SegflowError(f"{name}: its lists and objects are nested too deeply", expected=f"at most {DEEPEST}")


def _text(content: bytes, name: object) -> str:
    """The text of a JSON file: UTF-8, with or without a byte order mark.

    Raises:
        SegflowError: Its first bytes show another encoding.
        UnicodeDecodeError: It is not UTF-8.
    """
    encoding = json.detect_encoding(content) if content.strip(b"\0") else "utf-8"
    if not encoding.startswith("utf-8"):
        raise SegflowError(
            f"cannot read {name}: its text is in another encoding",
            found=encoding.upper(),
            expected="UTF-8",
            fix=SAVE_AS_UTF8,
        )
    return content.decode(encoding)


def read_json_as(path: Path, build: Callable[[Any], Built], fix: str | None = None) -> Built:
    """Read a JSON file and build an object from it, such as a record of segflow's.

    Args:
        path: The file.
        build: Makes the object from the file's content; its errors say what is wrong.
        fix: Advice if the file is missing or cannot be used.

    Raises:
        SegflowError: The file is missing, unreadable, not JSON, or its content cannot be used. The error names it.
    """
    return build_as(path, read_json(path, fix), build, fix)


def build_as(name: object, value: Any, build: Callable[[Any], Built], fix: str | None = None) -> Built:
    """Build an object from the content of a file.

    Args:
        name: The file, for messages.
        value: Its content.
        build, fix: See `read_json_as`.

    Raises:
        SegflowError: The content cannot be used. The error names the file.
    """
    try:
        return build(value)
    except SegflowError as error:
        raise error.changed(problem=f"{name}: {error.problem}", fix=error.fix or fix) from error
    except UNUSABLE as error:
        text = shortened(error, LONGEST_REASON)
        raise SegflowError(f"{name} holds something that cannot be used: {text}", fix=fix) from error
