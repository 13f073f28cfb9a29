"""``segflow postprocess``: choose steps on a cross-validation, or apply chosen steps to a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal, evaluate
from segflow.apps._records import Command, needed, within_memory
from segflow.core.errors import CaseErrors, SegflowError
from segflow.postprocessing.postprocess_settings import PostprocessSettings

if TYPE_CHECKING:
    from segflow.core.labels import Labels
    from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
    from segflow.postprocessing.apply_postprocessing import ApplyReport


USE = (
    "Use: segflow postprocess action=choose run=RUN_FOLDER, "
    "or: segflow postprocess action=choose prediction=DIR reference=DIR, "
    "or: segflow postprocess action=apply prediction=DIR choice=FILE output=DIR"
)


@dataclass(kw_only=True)
class Postprocess(Command):
    """Settings of ``segflow postprocess``.

    Attributes:
        action: ``choose`` finds steps on a cross-validation; ``apply`` applies chosen steps to a folder.
        run: Run folder to choose on, with the validation cases of all folds.
        prediction: Folder of label maps to apply to; or, in place of ``run``, of a cross-validation to choose on.
        reference: Folder of reference label maps; null takes those of the run's dataset.
        choice: The postprocessing.json to apply.
        output: Folder for the result; null, if choosing, takes that of the predictions.
        labels: A dataset.json, or its folder, that names the labels; null looks in and above the folders.
        postprocessing: Candidates to try.
    """

    SECTION: ClassVar = "postprocessing"
    PLACES: ClassVar[tuple[str, ...]] = ("output", "prediction", "run")

    action: str = "choose"
    run: Path | None = None
    prediction: Path | None = None
    reference: Path | None = None
    choice: Path | None = None
    output: Path | None = None
    labels: Path | None = None
    postprocessing: PostprocessSettings = field(default_factory=PostprocessSettings)

    def __post_init__(self) -> None:
        if self.action not in ("choose", "apply"):
            raise SegflowError("unknown action", found=self.action, expected="choose or apply", fix=USE)


@within_memory
def run(settings: Postprocess) -> None:
    """Choose or apply."""
    if settings.action == "choose":
        _choose(settings)
    else:
        _apply(settings)


def _choose(settings: Postprocess) -> None:
    from segflow.postprocessing.choose_postprocessing import choose_postprocessing
    from segflow.storage.file_names import CHOICE_FILE
    from segflow.storage.stamps import StampedFolder

    if settings.run:
        prediction, reference = _crossval(settings, settings.run)
    else:
        prediction = needed(settings.prediction, "prediction", USE)
        reference = needed(settings.reference, "reference", USE)
    output = settings.output or prediction
    if settings.output or not settings.run:  # only segflow writes into a run's folders
        StampedFolder(output).refuse_foreign({CHOICE_FILE: [output / CHOICE_FILE]})
    description = evaluate.description_beside(settings.labels, prediction, reference)
    with _terminal.progress() as progress:
        choice = choose_postprocessing(
            prediction,
            reference,
            description.labels,
            settings.postprocessing,
            file_ending=description.label_ending,
            reader=description.reader,
            output=output,
            progress=progress,
        )
    rows = [
        (description.labels.name_of(key), float(before), float(choice.after[key]))
        for key, before in choice.before.items()
    ]
    _terminal.table(f"Mean Dice of {prediction}", ("label", "before", "after"), rows)
    steps = "; ".join(_text(step, description.labels) for step in choice.steps)
    _terminal.say(f"Steps: {steps or 'none: nothing helps'}")
    _terminal.say(f"Written to {output / CHOICE_FILE}.")
    _next.say(_next.after_choice(settings, prediction, output / CHOICE_FILE, has_steps=bool(choice.steps)))


def _crossval(settings: Postprocess, run: Path) -> tuple[Path, Path]:
    """Folders of a run's cross-validated label maps and of their references."""
    from segflow.storage.find_folds import find_folds

    reference = settings.reference or settings.paths.references(find_folds(run)[0].read_record().dataset.name)
    from segflow.selection.crossval import accumulate_crossval  # slow; a missing run is reported before

    with _terminal.progress() as progress:
        crossval = accumulate_crossval(run, reference, processes=settings.postprocessing.processes, progress=progress)
    return crossval.folder, reference


def _apply(settings: Postprocess) -> None:
    prediction, output, file = (needed(getattr(settings, n), n, USE) for n in ("prediction", "output", "choice"))
    from segflow.postprocessing.apply_postprocessing import read_choice

    choice, processes = read_choice(file), settings.postprocessing.processes
    report = apply(prediction, choice, output, labels=settings.labels, processes=processes)
    _terminal.say(f"Postprocessed {_terminal.cases(len(report.done))}. Written to {output}.")
    _next.say([] if report.failed else _next.after_steps(prediction, output))
    if report.failed:
        raise CaseErrors("some cases could not be postprocessed", list(report.failed.values()))


def apply(
    prediction: Path,
    choice: PostprocessingChoice,
    output: Path,
    *,
    labels: Path | None = None,
    processes: int | None = None,
    own: bool = False,
) -> ApplyReport:
    """Apply chosen steps, with the given dataset.json or the one beside the label maps."""
    from segflow.postprocessing.apply_postprocessing import apply_postprocessing

    description = evaluate.description_beside(labels, prediction, prediction)
    with _terminal.progress() as progress:
        return apply_postprocessing(
            prediction,
            choice,
            output,
            file_ending=description.label_ending,
            labels=description.labels,
            reader=description.reader,
            processes=processes,
            own=own,
            progress=progress,
        )


def _text(step: PostprocessingStep, labels: Labels) -> str:
    filled, worked_on = labels.value_of(step.fill_with), [str(labels.value_of(label)) for label in step.labels]
    details = {"remove_small": f" below {step.min_volume_mm3:g} mm³", "fill_holes": f" with {filled}"}
    return f"{step.kind.replace('_', ' ')}{details.get(step.kind, '')} of labels {', '.join(worked_on)}"
