"""Problems of a dataset, which can be listed, sorted and raised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from segflow.core.errors import CaseErrors, SegflowError


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a dataset.

    Attributes:
        case: Id of the case, or None for a problem of the whole dataset.
        severity: An ``error`` must be corrected before planning. A ``warning`` should be looked at.
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
    """Raise the errors among problems; warnings pass.

    Raises:
        SegflowError: There is one error; a `CaseErrors` if there are several.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if len(errors) == 1:
        raise SegflowError(errors[0].message, case=errors[0].case, fix=errors[0].fix)
    if errors:
        raise CaseErrors(summary, [str(error) for error in errors])
