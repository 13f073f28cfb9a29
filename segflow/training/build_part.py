"""Building of a training's parts, which may be a user's own, with checks of their contracts (`protocols`)."""

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
        name: Name of the part, for messages.
        build: The factory, with its options bound.
        contract: Arguments and result, for messages.
        positional, keywords: The arguments.
        has: Attributes that the result must have.

    Raises:
        SegflowError: The call failed, or the result lacks an attribute.
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
