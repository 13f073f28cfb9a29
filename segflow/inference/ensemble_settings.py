"""Settings of ensembles."""

from __future__ import annotations

from dataclasses import dataclass

from segflow.core.errors import SegflowError


@dataclass(kw_only=True, slots=True)
class EnsembleSettings:
    """Settings of ensembles.

    Attributes:
        weights: One per member; null for equal weights.
        resume: Skip finished cases, whose label map exists and was made from the same probabilities.
        readers, writers: Threads that read and decide, and that write.
    """

    weights: list[float] | None = None
    resume: bool = True
    readers: int = 2
    writers: int = 1

    def __post_init__(self) -> None:
        if self.weights is not None:
            self.weights = [float(weight) for weight in self.weights]
            if not self.weights or min(self.weights) < 0 or not sum(self.weights) > 0:
                raise SegflowError("ensemble: weights must not be negative, nor all 0", found=self.weights)
        if self.readers < 1 or self.writers < 1:
            raise SegflowError("readers and writers must be at least 1", found=f"{self.readers}, {self.writers}")
