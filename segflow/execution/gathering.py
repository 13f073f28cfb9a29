"""The results of many jobs: what came of each, while a caller is told how far they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import CaseErrors
from segflow.execution.jobs import Outcome
from segflow.execution.progress import Progress, ProgressEvent, silent


@dataclass(frozen=True, slots=True)
class Gathered:
    """Jobs that are done.

    Attributes:
        values: Name of a job → what its function returned, in the order of completion.
        failed: Name of a job → message, for those that failed.
    """

    values: dict[str, Any]
    failed: dict[str, str]

    def all_values(self, problem: str, fix: str | None = None) -> dict[str, Any]:
        """The values, where every job succeeded.

        Args:
            problem: What was being done, in one clause.
            fix: What to do about all failures.

        Raises:
            CaseErrors: Some failed; lists all of them.
        """
        if self.failed:
            raise CaseErrors(problem, sorted(self.failed.values()), fix=fix)
        return self.values


def gather(outcomes: Iterable[Outcome], total: int, stage: str, progress: Progress = silent) -> Gathered:
    """Wait for all jobs.

    Args:
        outcomes: Of `run_jobs`.
        total: How many jobs there are.
        stage: What they do, in one word; see `ProgressEvent`.
        progress: Told before the first job and after each.
    """
    gathered = Gathered({}, {})
    progress(ProgressEvent(stage, "", 0, total))
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.error is None:
            gathered.values[outcome.name] = outcome.value
        else:
            gathered.failed[outcome.name] = outcome.error
        progress(ProgressEvent(stage, outcome.name, done, total))
    return gathered
