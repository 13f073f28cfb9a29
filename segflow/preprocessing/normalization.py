"""Intensity normalisation of one channel (recipe 5). All in float32, in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities

_SMALLEST_DIVISOR = 1e-8


def normalize(
    image: np.ndarray, scheme: str, inside: np.ndarray | None = None, intensities: ChannelIntensities | None = None
) -> None:
    """Normalise one channel in place.

    Args:
        image: float32 (Z, Y, X), cropped.
        scheme: nnU-Net's class name, as the plans give it.
        inside: bool (Z, Y, X): statistics come from these voxels and the others stay as they are (z-score only);
            None for all voxels.
        intensities: The channel's foreground statistics over the dataset (CT only).

    Raises:
        SegflowError: The scheme is unknown, or the image does not suit it.
    """
    if scheme not in _SCHEMES:
        raise SegflowError("the plans name an unknown normalisation", found=scheme, expected=sorted(_SCHEMES))
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        raise SegflowError(
            "the image holds values that are not numbers",
            found="NaN" if np.isnan(low + high) else "infinity",
            fix="Replace them in the image file, for example by 0.",
        )
    _SCHEMES[scheme](image, inside, intensities)


def _z_score(image: np.ndarray, inside: np.ndarray | None, _: ChannelIntensities | None) -> None:
    if inside is None or inside.all():
        _standardize(image)
    elif inside.any():
        values = image[inside]
        _standardize(values)
        image[inside] = values


def _standardize(values: np.ndarray) -> None:
    if values.min() == values.max():
        values[...] = 0  # the mean of equal values may be off by a rounding error, which the division would blow up
        return
    values -= values.mean(dtype=np.float64).astype(np.float32)
    parts = values if values.ndim > 1 else np.array_split(values, -(-values.size // 2**18))
    squares = sum(float(np.vdot(part, part)) for part in parts)
    values /= np.float32(max((squares / values.size) ** 0.5, _SMALLEST_DIVISOR))


def _ct(image: np.ndarray, _: np.ndarray | None, intensities: ChannelIntensities | None) -> None:
    if intensities is None:
        raise SegflowError("CT normalisation needs the dataset's foreground intensities, which the plans lack")
    np.clip(image, intensities.percentile_00_5, intensities.percentile_99_5, out=image)
    image -= np.float32(intensities.mean)
    image /= np.float32(max(intensities.std, _SMALLEST_DIVISOR))


def _none(image: np.ndarray, _: np.ndarray | None, __: ChannelIntensities | None) -> None:
    pass


def _rescale(image: np.ndarray, _: np.ndarray | None, __: ChannelIntensities | None) -> None:
    image -= image.min()
    image /= np.float32(max(float(image.max()), _SMALLEST_DIVISOR))


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

_SCHEMES: dict[str, _Scheme] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "NoNormalization": _none,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}
