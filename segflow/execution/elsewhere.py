"""Cases that other processes work on, each on a part of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

Elsewhere = Callable[[Sequence[str], Collection[str]], Mapping[str, str]]
"""Has cases done by other processes, and waits for them.

It gets the names of all cases, in the order in which parts count them, and the names of those to do. It returns a
message for each case that is known to have failed. Whether a case is done, its files say.
"""


def failures(missing: Iterable[str], told: Mapping[str, str]) -> dict[str, str]:
    """A message for each case whose result is missing afterwards.

    Args:
        missing: Names of these cases.
        told: What `Elsewhere` returned.
    """
    silent = "its process ended without making it, and did not say why"
    return {name: told.get(name, f"case '{name}': {silent}") for name in missing}
