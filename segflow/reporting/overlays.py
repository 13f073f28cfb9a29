"""Pictures of a case: one slice of the image with labels in colour (recipe 14.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from colorsys import hsv_to_rgb

import numpy as np
from PIL import Image

FIRST_COLOURS = (
    (67, 99, 216), (245, 130, 49), (60, 180, 75), (230, 25, 75), (145, 30, 180), (255, 225, 25), (66, 212, 244),
    (240, 50, 230), (191, 239, 69), (250, 190, 212), (70, 153, 144), (220, 190, 255), (154, 99, 36), (170, 255, 195),
    (128, 128, 0),
)  # fmt: skip
"""Colours that eyes tell apart best."""

COLOURS = 255


def _further_colours(count: int) -> Iterator[tuple[int, int, int]]:
    """Hues a golden section apart, so that neighbours differ; each round of three has other tones."""
    for number in range(count):
        saturation, value = ((0.55, 1.0), (0.9, 0.7), (0.75, 0.9))[number % 3]
        red, green, blue = hsv_to_rgb(number * 0.618034 % 1, saturation, value)
        yield round(255 * red), round(255 * green), round(255 * blue)


PALETTE = (*FIRST_COLOURS, *_further_colours(COLOURS - len(FIRST_COLOURS)))
"""Colours of label 1, 2, …, repeated after the last. A label's colour does not depend on others in the slice."""

SMALLEST_PICTURE, LARGEST_PICTURE = 256, 768
"""Pixels of a picture's longer side; slices are enlarged or reduced to it."""


def best_slice(label: np.ndarray) -> int:
    """The slice of the first axis that shows the most foreground.

    It maximises the mean over the foreground labels of the share of a label that lies in the slice.

    Args:
        label: Whole numbers (Z, Y, X); values below 1 are background.

    Returns:
        Index of the slice; the middle one if there is no foreground.
    """
    flat = label.reshape(len(label), -1)
    present = np.unique(flat)
    present = present[present > 0]
    if not present.size:
        return len(label) // 2
    highest = int(present[-1])
    counts = np.stack([np.bincount(np.maximum(one, 0), minlength=highest + 1) for one in flat])[:, present]
    return int(np.argmax((counts / counts.sum(0)).mean(1)))


def draw_overlay(image: np.ndarray, label: np.ndarray, spacing: Sequence[float], *, opacity: float = 0.5) -> np.ndarray:
    """A slice in grey with its labels in colour, in true proportions.

    Args:
        image: (Y, X).
        label: Whole numbers (Y, X).
        spacing: mm along y, x.
        opacity: Opacity of the labels, 0 to 1.

    Returns:
        uint8 (height, width, 3).
    """
    low, high = np.percentile(image, [0.5, 99.5])  # otherwise a few bright voxels would leave the rest black
    grey = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    inside = label > 0
    colors = np.asarray(PALETTE, dtype=np.float32)[(label[inside].astype(np.int64) - 1) % len(PALETTE)]
    picture[inside] = (1 - opacity) * picture[inside] + opacity * colors
    height, width = (n * s for n, s in zip(image.shape, spacing, strict=True))
    scale = np.clip(max(image.shape), SMALLEST_PICTURE, LARGEST_PICTURE) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    enlarged = size[0] >= image.shape[1] and size[1] >= image.shape[0]
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(size, method))
