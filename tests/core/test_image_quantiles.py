"""The percentiles of an image's values."""

from __future__ import annotations

import numpy as np
import pytest

from segflow.core.training_images import PERCENTS, sample_quantiles


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 1000, 65536])
def test_they_are_numpys_to_the_last_bit(count: int, kind: type) -> None:
    values = np.abs(np.random.default_rng(count).normal(1, 60, count)).astype(kind)
    kept = values[values != 0].astype(np.float64)
    expected = np.percentile(kept, PERCENTS).tolist() if len(kept) else [0.0] * len(PERCENTS)
    assert list(sample_quantiles(values)) == expected


def test_zeros_and_what_is_no_number_are_left_out() -> None:
    values = np.array([0, np.nan, 5, np.inf, 7, 0, -np.inf, 9], np.float32)
    assert sample_quantiles(values) == sample_quantiles(np.array([5, 7, 9], np.float32))
    assert sample_quantiles(np.zeros(4, np.float32)) == (0.0,) * len(PERCENTS)
