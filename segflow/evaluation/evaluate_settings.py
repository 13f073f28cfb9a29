"""Which scores are computed, and how folders are gone through."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError

BOTH_EMPTY = ("nan", "one", "zero")
ONE_EMPTY = ("inf", "diagonal", "nan")


@dataclass(kw_only=True, slots=True)
class ScoreSettings:
    """Which scores are computed, and what an empty label counts.

    Attributes:
        volume: Whether to compute the volume difference.
        surface: Whether to compute HD95, mean surface distance and surface Dice.
        lesions: Whether to count connected components.
        tolerance_mm: Distance up to which the surface Dice takes surfaces for equal.
        lesion_overlap: Share of a lesion that must be covered for it to count as found; 0: any voxel.
        both_empty: What Dice, IoU, surface Dice and lesion F1 are where neither map holds the label. ``nan``: left out
            of the means (nnU-Net's rule); ``one``: a right answer, distances are 0; ``zero``: 0, distances left out.
        one_empty: What the distances are where one map holds the label and the other does not: ``inf``;
            ``diagonal``: the diagonal of the volume in mm; ``nan``: left out of the means. The scores are 0.
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
    """nnU-Net's metrics and nothing else: what validation, postprocessing and selection decide by."""
    return ScoreSettings(volume=False, surface=False, lesions=False)


@dataclass(kw_only=True, slots=True)
class EvaluateSettings:
    """How folders are evaluated.

    Attributes:
        scores: Which scores, and what empty labels count.
        partial: Whether references without a prediction are passed over instead of reported as missing.
        processes: Worker processes; null for as many as there are processors, or none for little work.
    """

    scores: ScoreSettings = field(default_factory=ScoreSettings)
    partial: bool = False
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 0:
            raise SegflowError("evaluation: 'processes' cannot be negative", found=self.processes)
