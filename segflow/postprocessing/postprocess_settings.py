"""What postprocessing may try."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class PostprocessSettings:
    """What is tried.

    Attributes:
        keep_largest: Whether to try the largest component, of the foreground and then of each label (nnU-Net's rule).
        min_volumes_mm3: Smallest volumes of a component to try for each label; the best is taken if it helps.
        fill_holes: Whether to try filling the holes of each label.
        max_case_loss: Refuse a step by which any case loses more Dice than this; null does not look at single cases.
        processes: Worker processes; null for as many as there are processors, or none for little work.
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
