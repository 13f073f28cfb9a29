"""The library of compressed arrays, loaded where arrays are read or written, since it takes long."""

from __future__ import annotations

from functools import cache
from typing import Any

from segflow.execution.late_modules import loaded_when_used

_CLIENT = "httpx"
"""An HTTP client for arrays on other machines, which segflow never opens. It takes long to load."""


@cache
def array_library() -> Any:
    """The module ``blosc2``."""
    with loaded_when_used(_CLIENT):
        import blosc2

    return blosc2
