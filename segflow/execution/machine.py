"""Processors, memory and open files that this process may use, with the limits of containers."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from segflow.core.errors import SegflowError

try:
    import resource
except ModuleNotFoundError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

THREADS_VARIABLE = "SEGFLOW_THREADS"
"""Environment variable in which a parent tells a worker how many threads it may start."""

PROCESSORS_VARIABLE = "SEGFLOW_PROCESSORS"
"""Environment variable: the most processors that this process may use, such as its share beside other jobs."""

MEMORY_VARIABLE = "SEGFLOW_MAX_MEMORY_GB"
"""Environment variable: the memory in GB that this process and its children may take together."""

GB = 2**30
"""Bytes of a GB, in settings and messages."""

SHARE_OF_MEMORY = 0.8
"""Share of the machine's memory that the jobs of a command may take where the user set no limit."""

RAISE_THE_LIMIT = "Raise max_memory_gb, or use a machine with more memory."

SHARED_MEMORY = Path("/dev/shm")
"""Folder of shared memory on Linux."""

_ENOUGH_FILES = 2**16
_SYSTEM_WITHOUT_LIMITS = 8192
_SMALL_MACHINE = 8 * 2**30
"""Bytes of memory of a machine whose system does not tell."""

_ALWAYS_THERE = 1 << 26
"""Bytes for which no machine is asked, which takes longer than a small case."""

_CGROUP = Path("/sys/fs/cgroup")


def processor_count() -> int:
    """Processors that this process may use. Batch systems and containers often grant fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    quota = _cgroup_processors()
    share = os.environ.get(PROCESSORS_VARIABLE, "")
    limits = [usable, *([quota] if quota is not None else []), *([int(share)] if share.isdigit() else [])]
    return max(1, min(limits))


def granted_threads() -> int:
    """Threads that this process may start for a computation: as many as were granted, such as to a worker; else 1."""
    wish = os.environ.get(THREADS_VARIABLE, "")
    return int(wish) if wish.isdigit() and int(wish) > 0 else 1


@contextmanager
def threads_granted(threads: int) -> Iterator[None]:
    """Grant this process threads for its computations, unless its own environment already does."""
    if os.environ.get(THREADS_VARIABLE):
        yield
        return
    os.environ[THREADS_VARIABLE] = str(threads)
    try:
        yield
    finally:
        os.environ.pop(THREADS_VARIABLE, None)


def memory_bytes() -> int:
    """Memory in bytes that this process may use: the user's limit, the container's or the machine's, the least."""
    limit = memory_limit()
    return _granted_memory() if limit is None else min(limit, _granted_memory())


def memory_limit() -> int | None:
    """The user's limit in bytes for this process and its children together; None without one.

    Raises:
        SegflowError: ``SEGFLOW_MAX_MEMORY_GB`` is not a number above 0.
    """
    text = os.environ.get(MEMORY_VARIABLE, "")
    return int(checked_memory_gb(text, MEMORY_VARIABLE) * GB) if text else None


def checked_memory_gb(value: object, name: str = "max_memory_gb") -> float:
    """The value of a limit of memory in GB.

    Raises:
        SegflowError: It is not a number above 0.
    """
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise SegflowError(f"{name} is not a size of memory", found=value, expected="a number of GB above 0")
    return number


@contextmanager
def memory_limited(gigabytes: float | None) -> Iterator[None]:
    """Limit the memory of this process and of the children that it starts; None keeps the limit that there is.

    Work whose need is known before it starts is refused if it does not fit, with the need in the message.

    Raises:
        SegflowError: The limit is not a number above 0, or Python with the libraries of segflow already takes more.
    """
    before = os.environ.get(MEMORY_VARIABLE)
    if gigabytes is None and not before:
        yield
        return
    limit = checked_memory_gb(gigabytes) if gigabytes is not None else checked_memory_gb(before, MEMORY_VARIABLE)
    if (held := held_bytes()) > limit * GB:
        raise SegflowError(
            f"max_memory_gb={limit:g} is too little for any work",
            found=f"{held / GB:.2g} GB that Python and its libraries take",
            fix="Give more: most commands begin at 0.5 GB, and those with a network at 1 GB.",
        )
    os.environ[MEMORY_VARIABLE] = repr(limit)
    try:
        yield
    finally:
        os.environ.pop(MEMORY_VARIABLE)
        if before is not None:
            os.environ[MEMORY_VARIABLE] = before


