"""JSON and every other file written whole or not at all: under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from segflow.core.errors import UNUSABLE, NoSpaceError, SegflowError
from segflow.core.names import shortened
from segflow.core.system_errors import hidden_error, system_error

Built = TypeVar("Built")

LARGEST_BYTES = 256 << 20
"""Of a JSON file. The largest records list a hundred thousand cases in a tenth of it."""

DEEPEST = 100
"""Lists and objects within each other."""

LONGEST_REASON = 300

SAVE_AS_UTF8 = "Save it as UTF-8, as every text editor can."
TEMPORARY_PREFIX = ".writing-"
"""Files of this name were being written when something ended; no reader takes them for a result."""


@contextmanager
def written_whole(path: Path, *, needed: int | None = None) -> Iterator[Path]:
    """Give a temporary path in the same folder, and rename it to ``path`` when the block succeeds.

    The temporary name keeps the ending of ``path``, which writers choose their format by. On any failure, a full
    disk included, the temporary file is removed and an earlier ``path`` stays as it was.

    Args:
        path: Where the file shall be. Its folder is made where it is missing.
        needed: Bytes that it takes at most, for the message about a full disk; None where that is not known.

    Raises:
        NoSpaceError: The disk is full or read-only, whatever the library made of it.
        SegflowError: The folder or the file cannot be written; names it and says why.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link of this name would be written through
        yield temporary
        os.replace(temporary, path)
    except NoSpaceError:
        raise
    except Exception as error:
        refused = error if isinstance(error, OSError) else hidden_error(path.parent)
        if refused is None:
            raise
        with suppress(OSError):  # before the free space is looked at
            temporary.unlink(missing_ok=True)
        raise system_error(refused, f"cannot write {path}", place=path.parent, needed=needed) from error
    finally:
        with suppress(OSError):  # a second error here would hide the first
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is written bare, as nnU-Net does."""
    text = json.dumps(value, indent=4, sort_keys=sort_keys, ensure_ascii=False)
    with written_whole(path) as temporary:
        # Half a pair of UTF-16, which JSON may spell and UTF-8 may not hold, is spelt again as JSON spells it.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: Path, fix: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        fix: What a user should do where it is missing, such as the command that makes it.

    Raises:
        SegflowError: The file is missing, unreadable or not JSON.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would never end
            raise SegflowError(f"{path} is no regular file", fix=fix)
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
    """The value that a JSON text of any origin means.

    Args:
        name: What to call it in messages, such as the file's path.
        content: The text.
        fix: What a user should do where it cannot be used.

    Raises:
        SegflowError: It is not JSON, or too deep or too large to be taken in.
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
    except (ValueError, MemoryError) as error:  # the former of a number with thousands of digits
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
    return SegflowError(f"{name}: its lists and objects lie too deep within each other", expected=f"at most {DEEPEST}")


def _text(content: bytes, name: object) -> str:
    """The text of a JSON file, which is UTF-8, with or without the mark that some editors put before it.

    Raises:
        SegflowError: It is in another encoding that can be told by its first bytes.
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
    """Read a JSON file and build what it describes, such as a record of ours.

    Args:
        path: The file.
        build: Makes it from the file's content, and says what is wrong with that.
        fix: What a user should do where the file is missing or cannot be used.

    Raises:
        SegflowError: The file is missing, unreadable, not JSON, or its content cannot be used; names the file.
    """
    return build_as(path, read_json(path, fix), build, fix)


def build_as(name: object, value: Any, build: Callable[[Any], Built], fix: str | None = None) -> Built:
    """Build what a file's content describes.

    Args:
        name: The file, for messages.
        value: Its content.
        build, fix: See `read_json_as`.

    Raises:
        SegflowError: The content cannot be used; names the file.
    """
    try:
        return build(value)
    except SegflowError as error:
        raise error.changed(problem=f"{name}: {error.problem}", fix=error.fix or fix) from error
    except UNUSABLE as error:
        text = shortened(error, LONGEST_REASON)
        raise SegflowError(f"{name} holds something that cannot be used: {text}", fix=fix) from error
