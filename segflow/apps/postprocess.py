"""``segflow postprocess``: choose steps on a cross-validation, or apply chosen steps to a folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal, evaluate
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
from segflow.postprocessing.apply_postprocessing import ApplyReport, apply_postprocessing, read_choice
from segflow.postprocessing.choose_postprocessing import CHOICE_FILE, choose_postprocessing
from segflow.postprocessing.postprocess_settings import PostprocessSettings
from segflow.selection.crossval import accumulate_crossval
from segflow.storage.find_folds import find_folds
from segflow.storage.stamps import StampedFolder

USE = (
    "Use: segflow postprocess action=choose run=RUN_FOLDER, "
    "or: segflow postprocess action=choose prediction=DIR reference=DIR, "
    "or: segflow postprocess action=apply prediction=DIR choice=FILE output=DIR"
)


def run(config: DictConfig) -> None:
    """Do the one or the other."""
    if config.action == "choose":
        _choose(config)
    elif config.action == "apply":
        _apply(config)
    else:
        raise SegflowError("unknown action", found=config.action, expected="choose or apply", fix=USE)


def _choose(config: DictConfig) -> None:
    if config.run:
        prediction, reference = _crossval(config)
    else:
        prediction, reference = _path(config, "prediction"), _path(config, "reference")
    output = Path(config.output).expanduser() if config.output else prediction
    if config.output or not config.run:  # in a run's folders nobody but segflow writes
        StampedFolder(output).refuse_foreign({CHOICE_FILE: [output / CHOICE_FILE]})
    description = evaluate.description_beside(config.labels, prediction, reference)
    with _terminal.progress() as progress:
        choice = choose_postprocessing(
            prediction,
            reference,
            description.labels,
            _edge.read(PostprocessSettings, config.postprocessing),
            file_ending=description.file_ending,
            reader=description.reader,
            output=output,
            progress=progress,
        )
    rows = [
        (description.labels.name_of(key), float(before), float(choice.after[key]))
        for key, before in choice.before.items()
    ]
    _terminal.table(f"Mean Dice of {prediction}", ("label", "before", "after"), rows)
    _terminal.say(f"Steps: {'; '.join(map(_text, choice.steps)) or 'none: nothing helps'}")
    _terminal.say(f"Written to {output / CHOICE_FILE}.")


def _crossval(config: DictConfig) -> tuple[Path, Path]:
    """The label maps that the folds of a run predicted of their validation cases, brought together, and references."""
    run = Path(config.run).expanduser()
    name = find_folds(run)[0].read_record().dataset.name
    reference = _datasets.reference_folder(name, _edge.read(_datasets.PathSettings, config.paths))
    if config.reference:
        reference = Path(config.reference).expanduser()
    with _terminal.progress() as progress:
        crossval = accumulate_crossval(run, reference, processes=config.postprocessing.processes, progress=progress)
    return crossval.folder, reference


def _apply(config: DictConfig) -> None:
    prediction, output, file = (_path(config, name) for name in ("prediction", "output", "choice"))
    choice, processes = read_choice(file), config.postprocessing.processes
    report = apply(prediction, choice, output, labels=config.labels, processes=processes)
    _terminal.say(f"Postprocessed {_terminal.cases(len(report.done))}. Written to {output}.")
    if report.failed:
        raise CaseErrors("some cases could not be postprocessed", list(report.failed.values()))


def apply(
    prediction: Path,
    choice: PostprocessingChoice,
    output: Path,
    *,
    labels: str | None = None,
    processes: int | None = None,
    own: bool = False,
) -> ApplyReport:
    """Open the door that applies chosen steps, with what dataset.json says: the one given, or beside the label maps."""
    description = evaluate.description_beside(labels, prediction, prediction)
    with _terminal.progress() as progress:
        return apply_postprocessing(
            prediction,
            choice,
            output,
            file_ending=description.file_ending,
            reader=description.reader,
            processes=processes,
            own=own,
            progress=progress,
        )


def _text(step: PostprocessingStep) -> str:
    details = {"remove_small": f" below {step.min_volume_mm3:g} mm³", "fill_holes": f" with {step.fill_with}"}
    kind = step.kind.replace("_", " ")
    return f"{kind}{details.get(step.kind, '')} of labels {', '.join(map(str, step.labels))}"


def _path(config: DictConfig, name: str) -> Path:
    if not config[name]:
        raise SegflowError(f"{name}= is missing", fix=USE)
    return Path(config[name]).expanduser()