def limit_of_child() -> dict[str, str]:
    """The environment variable that leaves a child what this process does not hold of the user's limit."""
    limit = memory_limit()
    return {} if limit is None else {MEMORY_VARIABLE: repr(max(limit - held_bytes(), 1) / GB)}


def held_bytes() -> int:
    """Memory in bytes that this process holds now, the code of libraries included; 0 if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def peak_bytes() -> int:
    """The most memory in bytes that this process has held so far; 0 if the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def open_files_limit() -> int:
    """Number of files that this process may have open at once."""
    if resource is None:
        return _SYSTEM_WITHOUT_LIMITS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH_FILES if soft == resource.RLIM_INFINITY else min(soft, _ENOUGH_FILES)


def raise_open_files_limit() -> None:
    """Raise the limit of open files for this process and its children as far as the system allows."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS grants fewer than it claims
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_room(wanted: int, what: str, *, found: str, case: str | None = None) -> None:
    """Refuse work that cannot fit into this machine's memory, before memory is allocated.

    Args:
        wanted: Bytes that it needs at least.
        what: Name of what needs them, in the singular.
        found: The sizes that the need follows from.
        case: Id of the case that it concerns, if it is one.

    Raises:
        SegflowError: The machine, or the user's limit, has less memory.
    """
    if wanted <= _ALWAYS_THERE:
        return
    if memory_limit() is not None:
        wanted += held_bytes()  # the user's limit is for all that the process holds
    if wanted > (there := memory_bytes()):
        raise no_room(wanted, there, what, found=found, case=case)


def no_room(wanted: int, there: int, what: str, *, found: str | None, case: str | None = None) -> SegflowError:
    """The refusal of work that needs ``wanted`` bytes of memory where ``there`` are; see `check_room`."""
    limited = memory_limit() is not None
    return SegflowError(
        f"{what} needs {_size(wanted)} of memory",
        case=case,
        found=found,
        expected=f"at most {_size(there)}" + (", which max_memory_gb leaves" if limited else ""),
        fix=RAISE_THE_LIMIT
        if limited
        else "Check spacing and sizes. If they are right, use a machine with more memory.",
    )


def _size(count: int) -> str:
    """A number of bytes in GB, with two digits at least."""
    return f"{count / GB:,.0f} GB" if count >= 100 * GB else f"{count / GB:.3g} GB"


def free_shared_memory() -> int | None:
    """Free bytes of shared memory; None if the system does not tell."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None


def out_of_memory_kills() -> int:
    """Number of processes that the kernel killed for lack of memory since the machine started; 0 if unknown."""
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


@cache
def _granted_memory() -> int:
    """Memory in bytes of the machine, or the container if that is less."""
    names = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1
    limits = [_read_number(folder / name) for name in names for folder in _cgroup_folders()]
    return min([_physical_memory(), *(limit for limit in limits if limit is not None)])


def _physical_memory() -> int:
    if sys.platform == "win32":
        return _memory_of_windows() or _SMALL_MACHINE
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _SMALL_MACHINE


def _memory_of_windows() -> int:
    import ctypes

    kibibytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))  # type: ignore[attr-defined]
    return kibibytes.value * 1024


def _cgroup_folders() -> list[Path]:
    """The folder of this process' control group and those above it. Each may set a limit."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    path = _CGROUP / own
    return [path, *(parent for parent in path.parents if _CGROUP in (parent, *parent.parents))]


def _cgroup_processors() -> int | None:
    counts = []
    for folder in _cgroup_folders():
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            counts.append(-(-int(quota) // int(period)))
    return min(counts, default=None)


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
