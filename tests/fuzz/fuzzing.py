"""Damaged and hostile inputs for readers, and what counts as failure.

A test module of this folder has two functions: ``samples()``, whole inputs by file name, and ``read(file)``, which
reads one as a user's command would. Where formats have packing or checksums around them, which damage would only
break, ``samples`` leaves that away, and a third, ``dress(name, content)``, puts it around. What holds a tree of values
is damaged by ``mutate(name, content, rng)``, where it gives more than None.

`fuzz` damages the samples, gives each input to ``read`` in a process of its own and returns what went wrong: an
exception that is not `SegflowError` or does not name the file, a crash, more than `SECONDS` for one input, more memory
than `MEMORY_BYTES`, a file opened outside the input's folder, anything executed.

Every input is a function of the seed and its number: ``SEGFLOW_FUZZ_SEED`` and ``SEGFLOW_FUZZ_N`` choose others and
more (``make fuzz N=5000``). A failure names both, and its input is kept.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError

SECONDS = 5.0
"""For one input, on its second try: the first may have met a busy machine."""
SILENCE_SECONDS = 60.0
"""After which an input is held to hang."""
MEMORY_BYTES = 512 << 20
ADDRESS_BYTES = 8 << 30
"""Beyond this the process gets no memory, so that a fault does not take the machine with it."""

NUMBERS = (
    *("0", "-1", "1", "3", "7", "8", "16", "255", "65535", "65536", "2147483647", "-2147483648", "4294967296"),
    *("9223372036854775807", "18446744073709551616", "1e308", "-1e308", "1e-320", "nan", "-inf", "inf", "1e999"),
    *("", "x", "1 2 3", "0x10", "1,5", "--1", "9" * 400),
)
"""Written where a text has a number."""
INTEGERS = (0, 1, -1, 2, 7, 127, -128, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, -(2**63))
REALS = (0.0, -0.0, 1e-320, 1e38, -1e308, np.inf, -np.inf, np.nan)


def count(default: int) -> int:
    """Inputs to try: ``SEGFLOW_FUZZ_N``, or what the suite has time for."""
    return int(os.environ.get("SEGFLOW_FUZZ_N") or default)


def seed() -> int:
    """``SEGFLOW_FUZZ_SEED``, or always the same."""
    return int(os.environ.get("SEGFLOW_FUZZ_SEED") or 1)


def fuzz(module: str, folder: Path, inputs: int, tokens: Sequence[bytes] = ()) -> list[str]:
    """Try inputs and say what went wrong.

    Args:
        module: Name of the test module that has ``samples`` and ``read``.
        folder: Empty; the inputs are written below it, one folder for each, and those that failed stay.
        inputs: How many.
        tokens: Hostile pieces of the format, put into the samples here and there.

    Returns:
        One text for each failure, with seed and number of its input.
    """
    os.mkfifo(folder / "pipe")  # whoever follows a path out of the input's folder to it hangs
    failures = []
    number = 0
    while number < inputs:
        with _child(module, folder, number, inputs, tokens) as lines:
            for line in lines:
                report = json.loads(line)
                number = report["number"] + 1
                if report["failure"]:
                    failures.append(_name(folder, report["number"], report["failure"]))
        if number < inputs:  # it died or was ended in the middle
            failures.append(_name(folder, number, lines.end))
            number += 1
    return failures


Dress = Callable[[str, bytes], bytes]
Mutate = Callable[[str, bytes, np.random.Generator], bytes | None]


def make_input(
    contents: Mapping[str, bytes],
    number: int,
    tokens: Sequence[bytes],
    dress: Dress = lambda name, content: content,
    mutate: Mutate | None = None,
) -> tuple[str, bytes]:
    """The input of this number: its file name and content; the first ones are the samples as they are."""
    names = sorted(contents)
    if number < len(names):
        return names[number], dress(names[number], contents[names[number]])
    rng = np.random.default_rng([seed(), number])
    name = names[number % len(names)]
    made = mutate(name, contents[name], rng) if mutate is not None and rng.random() < 0.8 else None
    if made is not None:
        return name, made
    within = rng.random() < 0.7
    content = bytearray(contents[name] if within else dress(name, contents[name]))
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 6]))):
        if content:
            _MUTATIONS[int(rng.integers(len(_MUTATIONS)))](content, rng, tokens)
    return name, dress(name, bytes(content)) if within else bytes(content)


def _flip_bytes(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    for _ in range(int(rng.choice([1, 2, 8]))):
        content[_place(content, rng)] = int(rng.integers(256))


def _truncate(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    del content[_place(content, rng) :]


def _write_integer(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    size = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(np.array(INTEGERS, dtype=object))) % 256**size
    _overwrite(content, rng, value.to_bytes(size, "little" if rng.random() < 0.8 else "big"), size)


def _write_real(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    size = int(rng.choice([4, 8]))
    with np.errstate(over="ignore"):
        value = np.array(rng.choice(REALS), dtype=f"<f{size}")
    _overwrite(content, rng, value.tobytes(), size)


def _replace_number(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    """A number in the text at the beginning becomes a hostile one."""
    start = bytes(content[:2000])
    places = [i for i, byte in enumerate(start) if 48 <= byte <= 57 and not (i and 48 <= start[i - 1] <= 57)]
    if places:
        begin = int(rng.choice(places))
        end = begin
        while end < len(content) and (48 <= content[end] <= 57 or content[end] in b".e"):
            end += 1
        content[begin:end] = str(rng.choice(np.array(NUMBERS, dtype=object))).encode()


def _put_token(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    """A line of the text at the beginning is replaced by, or preceded by, a hostile one."""
    if not tokens:
        return _flip_bytes(content, rng, tokens)
    token = tokens[int(rng.integers(len(tokens)))]
    breaks = [0, *(i + 1 for i, byte in enumerate(content[:2000]) if byte == 10)]
    begin = int(rng.choice(breaks))
    end = content.find(b"\n", begin)
    content[begin : end if end >= 0 and rng.random() < 0.6 else begin] = token
    return None


def _copy_piece(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    begin, target = _place(content, rng), _place(content, rng)
    piece = content[begin : begin + int(rng.integers(1, 64))]
    content[target : target + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _drop_piece(content: bytearray, rng: np.random.Generator, tokens: Sequence[bytes]) -> None:
    begin = _place(content, rng)
    del content[begin : begin + int(rng.integers(1, 64))]


_MUTATIONS: tuple[Callable[[bytearray, np.random.Generator, Sequence[bytes]], None], ...] = (
    *(_flip_bytes, _truncate, _write_integer, _write_real, _replace_number, _replace_number),
    *(_put_token, _put_token, _copy_piece, _drop_piece),
)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    """More often in the header than behind it."""
    reach = min(len(content), 600) if rng.random() < 0.8 else len(content)
    return int(rng.integers(max(1, reach)))


def _overwrite(content: bytearray, rng: np.random.Generator, value: bytes, size: int) -> None:
    place = _place(content, rng) // size * size
    content[place : place + size] = value


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 65536, 10**6, 10**9, 10**18, 2**63, 10**400, -(10**9)),
    *(0.5, 1e-9, 1e-320, 1e30, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), -0.0),
    *("", ".", "..", "../../pipe", "/etc/passwd", "a/b", "a\\b", "a\0b", "\ud800", "x" * 300, "9" * 5000, "²", "٣"),
    *("nan", "1e999", "builtins.exec", "os.system", "~nobody/x", "$HOME/x", "%s%n", "__class__", "{0}", "\x1b[2J"),
    *([], {}, [[]], [None], [[1, 2], 3], [1] * 10**4, {"a": {}}, {"": ""}, {"__class__": "x"}, [10**9] * 3),
)
NAMES = ("..", "../../x", "/etc/x", "a\\b", "", "x" * 300, "²", "-1", "9" * 5000, "__init__", "fold_0", "all", "\0")


def probe(value: Any, rng: np.random.Generator) -> Any:
    """A hostile value, seldom the value itself within too many lists."""
    return copy.deepcopy(HOSTILE[int(rng.integers(len(HOSTILE)))]) if rng.random() < 0.95 else _deep(value)


def _deep(value: Any) -> Any:
    for _ in range(400):
        value = [value]
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything within lists, tuples and dictionaries."""
    if len(path) > 20:
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return [path, *(place for key, child in inner for place in _places(child, (*path, key)))]


