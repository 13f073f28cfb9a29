"""Settings of a selection."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError
from segflow.postprocessing.postprocess_settings import PostprocessSettings


@dataclass(kw_only=True, slots=True)
class SelectSettings:
    """Candidates and their comparison.

    Attributes:
        max_members: Largest ensemble; 1 compares single configurations only.
        postprocessing: Postprocessing to try on the best candidate.
        resamples: Bootstrap samples of the differences.
        confidence: Share of the bootstrap samples within the interval.
        processes: Worker processes; null takes one per processor, or none for little work.
    """

    max_members: int = 3
    postprocessing: PostprocessSettings = field(default_factory=PostprocessSettings)
    resamples: int = 2000
    confidence: float = 0.95
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.max_members < 1:
            raise SegflowError("select: 'max_members' must be at least 1", found=self.max_members)
        if not 0 < self.confidence < 1:
            raise SegflowError("select: 'confidence' is a share", found=self.confidence, expected="0 … 1")
        if self.resamples < 1:
            raise SegflowError("select: 'resamples' must be at least 1", found=self.resamples)
