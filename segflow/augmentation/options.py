"""Checks of options against their declared types and ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from segflow.core.errors import SegflowError

Number = TypeVar("Number", int, float)

PLAIN = (bool, int, float, str, type(None))


def check_types(options: Any, where: str) -> None:
    """Convert the fields of a dataclass to their declared plain types, such as lists to tuples.

    Fields of other types are not changed.

    Args:
        options: Instance of a dataclass, changed in place.
        where: Its name in messages.

    Raises:
        SegflowError: A value has another type, or another number of items.
    """
    hints = get_type_hints(type(options))
    for field in fields(options):
        if not field.init or not _is_plain(hints[field.name]):
            continue
        value = getattr(options, field.name)
        try:
            setattr(options, field.name, msgspec.convert(value, hints[field.name]))
        except msgspec.ValidationError as error:
            expected = str(error).removeprefix("Expected ")
            raise SegflowError(f"{where}.{field.name} has the wrong type", found=value, expected=expected) from error


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) in (tuple, list, dict, Union, UnionType):
        return all(part is ... or _is_plain(part) for part in get_args(hint))
    return hint in PLAIN


def check_probability(where: str, **values: float) -> None:
    """Refuse values that are not probabilities.

    Args:
        where: Name, in messages, of what the values belong to.
        values: Values by the names of their options.

    Raises:
        SegflowError: A value lies outside of 0 to 1.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SegflowError(f"{where}.{name} must lie between 0 and 1", found=value)


def checked_range(where: str, name: str, value: Sequence[Number], lowest: float | None = None) -> tuple[Number, Number]:
    """A range as a tuple.

    Args:
        where: Name, in messages, of what the range belongs to.
        name: Name of the option.
        value: The two ends.
        lowest: Limit that neither end may be below.

    Raises:
        SegflowError: The value is not two numbers in ascending order, or begins below ``lowest``.
    """
    if len(value) != 2 or value[0] > value[1] or (lowest is not None and value[0] < lowest):
        at_least = "" if lowest is None else f", none below {lowest:g}"
        raise SegflowError(
            f"{where}.{name} must be a range",
            found=list(value),
            expected=f"two numbers in ascending order{at_least}",
        )
    return (value[0], value[1])
