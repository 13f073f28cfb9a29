"""Settings of the scores, and of the evaluation of folders."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.case_part import WHOLE, first_and_step
from segflow.core.errors import SegflowError

BOTH_EMPTY = ("nan", "one", "zero")
ONE_EMPTY = ("inf", "diagonal", "nan")


@dataclass(kw_only=True, slots=True)
class ScoreSettings:
    """Scores to compute, and the scores of empty labels.

    Attributes:
        volume: Whether to compute the volume difference.
        surface: Whether to compute HD95, mean surface distance and surface Dice.
        lesions: Whether to count connected components.
        tolerance_mm: Distance up to which the surface Dice counts surfaces as equal.
        lesion_overlap: A lesion counts as found if more than this share of it is covered. With 0, one voxel is enough.
        both_empty: Dice, IoU, surface Dice and lesion F1 if neither map holds the label. ``nan`` leaves the
            case out of the means (nnU-Net's rule). ``one`` counts it as right, with distances of 0. ``zero`` gives 0
            and leaves distances out.
        one_empty: Value of distances if only one map holds the label: ``inf``, ``diagonal`` (the diagonal of the volume
            in mm), or ``nan``, which leaves the case out of the means. The other scores are 0.
    """

    volume: bool = True
    surface: bool = True
    lesions: bool = True
    tolerance_mm: float = 2.0
    lesion_overlap: float = 0.0
    both_empty: str = "nan"
    one_empty: str = "inf"

    def __post_init__(self) -> None:
        for name, allowed in (("both_empty", BOTH_EMPTY), ("one_empty", ONE_EMPTY)):
            if getattr(self, name) not in allowed:
                raise SegflowError(
                    f"evaluation: unknown '{name}'", found=getattr(self, name), expected=" | ".join(allowed)
                )
        if not self.tolerance_mm >= 0:
            raise SegflowError("evaluation: 'tolerance_mm' cannot be negative", found=self.tolerance_mm)
        if not 0 <= self.lesion_overlap < 1:
            raise SegflowError("evaluation: 'lesion_overlap' is a share", found=self.lesion_overlap, expected="0 … <1")

    @property
    def empty_score(self) -> float:
        """Value of a score for a label that neither map holds."""
        return {"nan": float("nan"), "one": 1.0, "zero": 0.0}[self.both_empty]


def overlap_only() -> ScoreSettings:
    """Only nnU-Net's metrics, by which validation, postprocessing and selection decide."""
    return ScoreSettings(volume=False, surface=False, lesions=False)


@dataclass(kw_only=True, slots=True)
class EvaluateSettings:
    """Evaluation of folders.

    Attributes:
        scores: Scores to compute, and the scores of empty labels.
        partial: Skip references without a prediction instead of reporting them as missing.
        processes: Worker processes; null takes one per processor, or none for little work.
        part: ``k/n`` scores only every n-th case, starting at the k-th (from 0), and keeps the scores in ``output``.
            The same command without a part then makes the summary of them.
    """

    scores: ScoreSettings = field(default_factory=ScoreSettings)
    partial: bool = False
    processes: int | None = None
    part: str = WHOLE

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 0:
            raise SegflowError("evaluation: 'processes' cannot be negative", found=self.processes)
        first_and_step(self.part)
