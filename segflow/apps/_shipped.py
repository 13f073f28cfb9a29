"""Reading of configuration files without Hydra."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from segflow.core.errors import SegflowError

USER_CONF = "SEGFLOW_CONF"
"""Environment variable with the user's own folders of configuration."""


def config_dir() -> Path:
    """The shipped configuration: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "_shared.yaml").is_file():
            return folder
    raise SegflowError(f"the installation of segflow in {package} has no conf/", fix="Install it again.")


def folders_of_environment() -> list[Path]:
    """The folders in `USER_CONF`."""
    return [Path(folder) for folder in os.environ.get(USER_CONF, "").split(os.pathsep) if folder]


def groups_of(command: str, conf: Path) -> list[tuple[str, str]]:
    """The groups of a command's defaults, each with its key."""
    return [pair for file in files_of(command, conf) for pair in _defaults(file) if (conf / pair[0]).is_dir()]


def files_of(command: str, conf: Path) -> Iterator[Path]:
    """The command's file, and files of commands that it builds on."""
    file = conf / f"{command}.yaml"
    yield file
    for name, _ in _defaults(file):
        if (conf / f"{name}.yaml").is_file():
            yield from files_of(name, conf)


def _defaults(file: Path) -> Iterator[tuple[str, str]]:
    """Names in a file's defaults list, each with its package."""
    for entry in content(file, defaults=True).get("defaults", ()):
        text = entry if isinstance(entry, str) else str(next(iter(entry)))
        if not text.startswith("override "):
            name, _, package = text.removeprefix("optional ").partition("@")
            yield name, package or name


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Names of a group's options in all folders of configuration."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


@cache
def _read(file: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def content(file: Path, *, defaults: bool = False) -> dict[str, Any]:
    """The keys of a file; empty if it cannot be read, which Hydra will report."""
    return {key: value for key, value in _read(file).items() if defaults or key not in ("defaults", "hydra")}


def purpose(group: str, option: str, folders: Sequence[Path]) -> str:
    """Purpose of an option: the first comment in its file."""
    file = next((f for folder in reversed(folders) if (f := folder / group / f"{option}.yaml").is_file()), None)
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
    except (OSError, UnicodeDecodeError):
        return ""
    comments = (line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")
