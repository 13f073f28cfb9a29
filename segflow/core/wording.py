"""Lists, counts, names and times in messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import PurePath

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


def told_apart(paths: Sequence[PurePath]) -> list[str]:
    """Short names for paths: of the parts that they do not share, the last of each if it suffices, else the first.

    Args:
        paths: Different absolute paths.

    Returns:
        Such as ``old`` and ``new`` for ``/a/old/labels`` and ``/a/new/labels``. The paths themselves, if one lies in
        another. A single one has its last part.
    """
    if len(paths) == 1:
        return [paths[0].name]
    parts = [path.parts for path in paths]
    before = shared_start(parts)
    after = shared_start([own[before:][::-1] for own in parts])
    parts = [own[before : len(own) - after] for own in parts]
    longest = max(map(len, parts), default=0)
    for chosen in (slice(-1, None), slice(1), *(slice(-count, None) for count in range(2, longest + 1))):
        names = ["/".join(own[chosen]) for own in parts]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def shared_start(sequences: Sequence[Sequence[str]]) -> int:
    """How many entries, or characters of texts, all have in common at the beginning."""
    shortest = min(map(len, sequences), default=0)
    return next((n for n in range(shortest) if len({own[n] for own in sequences}) > 1), shortest)


def duration_text(seconds: float) -> str:
    """``0.7 s``, ``45 s``, ``12 min 5 s``, ``3 h 12 min``, ``2 d 3 h``: the two largest units that matter."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    size = 1 if seconds < 600 else 60 if seconds < 86400 else 3600
    rounded = round(seconds / size) * size
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    first = next(number for number, (_, length) in enumerate(units) if rounded >= length)
    large, small = units[first], units[min(first + 1, len(units) - 1)]
    rest = rounded % large[1] // small[1]
    return f"{rounded // large[1]} {large[0]}" + (f" {rest} {small[0]}" if rest else "")


def moment_text(seconds: float, now: datetime | None = None) -> str:
    """The clock time of this machine in some seconds: ``18:40``, ``Fri 18:40``, ``2026-12-03 18:40``.

    Args:
        seconds: From now on.
        now: The present; None asks the clock.
    """
    now = now or datetime.now()
    then = now + timedelta(seconds=seconds)
    days = (then.date() - now.date()).days
    return then.strftime("%H:%M" if days == 0 else "%a %H:%M" if days < 7 else "%Y-%m-%d %H:%M")
