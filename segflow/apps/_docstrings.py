"""Meanings of arguments and attributes, from docstrings."""

from __future__ import annotations

import re
from inspect import cleandoc


def described(docstring: str) -> dict[str, str]:
    """Name → text of the entries in a docstring's ``Attributes:`` and ``Args:``. ``a, b: text`` describes both."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in cleandoc(docstring).splitlines():
        if re.match(r"\S", line):
            inside = line.strip() in ("Attributes:", "Args:")
        elif inside and (entry := re.match(r" {4}(\*{0,2}\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)):
            names = entry[1].lstrip("*").split(", ")
            found |= dict.fromkeys(names, entry[2].strip())
        elif inside and line.startswith("     ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
