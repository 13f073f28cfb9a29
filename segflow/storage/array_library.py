"""The library of compressed arrays, loaded where arrays are read or written, since it takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

_CLIENT = "httpx"
"""An HTTP client for arrays on other machines, which segflow never opens. It takes long to load."""


@cache
def array_library() -> Any:
    """The module ``blosc2``."""
    with _loaded_when_used(_CLIENT):
        import blosc2

    return blosc2


class _LoadedWhenUsed(ModuleType):
    """Stands for a module, which is loaded when something of it is asked for.

    ``importlib.util.LazyLoader`` cannot: under Python 3.11 the statement ``import`` loads its modules at once.
    """

    def __getattr__(self, name: str) -> Any:
        _take_away(self)
        return getattr(import_module(self.__name__), name)


@contextmanager
def _loaded_when_used(name: str) -> Iterator[None]:
    """Give modules that are imported in the block a `_LoadedWhenUsed` of this name. All others get the module."""
    if name in sys.modules:
        yield
        return
    stand_in = _LoadedWhenUsed(name)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        _take_away(stand_in)


def _take_away(stand_in: _LoadedWhenUsed) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
