"""``segflow postprocess``: choose steps on a cross-validation, or apply chosen steps to a folder."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _edge, _terminal, evaluate
from segflow.core.errors import CaseErrors, SegflowError
from segflow.postprocessing.apply_postprocessing import apply_postprocessing, read_choice
from segflow.postprocessing.choose_postprocessing import CHOICE_FILE, PostprocessSettings, choose_postprocessing

USE = (
    "Use: segflow postprocess action=choose prediction=DIR reference=DIR, "
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
    prediction, reference = _path(config, "prediction"), _path(config, "reference")
    output = Path(config.output).expanduser() if config.output else prediction
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
    steps = "; ".join(str(step) for step in choice.steps) or "none: nothing helps"
    _terminal.say(f"Steps: {steps}")
    _terminal.say(f"Written to {output / CHOICE_FILE}.")


def _apply(config: DictConfig) -> None:
    prediction, output, file = (_path(config, name) for name in ("prediction", "output", "choice"))
    description = evaluate.description_beside(config.labels, prediction, prediction)
    with _terminal.progress() as progress:
        report = apply_postprocessing(
            prediction,
            read_choice(file),
            output,
            file_ending=description.file_ending,
            reader=description.reader,
            processes=config.postprocessing.processes,
            progress=progress,
        )
    _terminal.say(f"Postprocessed {len(report.done)} cases. Written to {output}.")
    if report.failed:
        raise CaseErrors("some cases could not be postprocessed", list(report.failed.values()))


def _path(config: DictConfig, name: str) -> Path:
    if not config[name]:
        raise SegflowError(f"{name}= is missing", fix=USE)
    return Path(config[name]).expanduser()
