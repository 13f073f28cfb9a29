"""The library of compressed arrays, loaded where arrays are read or written, since it takes long."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import Any

_CLIENT = "httpx"
"""An HTTP client for arrays on other machines, which segflow never opens. It takes half of the library's time."""


@cache
def array_library() -> Any:
    """The module ``blosc2``."""
    _load_when_used(_CLIENT)
    import blosc2

    return blosc2


def _load_when_used(name: str) -> None:
    """Have a module loaded by the first use of its content, in place of its import."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    spec.loader = LazyLoader(spec.loader)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
