"""How preprocessing uses the machine."""

from __future__ import annotations

from dataclasses import dataclass

from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class PreprocessSettings:
    """How preprocessing uses the machine.

    Attributes:
        processes: Cases at once; 0 works in this process, None takes one per processor.
        max_memory_gb: Cases are worked on together only while they fit into this; None takes four fifths of what the
            machine or container has.
        redo: Make everything again, also what is up to date.
    """

    processes: int | None = None
    max_memory_gb: float | None = None
    redo: bool = False

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 0:
            raise SegflowError("preprocessing.processes cannot be negative", found=self.processes)
        if self.max_memory_gb is not None and not self.max_memory_gb > 0:
            raise SegflowError("preprocessing.max_memory_gb must be positive", found=self.max_memory_gb)
