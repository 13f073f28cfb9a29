"""Settings of ensembles."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segflow.core.errors import SegflowError

MEAN, MAJORITY, STAPLE = "mean", "majority", "staple"
METHODS = (MEAN, MAJORITY, STAPLE)


@dataclass(kw_only=True, slots=True)
class EnsembleSettings:
    """Settings of ensembles.

    Attributes:
        method: ``mean`` of probabilities, or ``majority`` or ``staple`` of label maps.
        weights: One per member; null for equal weights. STAPLE estimates its own.
        resume: Skip finished cases, whose label map exists and was made from the same probabilities.
        readers, writers: Threads that read and decide, and that write.
    """

    method: str = MEAN
    weights: list[float] | None = None
    resume: bool = True
    readers: int = 2
    writers: int = 1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SegflowError("unknown method of ensembles", found=self.method, expected=" | ".join(METHODS))
        if self.method == STAPLE and self.weights is not None:
            fix = "Leave them out, or take method=majority."
            raise SegflowError("STAPLE estimates the weights of members", found=self.weights, fix=fix)
        if self.weights is not None:
            self.weights = [float(weight) for weight in self.weights]
            if not all(0 <= weight < math.inf for weight in self.weights) or not any(self.weights):
                raise SegflowError("weights must be numbers that are not negative, nor all 0", found=self.weights)
        if self.readers < 1 or self.writers < 1:
            raise SegflowError("readers and writers must be at least 1", found=f"{self.readers}, {self.writers}")

    def check_weights(self, members: int) -> None:
        """Refuse weights of another number than the members.

        Raises:
            SegflowError: They differ.
        """
        if self.weights is not None and len(self.weights) != members:
            wanted = f"{members} weights"
            raise SegflowError("an ensemble needs one weight per member", found=self.weights, expected=wanted)
