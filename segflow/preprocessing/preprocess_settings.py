"""Settings of preprocessing."""

from __future__ import annotations

from dataclasses import dataclass

from segflow.core.case_part import WHOLE, first_and_step
from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class PreprocessSettings:
    """How preprocessing uses the machine.

    Attributes:
        processes: Cases to process at once; 0 works in this process, null takes one per processor.
        redo: Make all arrays again, even if they are up to date.
        part: ``k/n`` makes only the arrays of every n-th case, starting at the k-th (from 0).
    """

    processes: int | None = None
    redo: bool = False
    part: str = WHOLE

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 0:
            raise SegflowError("preprocessing.processes cannot be negative", found=self.processes)
        first_and_step(self.part)
