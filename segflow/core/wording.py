"""Lists and counts in messages."""

from __future__ import annotations

from collections.abc import Iterable

LISTED = 5
"""Number of names that a message lists before it counts the rest."""


def some(names: Iterable[str], most: int = LISTED, separator: str = ", ") -> str:
    """The first names, and the number of further ones."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return separator.join(listed[:most]) + more


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"
