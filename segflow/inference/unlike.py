"""How an image differs from a model's training images: unit, modality, order of channels, spacing.

Each image is compared with the ranges that the training images span. Limits lie far outside of what a held-out image of
the same dataset does, and well within what the mistakes do; ``benchmarks/unlike.py`` prints both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.training_images import MOST_PAIRED, Features, ImageFacts, Range, TrainingImages

FACTOR = 5.0
"""An image's spread of values beyond the training images' by more than this factor is of another unit."""
SHIFT = 0.2
"""Share of its spread by which an image's values lie beyond the training images', from which on they are shifted."""
MOST_OFFSET = 1.5
"""Values farther from 0 than so many spreads say more of an image's contrast than of its zero."""
GAIN = 0.3
"""By how much another order of the channels must fit better. It is in units of `_distance`."""
BETTER = 0.7
"""The most that may remain of the distance in that order."""
SPACING_FACTOR, SPACING_FACTOR_OF_FEW, FEW = 2.0, 4.0, 20
"""Factor beyond the range of spacings that is told, and that after a training on few images, which span less."""

MOST_PERMUTED = 4
"""Channels up to which all orders are tried; of more, only pairs are exchanged."""
OFFSETS = (1024.0, -1024.0, 1000.0, -1000.0, 32768.0, -32768.0)
"""Offsets between common ways to store CT."""
MOST_POWER = 10
"""Powers of ten up to which units differ."""
SHIFTED_BY_SOME = 5
"""Percentiles of seven that must lie beyond the training images' on the same side."""

CT = "CTNormalization"
AIR, SHIFTED_CT = -100.0, 500.0
"""HU: a CT has darker values than the first; soft tissue lies less than the second above the foreground's."""
FACTOR_OF_FOREGROUND = 20.0
"""A CT has no values farther from 0 than the foreground's by this factor."""


def differences(
    image: ImageFacts, training: TrainingImages, channels: Sequence[str], axes: Sequence[int]
) -> list[SegflowError]:
    """How an image differs from the training images, most telling first; an empty list if it is like them.

    Args:
        image: The image, turned as the training images are.
        training: The training images.
        channels: Names of the channels.
        axes: Array axes whose spacing is compared; a 2D model has two.
    """
    quantiles = np.array(image.quantiles, np.float64)
    order = better_order(quantiles, training)
    found = [] if order is None else [_swapped(order, quantiles, training, channels)]
    quantiles = quantiles if order is None else quantiles[list(order)]
    found += _other_values(quantiles, training, channels)
    return found + list(_other_spacing(image, training, axes))


def differences_from_plans(
    image: ImageFacts, foreground: Sequence[ChannelIntensities], schemes: Sequence[str]
) -> list[SegflowError]:
    """Like `differences`, for a model that only knows the intensities of its foreground. Only CT is compared.

    Args:
        image: The image.
        foreground: Intensities of the foreground of each channel.
        schemes: nnU-Net's name of each channel's normalisation.
    """
    found = []
    for number, (own, usual, scheme) in enumerate(zip(image.quantiles, foreground, schemes, strict=False)):
        if scheme != CT:
            continue
        largest = max(abs(usual.min), abs(usual.max))
        shifted = own[0] > AIR and own[5] - usual.percentile_99_5 > SHIFTED_CT
        scaled = largest > 0 and max(abs(own[0]), abs(own[-1])) > FACTOR_OF_FOREGROUND * largest
        if shifted or scaled:
            found.append(
                SegflowError(
                    f"the values of channel {number} are no Hounsfield units, in which the model was trained",
                    found=_percentiles(np.array(own)),
                    expected=f"a foreground from {usual.percentile_00_5:.5g} to {usual.percentile_99_5:.5g}, and air "
                    "near -1000",
                    fix="Divide by the unit's factor." if scaled else "Subtract 1024.",
                )
            )
    return found


def better_order(quantiles: np.ndarray, training: TrainingImages) -> tuple[int, ...] | None:
    """An order of the channels (C, Q) in which they are like the training images, if they are not as they are."""
    count = len(quantiles)
    if count < 2 or count > MOST_PAIRED:
        return None
    own = _distance(quantiles, training)
    distances = {order: _distance(quantiles[list(order)], training) for order in _orders(count)}
    best = min(distances, key=lambda order: distances[order])
    return best if own - distances[best] > GAIN and distances[best] < BETTER * own else None


