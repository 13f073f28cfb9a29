"""How often `segflow compare` finds a difference between settings that are equal, and between some that are not.

Trainings are simulated: Dice is skewed, cases differ by how hard they are, seeds differ as a whole and in each case,
and a prediction fails now and then. ``python benchmarks/seed_noise.py`` prints the shares for several numbers of seeds
and cases; ``--trials`` makes them more precise.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from segflow.evaluation.paired import Column, compare_pair


@dataclass(frozen=True)
class World:
    """What differs between trainings, in units of the logit of Dice.

    Attributes:
        seeds: Standard deviation between seeds of one setting as a whole.
        cases: Standard deviation between seeds in a single case.
        settings: Standard deviation, over the cases, of how well a setting suits a case.
        failures: Share of predictions that fail, whose Dice is between 0 and 0.4.
    """

    seeds: float = 0.03
    cases: float = 0.15
    settings: float = 0.0
    failures: float = 0.01

    def trainings(
        self, generator: np.random.Generator, hardness: np.ndarray, seeds: int, better: float = 0.0
    ) -> np.ndarray:
        """float64 (seeds, cases): Dice of a setting. ``better`` is added to its logit."""
        shape = (seeds, len(hardness))
        logit = hardness + better + generator.normal(0, self.settings, len(hardness))
        logit = logit + generator.normal(0, self.seeds, (seeds, 1)) + generator.normal(0, self.cases, shape)
        dice = 1 / (1 + np.exp(-logit))
        failed = generator.random(shape) < self.failures
        return np.where(failed, generator.uniform(0, 0.4, shape), dice)


WORLDS = {
    "seeds alike": World(seeds=0.0, failures=0.0),
    "usual": World(),
    "noisy": World(seeds=0.1, cases=0.3, failures=0.02),
    "settings suit other cases": World(seeds=0.05, settings=0.1, failures=0.0),
}


def share_found(
    world: World, seeds: tuple[int, int], cases: int, trials: int, *, better: float = 0.0, number: int = 0
) -> tuple[float, float]:
    """Share of trials in which two settings are told apart, and their mean difference of Dice.

    Args:
        world: What differs between trainings.
        seeds: Trainings of each setting.
        cases: Cases that both are scored on.
        trials: Number of simulated comparisons.
        better: How much better the second is, see `World.trainings`; 0 for equal settings.
        number: Seed of the simulation.
    """
    generator = np.random.default_rng(number)
    found, differences = 0, []
    for _ in range(trials):
        hardness = generator.normal(2.2, 0.9, cases)
        tables = [
            world.trainings(generator, hardness, count, shift)
            for count, shift in zip(seeds, (0.0, better), strict=True)
        ]
        first, second = (Column(table, np.zeros(table.shape, bool)) for table in tables)
        pair = compare_pair(first, second, resamples=500)
        found += pair.winner(0.05) != 0
        differences.append(pair.difference)
    return found / trials, float(np.mean(differences))


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="simulated comparisons for each number")
    trials = parser.parse_args().trials
    print("| world | seeds | cases | equal settings told apart | better by 0.01 Dice | by 0.02 Dice |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, world in WORLDS.items():
        for cases in (20, 50, 100):
            for seeds in ((1, 1), (1, 3), (2, 2), (3, 3), (5, 5)):
                shares = [share_found(world, seeds, cases, trials, better=shift)[0] for shift in (0.0, 0.1, 0.2)]
                texts = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(f"| {name} | {seeds[0]} and {seeds[1]} | {cases} | {texts} |", flush=True)


if __name__ == "__main__":
    main()