def mutate_tree(value: Any, rng: np.random.Generator) -> Any:
    """Lists and dictionaries with hostile values, and with keys missing, renamed or added."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        places = _places(value)
        path = places[int(rng.integers(len(places)))]
        value = _changed(value, path, rng)
    return value


def _changed(value: Any, path: tuple[Any, ...], rng: np.random.Generator) -> Any:
    if not path:
        return probe(value, rng)
    key, rest = path[0], path[1:]
    if isinstance(value, tuple):
        return tuple(_changed(child, rest, rng) if k == key else child for k, child in enumerate(value))
    if rest:
        value[key] = _changed(value[key], rest, rng)
        return value
    kind = rng.random()
    if kind < 0.7:
        value[key] = probe(value[key], rng)
    elif kind < 0.8:
        del value[key]
    elif isinstance(value, dict):
        value[NAMES[int(rng.integers(len(NAMES)))]] = value.pop(key) if kind < 0.9 else value[key]
    else:
        value.insert(int(key), probe(value[key], rng))
    return value


def as_json(value: Any) -> bytes:
    """A text of JSON."""
    try:
        return json.dumps(value).encode()
    except ValueError:  # more digits than Python writes
        return json.dumps(value, default=str).encode() if not isinstance(value, int) else b"9" * 5000


def _name(folder: Path, number: int, failure: str) -> str:
    return f"SEGFLOW_FUZZ_SEED={seed()}, input {number} (kept in {folder / str(number)}): {failure}"


class _Lines:
    """What the child says, line by line, until it ends or falls silent."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.end = "?"

    def __iter__(self) -> Iterator[bytes]:
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], SILENCE_SECONDS)[0]:
            line = self._process.stdout.readline()
            if not line:
                self.end = f"the process ended with {self._process.wait()}"
                return
            yield line
        self.end = f"it hangs: nothing for {SILENCE_SECONDS:g} s"


