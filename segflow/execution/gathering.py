"""Results of many jobs, gathered with progress reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import CaseErrors
from segflow.execution.jobs import Outcome
from segflow.execution.progress import Progress, ProgressEvent, silent


@dataclass(frozen=True, slots=True)
class Gathered:
    """Results of finished jobs.

    Attributes:
        values: Name of a job → value of its function, in the order of completion.
        failed: Name of a job → message, for those that failed.
    """

    values: dict[str, Any]
    failed: dict[str, str]

    def all_values(self, problem: str, fix: str | None = None) -> dict[str, Any]:
        """The values, if every job succeeded.

        Args:
            problem: Problem for the error, in one clause.
            fix: Advice for all failures.

        Raises:
            CaseErrors: Some failed. The error lists all of them.
        """
        if self.failed:
            raise CaseErrors(problem, sorted(self.failed.values()), fix=fix)
        return self.values


def gather(outcomes: Iterable[Outcome], total: int, stage: str, progress: Progress = silent) -> Gathered:
    """Wait for all jobs.

    Args:
        outcomes: Outcomes from `run_jobs`.
        total: Number of jobs.
        stage: Name of the work, in one word; see `ProgressEvent`.
        progress: Called before the first job and after each.
    """
    gathered = Gathered({}, {})
    progress(ProgressEvent(stage, "", 0, total))
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.error is None:
            gathered.values[outcome.name] = outcome.value
        else:
            gathered.failed[outcome.name] = outcome.error
        progress(ProgressEvent(stage, outcome.name, done, total, len(gathered.failed)))
    return gathered
