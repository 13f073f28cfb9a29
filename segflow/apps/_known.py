"""Which settings a command knows: those of its shipped YAML, and those of the objects that a ``_target_`` names.

Hydra takes a key that nothing reads as readily as one that is read, where a user's YAML or a ``+`` brings it. Here it
is refused. What stays open is what is the user's own: mappings that are shipped empty (``callbacks``,
``training.lr_factors``), parts with a ``_target_`` of the user's, and keys that another setting refers to.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import hydra

from segflow.apps import _messages, _shipped
from segflow.core.errors import SegflowError

TARGET = "_target_"
OF_HYDRA = ("_partial_", "_args_", "_recursive_", "_convert_", TARGET)
"""Keys beside a ``_target_`` that Hydra itself reads."""

DECIDED_HERE = {
    "logger": "Choose one with logger=csv, logger=tensorboard, …",
    "default_root_dir": "The run's folder follows from paths.outputs and run_name.",
    "num_sanity_val_steps": "The first epoch's validation comes soon enough.",
    "use_distributed_sampler": "The dataset shares its batches among processes itself.",
}
"""Lightning's names that segflow gives its trainer itself."""

GLOBAL = "# @package _global_"
"""First line of a file whose keys stand at the top, as those of a preset do."""

Node = Mapping[str, Any]


def check_keys(config: Node, command: str, folders: Sequence[Path]) -> None:
    """Refuse a key of a composed configuration that nothing reads.

    Args:
        config: As plain mappings, interpolations not resolved, without Hydra's own section.
        command: Name of the command.
        folders: Folders of configuration, the shipped one first.

    Raises:
        SegflowError: Names the key, the nearest one, and the user's file that has it.
    """
    for path, near in _unknown(config, _known(command, folders[0]), folders[0], ()):
        key = ".".join(path)
        if _is_referred_to(key, config):
            continue
        if path[0] == "trainer" and path[-1] in DECIDED_HERE:
            raise SegflowError(f"'{key}' is not to be set", fix=DECIDED_HERE[path[-1]])
        if len(path) == 1 and key in dict(_shipped.groups_of(command, folders[0])):
            raise SegflowError(f"the file for '{key}' sets nothing", fix=f"Its first line must be: {GLOBAL}")
        files = [str(file) for folder in folders[1:] for file in _with_key(folder, path[-1])]
        close = get_close_matches(path[-1], [name for name in near if name not in OF_HYDRA], n=1)
        meant = f"Did you mean '{'.'.join((*path[:-1], close[0]))}'?" if close else ""
        fix = meant or _messages.nearest(path[-1], _messages.known_keys(folders, command)).strip()
        raise SegflowError(f"there is no setting '{key}'", found=", ".join(files) or None, fix=fix or None)


def _unknown(
    node: Node, known: Node, conf: Path, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Sequence[str]]]:
    """Paths of keys that are not known, each with names that stand beside it elsewhere."""
    target = node.get(TARGET)
    if target is not None:
        shipped = _targets(conf).get(str(target))
        if shipped is None:
            return  # the user's own
        known = {**shipped, **dict.fromkeys(OF_HYDRA)}
    for key, value in node.items():
        here = (*path, str(key))
        if key in known and not (target and path[-1:] == ("trainer",) and key in DECIDED_HERE):
            if isinstance(value, Mapping) and isinstance(known[key], Mapping) and (known[key] or key == "steps"):
                yield from _unknown(value, known[key], conf, here)
        elif path[-1:] in (("logger",), ("steps",)) and isinstance(value, Mapping) and TARGET in value:
            yield from _unknown(value, {}, conf, here)  # one of the user's
        elif path[-1:] == ("steps",) and value is None:
            pass  # a step that is switched off
        else:
            names = _parameters(str(target)) if target else []
            if names is not None and (key not in names or key in DECIDED_HERE):
                yield here, [*known, *names]


@cache
def _parameters(target: str) -> list[str] | None:
    """Names of the arguments that a shipped ``_target_`` takes; None for any."""
    signature = inspect.signature(hydra.utils.get_object(target))
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        return None
    return list(signature.parameters)


@cache
def _known(command: str, conf: Path) -> dict[str, Any]:
    """Every key of a command, with those of all options of its groups, as nested mappings."""
    known: dict[str, Any] = {}
    for file in _shipped.files_of(command, conf):
        _add(known, _shipped.content(file))
    for group, package in _shipped.groups_of(command, conf):
        for file in (conf / group).glob("*.yaml"):
            if not file.read_text(encoding="utf-8").startswith(GLOBAL):
                _add(known.setdefault(package, {}), _shipped.content(file))
    return known


@cache
def _targets(conf: Path) -> dict[str, dict[str, Any]]:
    """Every shipped ``_target_``, with the keys that stand beside it in shipped files."""
    found: dict[str, dict[str, Any]] = {}

    def collect(node: Any, siblings: Node) -> None:
        if isinstance(node, Mapping):
            if TARGET in node:
                _add(found.setdefault(str(node[TARGET]), {}), {**siblings, **node})
            for value in node.values():
                collect(value, {})

    for file in conf.glob("*/*.yaml"):
        collect(_shipped.content(file), {})
    return found


def _add(known: dict[str, Any], more: Node) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(known.get(key), dict):
            _add(known[key], value)
        elif not known.get(key):
            known[key] = deepcopy(value)


def _is_referred_to(key: str, config: Any) -> bool:
    """Whether another setting takes its value from this one."""
    if isinstance(config, Mapping):
        return any(_is_referred_to(key, value) for value in config.values())
    if isinstance(config, list | tuple):
        return any(_is_referred_to(key, value) for value in config)
    return isinstance(config, str) and bool(re.search(rf"\$\{{{re.escape(key)}[.}}\[]", config))


def _with_key(folder: Path, key: str) -> list[Path]:
    """Files of a user's folder that have a key of this name."""
    line = re.compile(rf"^\s*['\"]?{re.escape(key)}['\"]?\s*:", re.MULTILINE)
    return [
        file
        for file in sorted(folder.rglob("*.yaml"))
        if line.search(file.read_text(encoding="utf-8", errors="replace"))
    ]