@contextlib.contextmanager
def _child(module: str, folder: Path, number: int, inputs: int, tokens: Sequence[bytes]) -> Iterator[_Lines]:
    code = f"import sys; sys.path[:] = {sys.path!r}; import fuzzing; fuzzing.serve({module!r}, {str(folder)!r}, "
    code += f"{number}, {inputs}, {list(tokens)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield _Lines(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve(module: str, folder: str, number: int, inputs: int, tokens: Sequence[bytes]) -> None:
    """Life of the process that tries inputs: one line of JSON on standard output for each."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get between the lines
    target = importlib.import_module(module)
    contents: dict[str, bytes] = target.samples()
    dress: Dress = getattr(target, "dress", lambda name, content: content)
    mutate: Mutate | None = getattr(target, "mutate", None)
    watch = _Watch()
    for sample in range(len(contents)):  # imports and processes of ours come before the watch begins
        _attempt(target.read, Path(folder) / "warm", *make_input(contents, sample, tokens, dress), watch)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, resource.RLIM_INFINITY))
    sys.addaudithook(watch.hear)
    for current in range(number, inputs):
        name, content = make_input(contents, current, tokens, dress, mutate)
        place = Path(folder) / str(current)
        failure = _attempt(target.read, place, name, content, watch)
        if failure is not None and failure.startswith("it took"):
            failure = _attempt(target.read, place, name, content, watch)
        if current < len(contents) and failure is None and watch.refusal is not None:
            failure = f"{name} is refused as it is: {watch.refusal}"
        if failure is None:
            shutil.rmtree(place, ignore_errors=True)
        out.write(json.dumps({"number": current, "failure": failure and f"{name}: {failure}"}) + "\n")
        out.flush()


def _attempt(read: Callable[[Path], object], place: Path, name: str, content: bytes, watch: _Watch) -> str | None:
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(content)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    watch.begin(place)
    try:
        read(place / name)
    except SegflowError as error:
        watch.refusal = str(error)
        if name not in watch.refusal:
            return f"the error does not name the file: {watch.refusal}"
    except Exception:
        return traceback.format_exc(limit=-6)
    finally:
        watch.end()
    seconds = time.monotonic() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if watch.seen:
        return f"it did what a reader must not: {'; '.join(watch.seen)}"
    if grown > MEMORY_BYTES:
        return f"it took {grown >> 20} MiB of memory"
    return f"it took {seconds:.1f} s" if seconds > SECONDS else None


class _Watch:
    """Notes files opened outside a folder, and whatever is executed, while an input is read."""

    def __init__(self) -> None:
        self._inside: str | None = None
        self.seen: list[str] = []
        self.refusal: str | None = None
        # Python's own files, and what the system tells of itself
        own = [*sys.path, sys.prefix, sys.base_prefix, "/proc/", "/sys/", os.devnull, "/dev/urandom"]
        self._allowed = tuple(os.path.realpath(path) if path[-1:] != "/" else path for path in own if path)

    def begin(self, folder: Path) -> None:
        self.seen, self.refusal = [], None
        self._inside = os.path.realpath(folder)

    def end(self) -> None:
        self._inside = None

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._inside is None:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((self._inside, *self._allowed)):
                self.seen.append(f"opened {path}")
        elif event in ("subprocess.Popen", "os.posix_spawn"):
            if arguments[0] != sys.executable:  # a process of ours
                self.seen.append(f"started {arguments[0]}")
        elif event in ("os.system", "os.exec"):
            self.seen.append(f"{event} {arguments[0]!r}")
        elif event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            path = os.path.realpath(_place_of(arguments))
            if not path.startswith(self._inside):
                self.seen.append(f"{event} {path}")


def _place_of(arguments: tuple[object, ...]) -> str:
    """The path of an event, which may count from an open folder, given last."""
    path, folder = os.fsdecode(arguments[0]), arguments[-1]  # type: ignore[arg-type]
    if isinstance(folder, int) and folder > 2:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return path
