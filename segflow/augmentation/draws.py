"""Random choices as vectors over the samples of a batch, from one generator on the CPU.

They are made before any voxel is touched and never depend on one: so the choices of a sample are the same on every
device, next to any companions, and can be made before the patch is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from segflow.core.errors import SegflowError

Number = TypeVar("Number", int, float)

Draws = dict[str, torch.Tensor]
"""Name of a choice → its values, samples along axis 0."""


def chance(shape: Sequence[int], probability: float, generator: torch.Generator) -> torch.Tensor:
    """Independent yes/no choices: bool of this shape, True with this probability."""
    return torch.rand(tuple(shape), generator=generator) < probability


def uniform(shape: Sequence[int], limits: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """float32 of this shape, uniform between the limits."""
    low, high = limits
    return torch.rand(tuple(shape), generator=generator) * (high - low) + low


def whole(shape: Sequence[int], limits: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """int64 of this shape, uniform between the limits, both included."""
    return torch.randint(int(limits[0]), int(limits[1]) + 1, tuple(shape), generator=generator)


def factor(shape: Sequence[int], limits: Sequence[float], generator: torch.Generator) -> torch.Tensor:
    """float32 factors: half of them below 1 and half above, each uniform on its side (recipe 7).

    Where the lower limit is 1 or more, all are uniform between the limits.
    """
    low, high = limits
    above = uniform(shape, (max(low, 1.0), high), generator)
    below = uniform(shape, (low, 1.0), generator)
    if low >= 1:
        return above
    return torch.where(chance(shape, 0.5, generator), below, above)


def seeds(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """int64 seeds for random fields, which are too large to be drawn beforehand."""
    return torch.randint(2**62, tuple(shape), generator=generator)


def select(
    samples: int, channels: int, probability: float, channel_probability: float, generator: torch.Generator
) -> torch.Tensor:
    """What a transform changes: bool (samples, channels), the sample chosen first and then its channels."""
    chosen = chance((samples, 1), probability, generator)
    return chosen & chance((samples, channels), channel_probability, generator)


def selected(draws: Draws) -> Iterator[tuple[int, int]]:
    """The (sample, channel) pairs that `select` chose."""
    yield from map(tuple, draws["selected"].nonzero().tolist())


def check_probability(where: str, **values: float) -> None:
    """Refuse what is no probability.

    Raises:
        SegflowError: A value lies outside of 0 to 1.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SegflowError(f"augmentation.{where}.{name} must lie between 0 and 1", found=value)


def checked_range(where: str, name: str, value: Sequence[Number], lowest: float | None = None) -> tuple[Number, Number]:
    """A range as a tuple; configurations bring lists.

    Raises:
        SegflowError: The value is not two numbers in ascending order, or begins below ``lowest``.
    """
    if len(value) != 2 or value[0] > value[1] or (lowest is not None and value[0] < lowest):
        at_least = "" if lowest is None else f", none below {lowest:g}"
        raise SegflowError(
            f"augmentation.{where}.{name} must be a range",
            found=list(value),
            expected=f"two numbers in ascending order{at_least}",
        )
    return (value[0], value[1])
