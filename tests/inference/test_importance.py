"""The weights of a patch are nnU-Net's, without loading its filter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from segflow.inference.tiles import PEAK_WEIGHT, gaussian_importance


@pytest.mark.parametrize("patch", [(1,), (2, 3), (40, 56, 40), (7, 512), (128, 1, 20)])
def test_weights_are_those_of_a_filtered_point(patch: tuple[int, ...]) -> None:
    point = np.zeros(patch)
    point[tuple(size // 2 for size in patch)] = 1.0
    filtered = gaussian_filter(point, [size / 8 for size in patch], 0, mode="constant", cval=0)
    expected = (filtered / filtered.max() * PEAK_WEIGHT).astype(np.float16)
    expected[expected == 0] = expected[expected > 0].min()
    assert np.array_equal(gaussian_importance(patch), expected.astype(np.float32))
