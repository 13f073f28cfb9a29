"""Measure nnU-Net and segflow alike: each side in a fresh process, on the same cores, turn by turn.

A side is a function ``side(meter, **arguments)`` of a benchmark script, called in a Python of its own, or a command
line. Its wall time is taken within the process, section by section; its memory is watched from outside, over the
whole tree of processes that it starts. How much others used the machine meanwhile is noted with every figure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.03
WATCHING_SHARE = 30
"""Seconds that pass between two samples for each second that one takes."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOG_TAIL = 4000

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True, slots=True)
class Section:
    """What one named part of a side took.

    Attributes:
        seconds: Wall time.
        peak_bytes: Most memory that the process tree held at once, shared pages counted once.
    """

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one side.

    Attributes:
        sections: In the order in which they were entered.
        value: What the side returned, as JSON has it.
        foreign_cores: Cores that other processes of the machine kept busy meanwhile, on average.
        parent_bytes: Most memory that the first process of the tree held, without those that it started.
        anonymous_bytes: Of its memory, the most that is no part of a file. The system can drop parts of files at once.
    """

    sections: Mapping[str, Section]
    value: Any
    foreign_cores: float
    parent_bytes: int = 0
    anonymous_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Wall time of all sections together."""
        return sum(section.seconds for section in self.sections.values())

    @property
    def peak_bytes(self) -> int:
        """The highest peak of any section."""
        return max(section.peak_bytes for section in self.sections.values())


@dataclass(slots=True)
class Meter:
    """Handed to a side: says which of its work counts, and under which name."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time a block. A name that comes again adds to the seconds; the higher peak counts."""
        with suppress(OSError):  # forget the highest memory so far, where the kernel lets us
            Path("/proc/self/clear_refs").write_text("5")
        start = time.monotonic()
        yield
        stop = time.monotonic()
        self.entries.append({"name": name, "start": start, "stop": stop, "peak": _status("self", "VmHWM")})


@dataclass(frozen=True, slots=True)
class Machine:
    """The cores that both sides get, and as many threads as they may start.

    Attributes:
        cores: Numbers of the processors.
        threads: For every library that asks the environment.
        variables: More of the environment of both sides.
    """

    cores: tuple[int, ...]
    threads: int
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment of a side."""
        threads = {name: str(self.threads) for name in _THREAD_VARIABLES}
        return {**os.environ, **threads, **self.variables}


def run_function(machine: Machine, function: Callable[..., Any], **arguments: Any) -> Measured:
    """Call a function of a benchmark script in a fresh process.

    Args:
        machine: Where.
        function: ``function(meter, **arguments)``, at module level; returns what JSON can hold.
        arguments: What JSON can hold; paths become text.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        call, answer = Path(folder) / "call.json", Path(folder) / "answer.json"
        file = sys.modules[function.__module__].__file__
        call.write_text(
            json.dumps({"file": file, "function": function.__name__, "arguments": arguments}, default=str),
            encoding="utf-8",
        )
        samples, foreign, peaks = _watch(machine, [sys.executable, __file__, str(call), str(answer)], function.__name__)
        content = json.loads(answer.read_text(encoding="utf-8"))
    return Measured(_sections(content["entries"], samples), content["value"], foreign, *peaks)


def run_command(machine: Machine, command: Sequence[str]) -> Measured:
    """Run a command line, start-up included.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    start = time.monotonic()
    samples, foreign, peaks = _watch(machine, command, command[0])
    entry = {"name": "command", "start": start, "stop": time.monotonic(), "peak": 0}
    return Measured(_sections([entry], samples), None, foreign, *peaks)


@contextmanager
def busy_process(machine: Machine) -> Iterator[None]:
    """Keep another process busy on the machine's cores, such as someone else's."""
    process = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"], preexec_fn=lambda: os.sched_setaffinity(0, machine.cores)
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


_START = """
import importlib.metadata, sys
del sys.argv[0]
(point,) = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[0])
sys.exit(point.load()())
"""


def script(name: str, arguments: str, *more: str) -> list[str]:
    """The command line of a console script of this Python, which need not be installed as a script.

    Args:
        name: Of the script.
        arguments: As typed, split at spaces.
        more: Arguments that may hold spaces.
    """
    file = Path(sys.executable).parent / name
    start = [str(file)]
    if not file.is_file():  # packages that only lie on the path
        start = [sys.executable, "-m", name] if name == "segflow" else [sys.executable, "-c", _START, name]
    return [*start, *arguments.split(), *more]


def _watch(machine: Machine, command: Sequence[str], name: str) -> tuple[list[tuple[float, int]], float, list[int]]:
    """Run to the end.

    Returns:
        (time, bytes of the process tree) samples; the cores that others kept busy; and the first process's peaks, of
        all its memory and of what is no part of a file.
    """
    with tempfile.TemporaryFile() as log:
        busy, started = _busy_seconds(), time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=machine.environment(),
            preexec_fn=lambda: os.sched_setaffinity(0, machine.cores),
        )
        samples: list[tuple[float, int]] = []
        peaks = [0, 0]
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, samples, peaks, ended))
        sampler.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            ended.set()
            sampler.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
        foreign = max(0.0, _busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / wall
        if process.returncode != 0:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
            text = log.read().decode(errors="replace")
            raise RuntimeError(f"{name} ended with code {process.returncode}:\n{text}")
    return samples, round(foreign, 2), peaks


def _sample(pid: int, samples: list[tuple[float, int]], peaks: list[int], ended: threading.Event) -> None:
    pause = SAMPLE_SECONDS
    while not ended.wait(pause):
        begun = time.monotonic()
        tree = _tree(pid)
        # Pages that processes share must count once, which the kernel tells only by walking all pages.
        size = _resident(pid) if len(tree) == 1 else sum(_proportional(each) for each in tree)
        samples.append((time.monotonic(), size))
        peaks[:] = max(peaks[0], _status(pid, "VmHWM")), max(peaks[1], _status(pid, "RssAnon"))
        # Walking pages holds up the process that owns them: look seldom enough that it does not count.
        pause = max(SAMPLE_SECONDS, WATCHING_SHARE * (time.monotonic() - begun))


def _tree(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                children = Path(f"/proc/{each}/task/{task}/children").read_text().split()
                found.extend(int(child) for child in children)
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _status(pid: int | str, name: str) -> int:
    """Bytes that the system gives for a process: ``VmHWM`` for the most that it held so far, ``RssAnon`` for now."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _busy_seconds() -> float:
    """Seconds that the machine's processors worked since it started."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS


def _sections(entries: Sequence[Mapping[str, Any]], samples: Sequence[tuple[float, int]]) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    for entry in entries:
        sampled = max((size for at, size in samples if entry["start"] <= at <= entry["stop"]), default=0)
        before = sections.get(entry["name"], Section(0.0, 0))
        sections[entry["name"]] = Section(
            before.seconds + entry["stop"] - entry["start"], max(before.peak_bytes, sampled, entry["peak"])
        )
    return sections


def _child(call: Path, answer: Path) -> None:
    wanted = json.loads(call.read_text(encoding="utf-8"))
    path = Path(wanted["file"])
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    meter = sys.modules["measure"].Meter() if "measure" in sys.modules else Meter()
    value = getattr(module, wanted["function"])(meter, **wanted["arguments"])
    answer.write_text(json.dumps({"entries": meter.entries, "value": value}, default=float), encoding="utf-8")


if __name__ == "__main__":
    _child(Path(sys.argv[1]), Path(sys.argv[2]))
