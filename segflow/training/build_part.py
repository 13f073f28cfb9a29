"""Parts of a training, which may be a user's own: built, and held to their contract (`protocols`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from segflow.core.errors import SegflowError

Built = TypeVar("Built")


def build_part(
    name: str, build: Callable[..., Built], contract: str, *positional: Any, has: Sequence[str] = (), **keywords: Any
) -> Built:
    """Call a part's factory.

    Args:
        name: What the part is, for messages.
        build: The factory, with its options bound.
        contract: What it is called with and what it gives, for messages.
        positional, keywords: What it is called with.
        has: Attributes that what it gives must have.

    Raises:
        SegflowError: It cannot be called so, or gives something without those attributes.
    """
    try:
        built = build(*positional, **keywords)
    except TypeError as error:
        raise SegflowError(f"the {name} cannot be built", found=error, expected=contract) from error
    missing = [attribute for attribute in has if not hasattr(built, attribute)]
    if missing:
        kind = type(built)
        found = f"{kind.__module__}.{kind.__qualname__} without {', '.join(missing)}"
        raise SegflowError(f"the {name} does not keep its contract", found=found, expected=contract)
    return built
