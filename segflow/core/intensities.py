"""Intensities that no measurement gives: markers of missing voxels, and scalings gone wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from segflow.core.fingerprint import ChannelIntensities
from segflow.core.wording import some

LARGEST = 1e10
SMALLEST = 1e-15
"""No image has values beyond these magnitudes, in any unit from Bq/mL to m²/s."""
LARGE = 1e6
"""From this magnitude on, a channel is checked for a few voxels that dwarf the others."""
DWARFED = 1e-3
FEW = 0.01

FEW_LABELS = 8
"""A channel with at most this many distinct whole values holds labels or a mask, unless training images had as few."""
SAMPLE = 20_000  # voxels; enough to tell nearly every image from a label map


ABSURD_FIX = (
    "Do they mark missing voxels, or is the header's scaling wrong? Replace such values, for example by the air's."
)


def absurd_values(channel: np.ndarray) -> str | None:
    """Why a channel's values cannot be measurements, in one clause; None if they can.

    Such an image is normalised all the same. Where a few voxels dwarf the others, the others become almost equal.

    Args:
        channel: float32 (Z, Y, X). NaN and infinity are not looked for here.
    """
    if not channel.size:
        return None
    return why_absurd(float(channel.min()), float(channel.max()), channel.size, lambda: [channel])


def why_absurd(low: float, high: float, voxels: int, parts: Callable[[], Iterable[np.ndarray]]) -> str | None:
    """Like `absurd_values`, for a channel that is read in parts, and only where its range is suspicious.

    Args:
        low, high: Its lowest and highest value.
        voxels: Number of its values.
        parts: Gives all its values, float32, in arrays of any shape and order.
    """
    extreme = high if high > -low else low
    largest = abs(extreme)
    if not math.isfinite(largest) or SMALLEST <= largest < LARGE or not largest:
        return None
    if largest < SMALLEST:
        return f"no value is larger than {largest:.3g}"
    count, huge, others = 0, _Range(), _Range()
    for values in parts():
        magnitudes = np.abs(values)
        beyond = magnitudes > DWARFED * largest
        count += int(np.count_nonzero(beyond))
        huge.take(magnitudes[beyond])
        others.take(values[~beyond])
    if others.low < others.high and (count < FEW * voxels or huge.low == huge.high):
        return (
            f"{count} of {voxels} voxels {'is' if count == 1 else 'are'} as large as {extreme:.3g}, "
            f"while the others lie between {others.low:.3g} and {others.high:.3g}"
        )
    return f"the values reach {extreme:.3g}" if largest > LARGEST else None


class _Range:
    """Lowest and highest of values that come in parts."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def take(self, values: np.ndarray) -> None:
        """Add values, an array of any shape."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))


def absurd_channels(image: np.ndarray) -> str | None:
    """Why the channels of an image (C, Z, Y, X) cannot be measurements, in one clause; None if they can."""
    return channel_clauses([absurd_values(channel) for channel in image])


def channel_clauses(clauses: Sequence[str | None]) -> str | None:
    """The clauses about the channels of an image as one text; None if there is none."""
    return "; ".join(f"channel {n}: {clause}" for n, clause in enumerate(clauses) if clause is not None) or None


def describe_absurd(found: Mapping[str, str]) -> str:
    """One line about all cases with such values, which shows the first one's.

    Args:
        found: Case → clause of `absurd_channels`; not empty.
    """
    first, *others = sorted(found)
    cases = "1 case holds" if not others else f"{len(found)} cases hold"
    rest = f". Likewise {some(others)}" if others else ""
    return f"{cases} values that no measurement gives. Case '{first}': {found[first]}{rest}. {ABSURD_FIX}"


def labels_for_image(
    image: np.ndarray, trained: Sequence[ChannelIntensities], label_count: int
) -> tuple[list[int], ChannelIntensities] | None:
    """The values of an image that is really a label map, and the model's training intensities. None for an image.

    A label map holds a few whole numbers. So may a true channel, such as a mask; its training intensities show that.

    Args:
        image: (C, Z, Y, X), as read.
        trained: Foreground intensities of each channel in the training images.
        label_count: Labels of the model, background included.
    """
    found: tuple[list[int], ChannelIntensities] | None = None
    for channel, usual in zip(image, trained, strict=False):
        if _has_few_values(usual):
            continue
        values = _whole_values(channel, max(label_count, FEW_LABELS))
        if values is None:
            return None
        found = found or (values, usual)
    return found


def _has_few_values(usual: ChannelIntensities) -> bool:
    steps = {usual.min, usual.percentile_00_5, usual.median, usual.percentile_99_5, usual.max}
    return len(steps) <= 3 and all(float(step).is_integer() for step in steps)


def _whole_values(channel: np.ndarray, most: int) -> list[int] | None:
    """The distinct values of a channel if they are whole numbers and at most ``most``; else None."""
    flat = channel.ravel()
    values = np.unique(flat[:: max(1, flat.size // SAMPLE)])
    if len(values) <= most:  # the sample was not enough: look at all voxels
        values = np.union1d(values, np.unique(flat[~np.isin(flat, values)]))
    if len(values) > most or not np.all(values == np.round(values)):
        return None
    return [int(value) for value in values]
