"""Intensity normalisation of one channel (recipe 5): float32 values in place, sums in float64.

nnU-Net divides by at least 1e-8 in any unit. Here the smallest divisor is relative to the image, so that diffusion in
m²/s (1e-9) is normalised like other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities

_SMALLEST_SHARE = 1e-8
"""Part of the largest magnitude; a smaller deviation is the rounding error of a constant image."""
_REACH = 100
"""Largest exponents of 2 for which float32 can hold differences and quotients of values."""
_VALUES_AT_ONCE = 1 << 16
"""Number of values whose float64 copies fit into the cache."""


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
    if scheme not in SCHEMES:
        raise SegflowError("the plans name an unknown normalisation", found=scheme, expected=sorted(SCHEMES))
    check_finite(image)
    SCHEMES[scheme](image, inside, intensities)


def check_finite(image: np.ndarray) -> None:
    """Refuse an image (Z, Y, X) with NaN or infinite values, which no statistics survive.

    Raises:
        SegflowError: It holds some.
    """
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        raise SegflowError(
            "the image holds values that are not numbers",
            found="NaN" if np.isnan(low + high) else "infinity",
            fix="Replace them in the image file, for example by 0.",
        )


def _z_score(image: np.ndarray, inside: np.ndarray | None, _: ChannelIntensities | None) -> None:
    if inside is None or inside.all():
        _standardize(image)
    elif inside.any():
        values = image[inside]
        _standardize(values)
        image[inside] = values


def _standardize(values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if low == high:
        values[...] = 0  # the mean of equal values may have a rounding error, which the division would enlarge
        return
    largest = _bring_within_reach(values, low, high)
    values -= np.float32(values.mean(dtype=np.float64))
    deviation = (_sum_of_squares(values.reshape(-1)) / values.size) ** 0.5
    values /= np.float32(max(deviation, _SMALLEST_SHARE * largest))


def _bring_within_reach(values: np.ndarray, low: float, high: float) -> float:
    """Scale values that are too large or too small for float32's sums and quotients by a power of two, in place.

    Args:
        values: float32; scaled by a power of two they are as exact as before.
        low, high: Their lowest and highest, not both 0.

    Returns:
        The largest magnitude, after scaling.
    """
    exponent = _exponent_out_of_reach(low, high)
    if exponent:
        np.ldexp(values, -exponent, out=values)
    return math.ldexp(max(abs(low), abs(high)), -exponent)


def _exponent_out_of_reach(low: float, high: float) -> int:
    """Power of two by which values between these must be divided; 0 for all but absurd ones."""
    _, exponent = math.frexp(max(abs(low), abs(high)))
    return exponent if abs(exponent) > _REACH else 0


def _sum_of_squares(values: np.ndarray) -> float:
    """Sum of squares in float64, part by part, so that the image is not copied.

    It uses no dot product: idle BLAS threads would spin and slow down a network that computes at the same time.
    """
    total = 0.0
    for start in range(0, values.size, _VALUES_AT_ONCE):
        part = values[start : start + _VALUES_AT_ONCE].astype(np.float64)
        total += float(np.square(part, out=part).sum())
    return total


def _ct(image: np.ndarray, _: np.ndarray | None, intensities: ChannelIntensities | None) -> None:
    if intensities is None:
        raise SegflowError("CT normalisation needs the dataset's foreground intensities, which the plans lack")
    low, high = intensities.percentile_00_5, intensities.percentile_99_5
    np.clip(image, low, high, out=image)
    exponent = _exponent_out_of_reach(low, high)
    if exponent:
        np.ldexp(image, -exponent, out=image)
    mean, deviation, low, high = (
        math.ldexp(value, -exponent) for value in (intensities.mean, intensities.std, low, high)
    )
    image -= np.float32(mean)
    image /= np.float32(max(deviation, _SMALLEST_SHARE * max(abs(low), abs(high))) or 1.0)


def _none(image: np.ndarray, _: np.ndarray | None, __: ChannelIntensities | None) -> None:
    pass


def _rescale(image: np.ndarray, _: np.ndarray | None, __: ChannelIntensities | None) -> None:
    low, high = float(image.min()), float(image.max())
    if low == high:
        image[...] = 0
        return
    _bring_within_reach(image, low, high)
    image -= image.min()
    image /= image.max()


def _rgb(image: np.ndarray, _: np.ndarray | None, __: ChannelIntensities | None) -> None:
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 255:
        raise SegflowError(
            "the channel is declared rgb_to_0_1 but does not hold 8-bit colours",
            found=f"values from {low:g} to {high:g}",
            expected="0 to 255",
            fix="Declare another channel name in dataset.json, or convert the image.",
        )
    image /= np.float32(255)


_Scheme = Callable[[np.ndarray, np.ndarray | None, ChannelIntensities | None], None]

SCHEMES: dict[str, _Scheme] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}
