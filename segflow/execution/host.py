"""Facts of this computer and of what is installed on it, for records that people read."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segflow.execution.machine import processor_count

PACKAGES = ("segflow", "torch", "pytorch-lightning", "numpy", "scipy", "SimpleITK", "nibabel", "blosc2")
"""The packages that may change a result or its speed."""


def host_facts(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Facts of this computer, plain JSON.

    Args:
        packages: Names of the packages whose versions are wanted. One that is not installed is left out.

    Returns:
        ``host`` (name in the network), ``system``, ``processor``, ``processors`` (usable ones), ``versions`` (of Python
        and the packages) and ``date`` (now, UTC, ISO 8601 to the second).
    """
    return {
        "host": platform.node(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "processors": processor_count(),
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name. Python knows it everywhere but on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
