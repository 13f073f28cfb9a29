"""Parts that a ``_target_`` names: networks, losses, optimizers, augmentation steps; shipped or a user's own."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import msgspec

from segflow.apps import _targets
from segflow.core.errors import SegflowError
from segflow.core.own_part import described_failure

TARGET = "_target_"
OF_HYDRA = ("_partial_", "_args_", "_recursive_", "_convert_", TARGET)
"""Keys of a node that are no options of its ``_target_``. They mean what they mean to Hydra's ``instantiate``."""


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
    """Build what a node describes, and the parts within it, from the inside out.

    The node holds the user's own words and files: nothing from a model, a bundle or a dataset becomes such a node.

    Args:
        node: Plain values. One without a ``_target_`` becomes a dict, with its parts built.
        *positional: Positional arguments of the target; without them ``_args_`` of the node.
        **keywords: Further options of the target.

    Raises:
        SegflowError: There is no such target, or it cannot be called with its options.
    """
    return _built({**node, **keywords}, "", positional)


def _built(value: Any, key: str, positional: Sequence[Any] = ()) -> Any:
    if isinstance(value, list):
        return [_built(inner, f"{key}[{number}]") for number, inner in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    inside = f"{key}." if key else ""
    deep = value.get("_recursive_", True)
    options = {name: _built(inner, f"{inside}{name}") if deep else inner for name, inner in value.items()}
    if TARGET not in value:
        return options
    arguments = positional or options.get("_args_", ())
    named = {str(name): option for name, option in options.items() if name not in OF_HYDRA}
    return _called(str(value[TARGET]), key, arguments, named, partly=bool(value.get("_partial_")))


def _called(target: str, key: str, arguments: Sequence[Any], options: Mapping[str, Any], *, partly: bool) -> Any:
    """The object of a target, or its partial. A check of its own options is told with its key."""
    try:
        made = located(target)
        return functools.partial(made, *arguments, **options) if partly else made(*arguments, **options)
    except SegflowError as error:
        own = f"{target.rpartition('.')[2]}."
        if not key or not error.problem.startswith(own):
            raise
        raise error.changed(problem=f"{key}.{error.problem.removeprefix(own)}") from error
    except ModuleNotFoundError as error:
        raise no_module(str(error.name or target)) from error
    except Exception as error:
        where = f"{key}: " if key else ""
        raise SegflowError(f"{where}cannot make '{target}'", found=described_failure(error)) from error


def located(target: str) -> Any:
    """What a dotted name means. Modules on the way are imported, and their own errors are raised."""
    first, *others = target.split(".")
    found: Any = import_module(first)
    path = first
    for name in others:
        path = f"{path}.{name}"
        if not hasattr(found, name) and hasattr(found, "__path__"):
            import_module(path)
        found = getattr(found, name)
    return found


def no_module(name: str) -> SegflowError:
    """The error for a module that is not installed. It names the extra of segflow that installs it, if one does."""
    from importlib.metadata import requires  # slow to load

    package = name.split(".")[0].replace("_", "-").lower()
    known = [text for text in requires("segflow") or [] if not text.startswith("segflow")]
    extras = (re.match(rf"{package}\b.*extra == .(\w+)", text, re.IGNORECASE) for text in known)
    extra = next((match[1] for match in extras if match), None)
    fix = f"pip install 'segflow[{extra}]'" if extra else "Install the package that has it, or correct the _target_."
    return SegflowError(f"there is no module '{name}'", fix=fix)


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
