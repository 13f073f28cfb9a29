"""Modules that other libraries import but segflow never uses: they are loaded when something of them is used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _LoadedWhenUsed(ModuleType):
    """Stands for a module, which is loaded when something of it is asked for.

    ``importlib.util.LazyLoader`` cannot: under Python 3.11 the statement ``import`` loads its modules at once.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":  # `inspect` asks all modules for it, and some have none
            raise AttributeError(name)
        _take_away(self)
        return getattr(import_module(self.__name__), name)


@contextmanager
def loaded_when_used(name: str, **known: Any) -> Iterator[None]:
    """Give modules that are imported in the block a stand-in for a module. All others get the module.

    Args:
        name: Full name of the module.
        **known: What the stand-in has without loading the module.
    """
    if name in sys.modules:
        yield
        return
    stand_in = _LoadedWhenUsed(name)
    vars(stand_in).update(known)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        _take_away(stand_in)


def _take_away(stand_in: _LoadedWhenUsed) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
