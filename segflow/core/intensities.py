"""Intensities that no measurement gives: markers of missing voxels, and scalings gone wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

LARGEST = 1e10
SMALLEST = 1e-15
"""Beyond these magnitudes there is no unit that images come in: from Bq/mL to m²/s all lie between."""
LARGE = 1e6
"""From this magnitude on it is looked whether a few voxels dwarf the others."""
DWARFED = 1e-3
FEW = 0.01

NAMED = 5
"""Cases that a message names before it says how many more there are."""

ABSURD_FIX = (
    "Do they mark missing voxels, or is the header's scaling wrong? Replace such values, for example by the air's."
)


def absurd_values(channel: np.ndarray) -> str | None:
    """What is absurd about a channel's values, in one clause; None where nothing is.

    Such an image is normalised all the same; where a few voxels dwarf the others, these come out as good as equal.

    Args:
        channel: float32 (Z, Y, X). NaN and infinity are not this function's concern.
    """
    if not channel.size:
        return None
    low, high = float(channel.min()), float(channel.max())
    extreme = high if high > -low else low
    largest = abs(extreme)
    if not math.isfinite(largest) or SMALLEST <= largest < LARGE or not largest:
        return None
    if largest < SMALLEST:
        return f"no value is larger than {largest:.3g}"
    beyond = np.abs(channel) > DWARFED * largest
    count = int(np.count_nonzero(beyond))
    others = channel[~beyond]
    if others.size and others.min() < others.max():
        huge = np.abs(channel[beyond])
        if count < FEW * channel.size or huge.min() == huge.max():
            return (
                f"{count} of {channel.size} voxels {'is' if count == 1 else 'are'} as large as {extreme:.3g}, "
                f"while the others lie between {others.min():.3g} and {others.max():.3g}"
            )
    return f"the values reach {extreme:.3g}" if largest > LARGEST else None


def absurd_channels(image: np.ndarray) -> str | None:
    """What is absurd about the channels of an image (C, Z, Y, X), in one clause; None where nothing is."""
    found = {number: clause for number, channel in enumerate(image) if (clause := absurd_values(channel)) is not None}
    return "; ".join(f"channel {number}: {clause}" for number, clause in found.items()) or None


def describe_absurd(found: Mapping[str, str]) -> str:
    """One line about all cases with such values, told with the first one's.

    Args:
        found: Case → clause of `absurd_channels`; not empty.
    """
    first, *others = sorted(found)
    cases = "1 case holds" if not others else f"{len(found)} cases hold"
    rest = f". Likewise {', '.join(others[:NAMED])}" if others else ""
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"{cases} values that no measurement gives. Case '{first}': {found[first]}{rest}{more}. {ABSURD_FIX}"
