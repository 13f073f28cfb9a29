"""``segflow ensemble``: several predictions → label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, needed, within_memory
from segflow.core.errors import CaseErrors, SegflowError
from segflow.inference.ensemble_settings import MEAN, EnsembleSettings

if TYPE_CHECKING:
    from segflow.inference.case_pipeline import PredictReport

USE = "Use: segflow ensemble members=[DIR,DIR] output=DIR, and method=majority or staple for label maps of any program"


@dataclass(kw_only=True)
class Ensemble(Command):
    """Settings of ``segflow ensemble``.

    Attributes:
        members: Folders of predictions. For ``mean`` they were made with inference.probabilities=true; for the other
            methods they hold label maps of any program.
        output: Folder for the label maps.
        method: ``mean`` averages probabilities; ``majority`` takes the label with the most votes; ``staple`` estimates
            how reliable each member is (STAPLE).
        weights: One weight for each member; null takes equal weights. ``staple`` has none.
        labels: A dataset.json, or its folder, that names the labels of label maps; null takes that beside them, or each
            value that occurs.
        resume: Skip finished cases.
        processes: Cases at once, for label maps; null uses all processors, 0 works in this process.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output",)

    members: list[Path] | None = None
    output: Path | None = None
    method: str = "mean"
    weights: list[float] | None = None
    labels: Path | None = None
    resume: bool = True
    processes: int | None = None


@within_memory
def run(settings: Ensemble) -> None:
    """Combine the members, and print the result."""
    if not settings.members or not settings.output:
        raise SegflowError("members= and output= are needed", fix=USE)
    chosen = EnsembleSettings(method=settings.method, weights=settings.weights, resume=settings.resume)
    if chosen.method == MEAN:
        if settings.labels is not None:
            fix = "Leave it out: probabilities say themselves what they are of."
            raise SegflowError("method=mean takes no labels=", found=str(settings.labels), fix=fix)
        report = average(settings.members, settings.output, chosen)
    else:
        report = _combine(settings, chosen)
    skipped = f", {len(report.skipped)} were there already" if report.skipped else ""
    verb = "Averaged" if chosen.method == MEAN else "Combined"
    _terminal.say(f"{verb} {_terminal.cases(len(report.done))}{skipped}. Written to {settings.output}.")
    _next.say(_next.after_ensemble(settings.members, settings.output) if report.ok else [])
    if not report.ok:
        raise CaseErrors(f"some cases could not be {verb.lower()}", list(report.failed.values()))


def _combine(settings: Ensemble, chosen: EnsembleSettings) -> PredictReport:
    from segflow.inference.combine_maps import combine_maps  # slow: readers of images

    with _terminal.progress() as progress:
        return combine_maps(
            needed(settings.members, "members", USE),
            needed(settings.output, "output", USE),
            chosen,
            labels=settings.labels,
            processes=settings.processes,
            progress=progress,
        )


def average(members: Sequence[Path], output: Path, settings: EnsembleSettings, *, own: bool = False) -> PredictReport:
    """Average members with the labels and reader of the first one; for ``own`` see `ensemble_cases`."""
    from segflow.storage.predictions import read_descriptions

    made_by = "Predict it with inference.probabilities=true. Label maps alone: method=majority or staple."
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
