"""Readers, normalisations, metrics and planners of a user's own, made from the settings that name them.

The ``_target_`` is a class, which is made with the other keys, or a function, which is called with them besides what
its contract says.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping
from typing import Any

from segflow.apps import _invocation
from segflow.apps._parts import OF_HYDRA, TARGET, Part, instantiated
from segflow.core.errors import SegflowError
from segflow.core.own_part import OwnPart, described_failure

READERS = "segflow.storage.readers"


def own_part(key: str, part: Part) -> OwnPart:
    """What a setting names, with what will be noted of it in what is made with it.

    Args:
        key: Of the setting, such as ``evaluation.metrics.bias``.
        part: The setting.

    Raises:
        SegflowError: There is no such class or function, or it cannot be made with these options.
    """
    options = {name: value for name, value in part.settings.items() if name not in OF_HYDRA}
    try:
        named = pkgutil.resolve_name(part.target)
    except (ImportError, AttributeError, ValueError) as error:
        raise _unusable(key, part, str(error)) from error
    if not callable(named):
        raise _unusable(key, part, f"{type(named).__name__}, which cannot be called")
    try:
        built = instantiated(options)
        made: Any = named(**built) if inspect.isclass(named) else functools.partial(named, **built)
    except SegflowError:
        raise
    except Exception as error:
        raise _unusable(key, part, described_failure(error)) from error
    return OwnPart(key, made, {TARGET: part.target, **options})


def _unusable(key: str, part: Part, found: str) -> SegflowError:
    return SegflowError(
        f"{key}: cannot make '{part.target}'",
        found=found,
        expected="a class or function of a module that lies where segflow is started, or is installed",
    )


def own_parts(key: str, parts: Mapping[str, Part | None]) -> dict[str, OwnPart]:
    """Several, by name; null leaves one out."""
    return {name: own_part(f"{key}.{name}", part) for name, part in parts.items() if part is not None}


def own_normalizations(parts: Mapping[str, Part | None]) -> dict[str, OwnPart]:
    """Those of the setting ``normalization``.

    Raises:
        SegflowError: One cannot be called as a normalisation is.
    """
    from segflow.preprocessing.own_normalizations import check_normalizations

    made = own_parts("normalization", parts)
    check_normalizations(made)
    return made


def use_own_reader(part: Part | None) -> None:
    """Read and write images with the reader of the setting ``reader``, where it names one.

    Raises:
        SegflowError: It is no reader.
    """
    if part is None and READERS not in sys.modules:  # slow to load, and nothing was named before
        return
    from segflow.storage.readers import use_reader

    use_reader(None if part is None else own_part("reader", part).call, "reader")


def typed(*groups: str) -> list[str]:
    """What was typed of these groups, with the folders of configuration that have their options, for a next command."""
    named = [override for override in _invocation.overrides() if re.split(r"[=.@]", override)[0] in groups]
    return [*_invocation.config_flags(), *named] if named else []
