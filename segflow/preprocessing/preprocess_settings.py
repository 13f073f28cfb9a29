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
        max_memory_gb: Memory in GB that the cases in work may need together; null takes four fifths of the memory
            of the machine or container.
        redo: Make all arrays again, even if they are up to date.
        part: ``k/n`` makes only the arrays of every n-th case, starting at the k-th (from 0).
    """

    processes: int | None = None
    max_memory_gb: float | None = None
    redo: bool = False
    part: str = WHOLE

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 0:
            raise SegflowError("preprocessing.processes cannot be negative", found=self.processes)
        if self.max_memory_gb is not None and not self.max_memory_gb > 0:
            raise SegflowError("preprocessing.max_memory_gb must be positive", found=self.max_memory_gb)
        first_and_step(self.part)
