"""``segflow ensemble``: probabilities of several predictions → label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, within_memory
from segflow.core.errors import CaseErrors, SegflowError
from segflow.inference.ensemble_settings import EnsembleSettings

if TYPE_CHECKING:
    from segflow.inference.case_pipeline import PredictReport


@dataclass(kw_only=True)
class Ensemble(Command):
    """Settings of ``segflow ensemble``.

    Attributes:
        members: Folders of predictions that were made with inference.probabilities=true.
        output: Folder for the label maps.
        weights: One weight for each member; null takes equal weights.
        resume: Skip finished cases.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output",)

    members: list[Path] | None = None
    output: Path | None = None
    weights: list[float] | None = None
    resume: bool = True


@within_memory
def run(settings: Ensemble) -> None:
    """Average the members, and print the result."""
    if not settings.members or not settings.output:
        raise SegflowError(
            "members= and output= are needed", fix="Use: segflow ensemble members=[DIR,DIR] output=DIR weights=[2,1]"
        )
    report = average(
        settings.members, settings.output, EnsembleSettings(weights=settings.weights, resume=settings.resume)
    )
    skipped = f", {len(report.skipped)} were there already" if report.skipped else ""
    _terminal.say(f"Averaged {_terminal.cases(len(report.done))}{skipped}. Written to {settings.output}.")
    _next.say(_next.after_ensemble(settings.members, settings.output) if report.ok else [])
    if not report.ok:
        raise CaseErrors("some cases could not be averaged", list(report.failed.values()))


def average(members: Sequence[Path], output: Path, settings: EnsembleSettings, *, own: bool = False) -> PredictReport:
    """Average members with the labels and reader of the first one; for ``own`` see `ensemble_cases`."""
    from segflow.storage.predictions import read_descriptions

    made_by = "Predict it with inference.probabilities=true."
    description, plans = read_descriptions(members[0], made_by)
    from segflow.inference.ensemble_cases import ensemble_cases  # slow; missing settings are reported before

    with _terminal.progress() as progress:
        return ensemble_cases(
            members,
            output,
            description.labels,
            settings,
            file_ending=description.label_ending,
            reader=plans.reader,
            own=own,
            progress=progress,
        )