def shifts(quantiles: np.ndarray, training: TrainingImages) -> np.ndarray:
    """By which share of their spread the channels' values (C, Q) lie beyond the training images', signed (C,)."""
    position = Features.of(quantiles).position
    edges = np.maximum(*(np.abs(side).max(1) for side in training.position))
    relative = _common(_beyond(position, training.position))
    widest = 10.0 ** training.spread[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        absolute = _common(_beyond(quantiles, training.quantiles) / widest[:, None])
    chosen: np.ndarray = np.where(edges <= MOST_OFFSET, relative, np.nan_to_num(absolute))
    return chosen


def factors(quantiles: np.ndarray, training: TrainingImages) -> np.ndarray:
    """Decimal logarithm of the factor by which the channels' spreads lie beyond the training images', signed (C,)."""
    spread = Features.of(quantiles).spread
    beyond: np.ndarray = np.where(np.isfinite(spread), _beyond(spread, training.spread), 0.0)
    return beyond


def _orders(count: int) -> Iterator[tuple[int, ...]]:
    same = tuple(range(count))
    if count <= MOST_PERMUTED:
        yield from (order for order in permutations(same) if order != same)
        return
    for a, b in combinations(same, 2):
        yield tuple(b if k == a else a if k == b else k for k in same)


def _distance(quantiles: np.ndarray, training: TrainingImages) -> float:
    """How far an image's channels lie beyond the training images', each by itself and in relation to the others."""
    own = Features.of(quantiles)
    return float(
        np.abs(_beyond(own.spread, training.spread)).sum()
        + np.abs(_beyond(own.position, training.position)).mean(1).sum()
        + np.abs(_beyond(own.pairs, training.pairs)).sum()
    )


def _beyond(values: np.ndarray, usual: Range) -> np.ndarray:
    """How far values lie above the highest (positive) or below the lowest (negative); 0 between them."""
    with np.errstate(invalid="ignore"):  # a constant channel's spread is infinite
        beyond: np.ndarray = np.maximum(values - usual[1], 0.0) - np.maximum(usual[0] - values, 0.0)
    return beyond


def _common(beyond: np.ndarray) -> np.ndarray:
    """What `SHIFTED_BY_SOME` of the quantiles (C, Q) exceed on the same side, signed (C,)."""
    ordered = np.sort(beyond, 1)
    above, below = ordered[:, -SHIFTED_BY_SOME], ordered[:, SHIFTED_BY_SOME - 1]
    common: np.ndarray = np.where(above > 0, above, np.minimum(below, 0.0))
    return common


def _swapped(
    order: tuple[int, ...], quantiles: np.ndarray, training: TrainingImages, channels: Sequence[str]
) -> SegflowError:
    moved = [k for k, source in enumerate(order) if source != k]
    named = " and ".join(f"{k} ({channels[k]})" for k in moved)
    return SegflowError(
        f"channels {named} look swapped" if len(moved) == 2 else "the channels look as if their order were another",
        found="; ".join(f"channel {k}: {_percentiles(quantiles[k])}" for k in moved),
        expected="; ".join(f"channel {k}: {_ranges(training, k)}" for k in moved),
        fix=f"Give the files in this order: {', '.join(f'channel {source}' for source in order)}.",
    )


def _other_values(quantiles: np.ndarray, training: TrainingImages, channels: Sequence[str]) -> list[SegflowError]:
    found = []
    factor, shift = factors(quantiles, training), shifts(quantiles, training)
    for k, channel in enumerate(channels):
        scaled, shifted = abs(factor[k]) > np.log10(FACTOR), abs(shift[k]) > SHIFT
        if not scaled and not shifted:
            continue
        found.append(
            SegflowError(
                f"the values of channel {k} ({channel}) are unlike those of the training images"
                + ("" if shifted else ": they spread too far" if factor[k] > 0 else ": they spread too little"),
                found=_percentiles(quantiles[k]),
                expected=f"{_ranges(training, k)} in {training.cases} images",
                fix=_remedy(quantiles, training, k) or "Is it of another modality, or in another unit?",
            )
        )
    return found


def _remedy(quantiles: np.ndarray, training: TrainingImages, channel: int) -> str | None:
    """The step after which a channel is like the training images, if there is a common one."""

    def rest(changed: np.ndarray) -> float:
        both = quantiles.copy()
        both[channel] = changed
        return float(abs(factors(both, training)[channel]) + abs(shifts(both, training)[channel]))

    own = quantiles[channel]
    steps = {}
    difference = Features.of(quantiles).spread[channel] - (training.spread[0] + training.spread[1])[channel] / 2
    power = round(difference) if abs(difference) < MOST_POWER else 0
    if power:
        steps[f"{'Divide' if power > 0 else 'Multiply'} by {10 ** abs(power)}."] = own / 10.0**power
    steps |= {f"{'Subtract' if by > 0 else 'Add'} {abs(by):g}.": own - by for by in OFFSETS}
    rests = {step: rest(changed) for step, changed in steps.items()}
    best = min(rests, key=lambda step: rests[step])
    return best if rests[best] < SHIFT else None


def _other_spacing(image: ImageFacts, training: TrainingImages, axes: Sequence[int]) -> Iterator[SegflowError]:
    limit = SPACING_FACTOR if training.cases >= FEW else SPACING_FACTOR_OF_FEW
    own, (low, high) = np.array(image.spacing), training.spacing
    beyond = np.maximum(own / high, low / own)[list(axes)]
    if beyond.max() > limit:
        extent = [f"{n * s:.4g}" for n, s in zip(image.shape, image.spacing, strict=True)]
        usual = [f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True)]
        shapes = " to ".join(" × ".join(f"{n:g}" for n in side) for side in training.shape)
        spacing = ", ".join(f"{s:.4g}" for s in own)
        yield SegflowError(
            f"the spacing is {beyond.max():.3g} times beyond that of the training images",
            found=f"({spacing}) mm along z, y, x; the image is {' × '.join(extent)} mm large",
            expected=f"({', '.join(usual)}) mm in {training.cases} images of {shapes} voxels",
            fix="Is the header in millimetres?",
        )


_SHOWN = (0, 3, 6)


def _percentiles(quantiles: np.ndarray) -> str:
    low, middle, high = (f"{quantiles[k]:.5g}" for k in _SHOWN)
    return f"values from {low} over {middle} to {high} (percentiles 0.5, 50, 99.5)"


def _ranges(training: TrainingImages, channel: int) -> str:
    low, high = (side[channel] for side in training.quantiles)
    first, middle, last = (f"{low[k]:.5g}…{high[k]:.5g}" for k in _SHOWN)
    return f"{first} over {middle} to {last}"
