"""Intensity normalisation (recipe 5): float32 values in place, sums in float64.

nnU-Net divides by at least 1e-8 in any unit. Here the smallest divisor is relative to the image, so that diffusion in
m²/s (1e-9) is normalised like other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.preprocessing.rescaling import UNCHANGED, Range, Rescaling, Squares, Sum, range_of

_SMALLEST_SHARE = 1e-8
"""Part of the largest magnitude; a smaller deviation is the rounding error of a constant image."""
_REACH = 100
"""Largest exponents of 2 for which float32 can hold differences and quotients of values."""

Z_SCORE = "ZScoreNormalization"

Blocks = Callable[[], Iterable[Sequence[np.ndarray]]]
"""Gives the values of several channels block by block, each time anew: one float32 (n,) per channel, in the order of
the voxels in memory."""


def normalize(
    image: np.ndarray, scheme: str, inside: np.ndarray | None = None, intensities: ChannelIntensities | None = None
) -> None:
    """Normalise one channel in place.

    Args:
        image: float32 (Z, Y, X), cropped.
        scheme: nnU-Net's class name, as the plans give it.
        inside: bool (Z, Y, X), for z-score only. Statistics come from these voxels, and the others stay as they are.
            None takes all voxels.
        intensities: The channel's foreground statistics over the dataset (CT only).

    Raises:
        SegflowError: The scheme is unknown, or the image does not suit it.
    """
    limits = check_finite(image)
    if scheme != Z_SCORE or inside is None or inside.all():
        (rescaling,) = find_rescalings([scheme], [intensities], [limits], lambda: [[image.reshape(-1)]])
        rescaling.apply(image)
    elif inside.any():
        values = image[inside]
        (rescaling,) = find_rescalings([scheme], [intensities], [range_of(values)], lambda: [[values]])
        rescaling.apply(values)
        image[inside] = values


def check_finite(image: np.ndarray) -> Range:
    """Refuse an image (Z, Y, X) with NaN or infinite values, which no statistics survive.

    Returns:
        Its lowest and highest value.

    Raises:
        SegflowError: It holds some.
    """
    limits = range_of(image)
    check_range(limits)
    return limits


def check_range(limits: Range) -> None:
    """Refuse an image by its lowest and highest value. See `check_finite`."""
    low, high = limits
    if not np.isfinite(low + high):
        raise SegflowError(
            "the image holds values that are not numbers",
            found="NaN" if np.isnan(low + high) else "infinity",
            fix="Replace them in the image file, for example by 0.",
        )


def find_rescalings(
    schemes: Sequence[str],
    intensities: Sequence[ChannelIntensities | None],
    ranges: Sequence[Range],
    blocks: Blocks,
) -> list[Rescaling]:
    """The normalisation of each channel, found from its voxels and the statistics of the dataset.

    Args:
        schemes: Scheme of each channel.
        intensities: The channels' foreground statistics over the dataset.
        ranges: Lowest and highest value of each channel's voxels.
        blocks: The channels' voxels. They are read twice if a channel's z-scores need it.

    Raises:
        SegflowError: A scheme is unknown, or the image does not suit it.
    """
    for scheme in schemes:
        if scheme not in SCHEMES:
            raise SegflowError("the plans name an unknown normalisation", found=scheme, expected=sorted(SCHEMES))
    found = [
        SCHEMES[scheme](*limits, known) for scheme, limits, known in zip(schemes, ranges, intensities, strict=True)
    ]
    scored = [number for number, scheme in enumerate(schemes) if scheme == Z_SCORE and found[number].divisor]
    if scored:
        chosen = [found[number] for number in scored]
        few = _standardized(chosen, [ranges[number] for number in scored], _only(blocks, scored))
        for number, rescaling in zip(scored, few, strict=True):
            found[number] = rescaling
    return found


def _only(blocks: Blocks, channels: Sequence[int]) -> Blocks:
    return lambda: ([parts[channel] for channel in channels] for parts in blocks())


def _standardized(begun: Sequence[Rescaling], ranges: Sequence[Range], blocks: Blocks) -> list[Rescaling]:
    sums = [Sum(rescaling.exponent) for rescaling in begun]
    for parts in blocks():
        for sum_, part in zip(sums, parts, strict=True):
            sum_.add(part)
    means = [float(np.float32(sum_.mean())) for sum_ in sums]
    squares = [Squares(rescaling.exponent, mean) for rescaling, mean in zip(begun, means, strict=True)]
    for parts in blocks():
        for square, part in zip(squares, parts, strict=True):
            square.add(part)
    result = []
    for rescaling, mean, square, (low, high) in zip(begun, means, squares, ranges, strict=True):
        largest = math.ldexp(max(abs(low), abs(high)), -rescaling.exponent)
        deviation = np.float32(max(square.mean() ** 0.5, _SMALLEST_SHARE * largest))
        result.append(Rescaling(exponent=rescaling.exponent, shift=mean, divisor=float(deviation)))
    return result


def _exponent_out_of_reach(low: float, high: float) -> int:
    """Power of two by which values between these must be divided; 0 for all but absurd ones.

    Divided by it, they are as exact as before.
    """
    _, exponent = math.frexp(max(abs(low), abs(high)))
    return exponent if abs(exponent) > _REACH else 0


def _z_score(low: float, high: float, _: ChannelIntensities | None) -> Rescaling:
    """The beginning of a z-score, without mean and deviation."""
    if low == high:
        # The mean of equal values may have a rounding error, which the division would enlarge.
        return Rescaling(divisor=None)
    return Rescaling(exponent=_exponent_out_of_reach(low, high))


def _ct(_: float, __: float, intensities: ChannelIntensities | None) -> Rescaling:
    if intensities is None:
        raise SegflowError("CT normalisation needs the dataset's foreground intensities, which the plans lack")
    limits = intensities.percentile_00_5, intensities.percentile_99_5
    exponent = _exponent_out_of_reach(*limits)
    mean, deviation, low, high = (
        math.ldexp(value, -exponent) for value in (intensities.mean, intensities.std, *limits)
    )
    divisor = np.float32(max(deviation, _SMALLEST_SHARE * max(abs(low), abs(high))) or 1.0)
    return Rescaling(limits, exponent, float(np.float32(mean)), float(divisor))


def _none(_: float, __: float, ___: ChannelIntensities | None) -> Rescaling:
    return UNCHANGED


def _rescale(low: float, high: float, _: ChannelIntensities | None) -> Rescaling:
    if low == high:
        return Rescaling(divisor=None)
    exponent = _exponent_out_of_reach(low, high)
    lowest, highest = np.ldexp(np.array([low, high], np.float32), -exponent)
    return Rescaling(exponent=exponent, shift=float(lowest), divisor=float(highest - lowest))


def _rgb(low: float, high: float, _: ChannelIntensities | None) -> Rescaling:
    if low < 0 or high > 255:
        raise SegflowError(
            "the channel is declared rgb_to_0_1 but does not hold 8-bit colours",
            found=f"values from {low:g} to {high:g}",
            expected="0 to 255",
            fix="Declare another channel name in dataset.json, or convert the image.",
        )
    return Rescaling(divisor=255.0)


_Scheme = Callable[[float, float, ChannelIntensities | None], Rescaling]

SCHEMES: dict[str, _Scheme] = {
    Z_SCORE: _z_score,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}
