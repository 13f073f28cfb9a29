"""Parts that a ``_target_`` names: networks, losses, optimizers, augmentation steps; shipped or a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from segflow.apps import _targets
from segflow.core.errors import SegflowError

TARGET = "_target_"
OF_HYDRA = ("_partial_", "_args_", "_recursive_", "_convert_", TARGET)
"""Keys beside a ``_target_`` that Hydra reads."""


class SettingError(SegflowError):
    """A setting that does not exist, or whose value has the wrong type."""


class Part:
    """The part that a node with a ``_target_`` describes.

    Nothing is imported before `build`, so a command line is checked without waiting for torch.

    Attributes:
        settings: The node as plain values, with ``_target_``.
    """

    __slots__ = ("settings",)

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @property
    def target(self) -> str:
        """Dotted name of the class or function."""
        return str(self.settings[TARGET])

    def build(self, *positional: Any, **keywords: Any) -> Any:
        """Build the object of the ``_target_``, or the partial if ``_partial_`` is true."""
        return instantiated(self.settings, *positional, **keywords)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and other.settings == self.settings

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Part({dict(self.settings)!r})"


def instantiated(node: Mapping[str, Any], *positional: Any, **keywords: Any) -> Any:
    """Build what a node describes, and the parts within it.

    Only targets of packages that the node names are called. It holds the user's own words and files: nothing from a
    model, a bundle or a dataset becomes such a node.
    """
    import hydra

    if "_execution_whitelist_" in inspect.signature(hydra.utils.instantiate).parameters:  # from hydra-core 1.4 on
        named = _targets_in(node)  # a package may give a name to what another of its modules defines
        keywords["_execution_whitelist_"] = sorted(named | {f"{target.partition('.')[0]}.*" for target in named})
    return hydra.utils.instantiate(dict(node), *positional, _convert_="all", **keywords)


def _targets_in(value: Any) -> set[str]:
    """Every ``_target_`` in a node."""
    below = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    own = {str(value[TARGET])} if isinstance(value, Mapping) and TARGET in value else set()
    return own.union(*map(_targets_in, below))


def check_part(where: str, node: Mapping[str, Any]) -> None:
    """Refuse an option that the ``_target_`` does not take, if its source can be read without importing it.

    Args:
        where: Key of the node, for messages.
        node: A node with ``_target_``, whose options may also be such nodes.

    Raises:
        SettingError: There is no such option, or its value has the wrong type.
    """
    found = _targets.look(str(node[TARGET]))
    for key, value in node.items():
        if key in OF_HYDRA:
            continue
        _check_inside(f"{where}.{key}", value)
        if found is None:
            continue
        if key not in found.parameters:
            if found.takes_any:
                continue
            if key in found.undecorated:
                fix = f"Write @dataclass(kw_only=True) above the class {node[TARGET]}."
                raise SettingError(f"'{where}.{key}' is declared, but not taken", fix=fix)
            close = [*_inside(node, str(key)), *get_close_matches(str(key), found.parameters, n=1)]
            taken = ", ".join(found.options() or found.parameters)
            raise SettingError(
                f"there is no setting '{where}.{key}'",
                expected=None if close else f"one that {node[TARGET]} takes: {taken}",
                fix=f"Did you mean '{where}.{close[0]}'?" if close else None,
            )
        _check_type(f"{where}.{key}", value, found.parameters[key])


def _inside(node: Mapping[str, Any], key: str, prefix: str = "") -> list[str]:
    """Where a node has a key of this name further down; below that stands what came with it."""
    found: list[str] = []
    for name, value in node.items():
        if isinstance(value, Mapping) and prefix + str(name) != key:
            found += [f"{prefix}{name}.{key}"] if key in value else _inside(value, key, f"{prefix}{name}.")
    below = node.get(key) if not prefix else None
    leaf = f".{next(iter(below))}" if isinstance(below, Mapping) and len(below) == 1 else ""
    return [f"{path}{leaf}" for path in found]


def _check_inside(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        if TARGET in value:
            check_part(where, value)
        else:
            for key, inner in value.items():
                _check_inside(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _check_inside(f"{where}[{number}]", inner)


def _check_type(where: str, value: Any, parameter: _targets.Parameter) -> None:
    if parameter.type is None or (isinstance(value, Mapping) and TARGET in value):
        return
    try:
        msgspec.convert(value, parameter.type)
    except msgspec.ValidationError as error:
        shown = str(value).lower() if isinstance(value, bool) else value
        raise SettingError(
            f"setting '{where}' has the wrong type",
            found=shown,
            expected=parameter.annotation,
            fix=f"It means: {parameter.meaning.rstrip('.')}." if parameter.meaning else None,
        ) from error
    except TypeError:  # a type without plain values
        return
