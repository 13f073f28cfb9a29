"""Settings of a comparison of trainings. Quick to import."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError

CORRECTIONS = ("holm", "bonferroni", "none")


@dataclass(kw_only=True, slots=True)
class CompareSettings:
    """What is compared, and by which tests.

    Attributes:
        metric: Metrics to compare, such as ``dice``, ``hd95_mm``, ``surface_dice`` or one of your own; null takes Dice,
            HD95 and surface Dice, as far as all runs have them.
        lower_is_better: Metrics of your own of which a lower value is better.
        correction: Correction of p-values for several comparisons: ``holm``, ``bonferroni`` or ``none``. The means of
            all pairs are one family in each metric, and their single labels another one.
        alpha: A difference counts if its corrected p-value is below this, and if its interval, of which 1 - alpha is
            the confidence, does not hold 0.
        group_by: Which cases are of one patient and count as one, in the form of ``fold.group_by``; null goes by their
            names, and ``'.*'`` takes every case for a patient.
        resamples: Bootstrap samples of intervals and of ranks, and permutations of ranks.
    """

    metric: list[str] | None = None
    lower_is_better: list[str] = field(default_factory=list)
    correction: str = "holm"
    alpha: float = 0.05
    group_by: str | None = None
    resamples: int = 2000

    def __post_init__(self) -> None:
        if self.correction not in CORRECTIONS:
            raise SegflowError("unknown correction", found=self.correction, expected=" | ".join(CORRECTIONS))
        if not 0 < self.alpha < 1:
            raise SegflowError("alpha must lie between 0 and 1", found=self.alpha)
        if self.resamples < 100:
            raise SegflowError("resamples must be at least 100", found=self.resamples)
