"""The weight of a term of a blended loss, over the course of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from segflow.core.errors import SegflowError

CURVES = ("constant", "linear", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class TermWeight:
    """A weight that goes from one value to another while the training goes from one share of its length to another.

    Attributes:
        start: Weight until ``from_share``.
        end: Weight from ``to_share`` on; null for that of the start.
        curve: The way between them: ``linear``, ``cosine`` (slow at both ends), or ``constant``, which stays at start.
        from_share: Share of the training, from 0 to 1, at which the change begins.
        to_share: Share at which it ends.
    """

    start: float
    end: float | None = None
    curve: str = "linear"
    from_share: float = 0.0
    to_share: float = 1.0

    @classmethod
    def of(cls, term: str, value: Any) -> TermWeight:
        """The weight of a term from its setting: a number, or a mapping of the attributes.

        Raises:
            SegflowError: It is neither, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        if _is_number(value):
            value = {"start": value}
        if not isinstance(value, Mapping) or not {"start"} <= set(value) <= set(known):
            raise SegflowError(
                f"loss: the weight of the term '{term}' is no number and no schedule",
                found=value,
                expected=f"a number, or start and any of {', '.join(known[1:])}",
            )
        weight = cls(**value)
        weight._check(term, value)
        return weight

    def at(self, share: float) -> float:
        """The weight when this share of the training, from 0 to 1, is over."""
        if self.end is None or self.curve == "constant":
            return self.start
        length = self.to_share - self.from_share
        done = (share - self.from_share) / length if length > 0 else float(share >= self.to_share)
        done = min(max(done, 0.0), 1.0)
        if self.curve == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + done * (self.end - self.start)

    def _check(self, term: str, value: Mapping[str, Any]) -> None:
        numbers = [self.start, self.from_share, self.to_share, *([] if self.end is None else [self.end])]
        if not all(_is_number(number) and math.isfinite(number) and number >= 0 for number in numbers):
            raise SegflowError(f"loss: the weight of the term '{term}' needs numbers from 0 on", found=dict(value))
        if self.curve not in CURVES:
            raise SegflowError(
                f"loss: the curve of the weight of '{term}' is unknown", found=self.curve, expected=", ".join(CURVES)
            )
        if not self.from_share <= self.to_share <= 1:
            raise SegflowError(
                f"loss: the shares of the weight of '{term}' must rise from 0 to 1",
                found=f"from_share={self.from_share}, to_share={self.to_share}",
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
