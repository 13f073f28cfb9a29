"""Settings of the choice of postprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class PostprocessSettings:
    """Candidates that are tried, and limits.

    Attributes:
        keep_largest: Try the largest component, first of the foreground, then of each label (nnU-Net's rule).
        min_volumes_mm3: Minimum volumes of components in mm³ to try for each label. The best is taken if it helps.
        fill_holes: Try to fill the holes of each label.
        max_case_loss: Refuse a step if any case loses more Dice than this; null sets no limit for single cases.
        processes: Worker processes; null takes one per processor, or none for little work.
    """

    keep_largest: bool = True
    min_volumes_mm3: list[float] = field(default_factory=list)
    fill_holes: bool = False
    max_case_loss: float | None = None
    processes: int | None = None

    def __post_init__(self) -> None:
        self.min_volumes_mm3 = sorted(float(volume) for volume in self.min_volumes_mm3)
        if self.min_volumes_mm3 and not self.min_volumes_mm3[0] > 0:
            raise SegflowError("postprocessing: 'min_volumes_mm3' must be positive", found=self.min_volumes_mm3)
        if self.max_case_loss is not None and not self.max_case_loss >= 0:
            raise SegflowError("postprocessing: 'max_case_loss' cannot be negative", found=self.max_case_loss)
