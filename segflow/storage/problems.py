"""What is wrong with a dataset, in a form that can be listed, sorted and raised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from segflow.core.errors import CaseErrors, SegflowError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        case: Id of the case, or None where it concerns the whole dataset.
        severity: An ``error`` must be mended before planning; a ``warning`` should be looked at.
        message: What was found and what was expected.
        fix: What to do about it.
    """

    case: str | None
    severity: Literal["error", "warning"]
    message: str
    fix: str | None = None

    @classmethod
    def of(cls, error: SegflowError, case: str | None = None) -> Problem:
        """The problem that an error reports."""
        bare = SegflowError(error.problem, found=error.found, expected=error.expected)
        return cls(error.case or case, "error", str(bare), error.fix)

    def __str__(self) -> str:
        return str(SegflowError(self.message, case=self.case, fix=self.fix))


def raise_errors(summary: str, problems: Iterable[Problem]) -> None:
    """Raise what is wrong; warnings pass.

    Raises:
        SegflowError: There is one error; `CaseErrors` where there are several.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if len(errors) == 1:
        raise SegflowError(errors[0].message, case=errors[0].case, fix=errors[0].fix)
    if errors:
        raise CaseErrors(summary, [str(error) for error in errors])
