"""Several seeds: equal settings are not told apart, and real differences are found."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_ind

from segflow.evaluation.paired import SEEDS, WILCOXON, Column, compare_pair
from segflow.evaluation.seed_noise import seeds_and_cases, spread_of_seeds

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "seed_noise.py"


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("seed_noise_simulation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("world", ["seeds alike", "usual", "noisy", "settings suit other cases"])
@pytest.mark.parametrize("seeds", [(1, 3), (2, 2), (3, 3)])
def test_equal_settings_are_not_distinguishable(simulation: ModuleType, world: str, seeds: tuple[int, int]) -> None:
    """In 95 % of trials or more; with 300 trials chance adds at most three points (2.4 standard deviations)."""
    found, _ = simulation.share_found(simulation.WORLDS[world], seeds, 40, 300)
    assert found <= 0.08


def test_equal_settings_are_not_distinguishable_over_all(simulation: ModuleType) -> None:
    shares = [
        simulation.share_found(world, seeds, cases, 200, number=7)[0]
        for world in simulation.WORLDS.values()
        for seeds in ((2, 2), (3, 3))
        for cases in (20, 60)
    ]
    assert np.mean(shares) <= 0.05


def test_a_real_difference_is_found(simulation: ModuleType) -> None:
    calm = simulation.WORLDS["seeds alike"]
    found, difference = simulation.share_found(calm, (3, 3), 50, 100, better=0.1)
    assert difference == pytest.approx(0.01, abs=0.002)
    assert found > 0.85
    more, _ = simulation.share_found(calm, (5, 5), 50, 100, better=0.1)
    assert more >= found


def test_the_noise_of_seeds_widens_the_interval() -> None:
    generator = np.random.default_rng(0)
    cases = generator.uniform(0.7, 0.9, 40)
    calm = cases + generator.normal(0, 0.002, (6, 40))
    shifted = calm + np.array([-0.02, 0.0, 0.02, -0.02, 0.0, 0.02])[:, None]
    one, two = (seeds_and_cases(table[:3], table[3:]) for table in (calm, shifted))
    assert two.high - two.low > 5 * (one.high - one.low)
    assert two.low < 0 < two.high
    assert spread_of_seeds(shifted[:3]) == pytest.approx(0.02, abs=0.001)


def test_where_cases_agree_it_is_the_t_test_of_the_means_of_seeds() -> None:
    generator = np.random.default_rng(2)
    first, second = (generator.normal(0.8, 0.01, (3, 1)) + np.linspace(0, 0.1, 25) for _ in range(2))
    expected = ttest_ind(second.mean(axis=1), first.mean(axis=1))
    assert seeds_and_cases(first, second).p_value == pytest.approx(expected.pvalue)


def test_one_seed_of_each_knows_no_noise_and_a_second_one_brings_it_in() -> None:
    table = np.random.default_rng(1).uniform(0.6, 0.9, (3, 20))
    absent = np.zeros(table.shape, bool)
    first, second, both = (Column(table[part], absent[part]) for part in (slice(0, 1), slice(1, 2), slice(1, 3)))
    assert compare_pair(first, second).test == WILCOXON
    assert compare_pair(first, both).test == SEEDS
