"""Draws that are looked up are those of numpy's generator."""

from __future__ import annotations

import numpy as np
import pytest

from segflow.planning import repeated_draws
from segflow.planning.repeated_draws import RepeatedDraws


@pytest.mark.parametrize("samples", [1, 1000, 300_000, 500_000])
@pytest.mark.parametrize("sizes", [(3,), (1, 2), (4096, 4097), (2047, 5, 1, 300), (8192, 8193, 20), (50_000, 7)])
def test_counts_equal_those_of_the_generator(sizes: tuple[int, ...], samples: int) -> None:
    generator, draws = np.random.RandomState(1234), RepeatedDraws()
    for size in sizes:
        expected = np.bincount(generator.randint(0, size, size=samples), minlength=size)
        found = draws.counts(size, samples)
        assert found.dtype == np.int64
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("at_once", [100, 1 << 22])
@pytest.mark.parametrize("sizes", [(3,), (700, 1, 5000), (20_000, 20_001), (90_000, 7)])
def test_what_was_drawn_is_that_of_the_counts(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], at_once: int
) -> None:
    monkeypatch.setattr(repeated_draws, "_DRAWS_AT_ONCE", at_once)
    for samples in (1, 15_000):
        counted, listed = RepeatedDraws(), RepeatedDraws()
        for size in sizes:
            expected = counted.counts(size, samples)
            present, counts = listed.drawn(size, samples)
            assert np.array_equal(present, np.flatnonzero(expected))
            assert np.array_equal(counts, expected[present])


def test_more_draws_than_are_kept_go_on_where_they_end() -> None:
    """The third channel needs numbers behind the kept ones, and small parts end within a part, or with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_draws, "_LENGTH", 1 << 12)
        patch.setattr(repeated_draws, "_PART", 1 << 5)
        repeated_draws._numbers.cache_clear()
        repeated_draws._counts_before.cache_clear()
        for samples in range(1000, 1040):
            generator, draws = np.random.RandomState(1234), RepeatedDraws()
            for size in (64, 33, 65, 5):
                expected = np.bincount(generator.randint(0, size, size=samples), minlength=size)
                assert np.array_equal(draws.counts(size, samples), expected)
    repeated_draws._numbers.cache_clear()
    repeated_draws._counts_before.cache_clear()
