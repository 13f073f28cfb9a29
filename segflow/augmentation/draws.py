"""Random choices as vectors over the samples of a batch, from one generator on the CPU.

They are made before any voxel is read and do not depend on voxels. The choices of a sample are therefore the same on
every device and with any other samples, and can be made before the patch is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

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
    """float32 factors of this shape: half of them below 1 and half above, each uniform on its side (recipe 7).

    If the lower limit is 1 or more, all are uniform between the limits.
    """
    low, high = limits
    above = uniform(shape, (max(low, 1.0), high), generator)
    below = uniform(shape, (low, 1.0), generator)
    if low >= 1:
        return above
    return torch.where(chance(shape, 0.5, generator), below, above)


def seeds(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """int64 seeds of this shape for random fields, which are too large to be drawn beforehand."""
    return torch.randint(2**62, tuple(shape), generator=generator)


def select(
    samples: int, channels: int, probability: float, channel_probability: float, generator: torch.Generator
) -> torch.Tensor:
    """Choose what a transform changes: bool (samples, channels), first the sample, then its channels."""
    chosen = chance((samples, 1), probability, generator)
    return chosen & chance((samples, channels), channel_probability, generator)


def selected(draws: Draws) -> Iterator[tuple[int, int]]:
    """The (sample, channel) pairs that `select` chose."""
    yield from map(tuple, draws["selected"].nonzero().tolist())


def named(prefix: str, draws: Draws) -> Draws:
    """The same draws under names with a prefix, as a part of larger ones. `part` is the inverse."""
    return {f"{prefix}/{name}": values for name, values in draws.items()}


def part(prefix: str, draws: Draws) -> Draws:
    """The draws that `named` put under a prefix."""
    start = f"{prefix}/"
    return {name.removeprefix(start): values for name, values in draws.items() if name.startswith(start)}


def is_selection(name: str) -> bool:
    """Whether a choice says which channels a step changes."""
    return name.rpartition("/")[2] == "selected"
