"""The one error that a user is meant to read.

A message names the case, what was found, what was expected and what to do. Commands print it on one line and exit
with a non-zero code; a traceback appears only with ``HYDRA_FULL_ERROR=1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

UNUSABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""What reading an untrusted value may raise: for a missing key, infinity taken as an int, too deeply nested a list."""

LONGEST_TEXT = 2000
"""Characters of a value that a message shows. A value from a file may be of any length."""


class SegflowError(ValueError):
    """A problem that the user can solve.

    Args:
        problem: The problem, in one clause.
        case: Id of the case that it concerns, if it is one.
        found: The value that came.
        expected: The value that was expected.
        fix: What to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        case: str | None = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.case = case
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(self._render())

    def _render(self) -> str:
        text = f"case '{self.case}': {self.problem}" if self.case is not None else self.problem
        if self.found is not None:
            text += f"; found {_limited(self.found)}"
        if self.expected is not None:
            text += f"; expected {_limited(self.expected)}"
        if self.fix is not None:
            text += f". {self.fix}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        # Errors travel from worker processes; keyword-only arguments are lost by the default reduction.
        return (_rebuild, (type(self), self.problem, self.case, self.found, self.expected, self.fix))

    def of_case(self, case: str) -> SegflowError:
        """The same problem, with the id of its case."""
        return self.changed(case=case)

    def changed(self, **parts: Any) -> SegflowError:
        """The same error with some of its parts, such as ``fix``, replaced."""
        own: dict[str, Any] = {"case": self.case, "found": self.found, "expected": self.expected, "fix": self.fix}
        return type(self)(parts.pop("problem", self.problem), **(own | parts))

    def moved(self, old: Path, new: Path) -> SegflowError:
        """The same error with another path in place of ``old``; itself if it does not name ``old``."""
        if str(old) not in self.problem:
            return self
        return self.changed(problem=self.problem.replace(str(old), str(new)))


def _limited(value: object) -> str:
    try:
        text = str(value)
    except UNUSABLE:  # a number with more digits than Python writes, a list that contains itself
        return f"something that cannot be shown ({type(value).__name__})"
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _rebuild(
    kind: type[SegflowError], problem: str, case: str | None, found: object, expected: object, fix: str | None
) -> SegflowError:
    return kind(problem, case=case, found=found, expected=expected, fix=fix)


class NoSpaceError(SegflowError):
    """A disk is full, a quota is used up, or a folder is read-only. Every other write there would fail too.

    It ends the work on all cases. Any other error ends one case only.
    """


class CaseErrors(SegflowError):
    """Several problems found in one pass, listed together.

    Args:
        summary: The problem as a whole, in one clause.
        problems: One complete message for each problem.
        fix: What to do about all of them.
    """

    def __init__(self, summary: str, problems: Sequence[str], fix: str | None = None) -> None:
        self.problems = tuple(problems)
        self.summary = summary
        self.advice = fix
        listing = "".join(f"\n  - {problem}" for problem in self.problems)
        tail = f"\n{fix}" if fix else ""
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{summary} ({count}):{listing}{tail}")

    def changed(self, **parts: Any) -> SegflowError:
        """One error of the whole list, with some of its parts replaced."""
        return SegflowError(self.problem).changed(**parts)

    def moved(self, old: Path, new: Path) -> SegflowError:
        """The list as it is, since its problems name their own paths."""
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return (CaseErrors, (self.summary, self.problems, self.advice))
