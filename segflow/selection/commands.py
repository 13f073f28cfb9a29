"""What to type to predict with a selected candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segflow.core.command_line import command_line
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.core.selection import Candidate
from segflow.inference.predict_settings import PredictSettings

VALIDATED_WITH = ("overlap", "gaussian", "mirroring", "sums", "checkpoint")
"""Settings of the inference that change label maps: a candidate was scored with its own."""


def predict_commands(
    candidate: Candidate,
    records: Sequence[RunRecord],
    postprocessing: Path | None,
    source: str = "INPUT",
    output: str = "OUTPUT",
) -> tuple[str, ...]:
    """Command lines, in order.

    Args:
        candidate: What predicts. A cascade's previous stage is predicted by the same command.
        records: Of its runs, in their order; they say how the label maps were made that the candidate was scored by.
        postprocessing: File of chosen steps, or None where nothing is to be done.
        source: Folder of images.
        output: Folder for the label maps; with an ensemble its members' predictions lie below it.
    """
    commands = []
    alone = len(candidate.runs) == 1
    folders = [output if alone else f"{output}/member_{k}" for k in range(1, len(candidate.runs) + 1)]
    for run, folds, folder, record in zip(candidate.runs, candidate.folds, folders, records, strict=True):
        settings = {
            "inference__folds": [int(fold) if is_number(fold) else fold for fold in folds],
            **_inference(record),
        }
        if not alone:
            settings["inference__probabilities"] = True
        commands.append(command_line("predict", model=Path(run), input=source, output=folder, **settings))
    if not alone:
        commands.append(command_line("ensemble", members=folders, output=output))
    if postprocessing is not None:
        folder = f"{output}/postprocessed"
        commands.append(
            command_line("postprocess", action="apply", prediction=output, choice=postprocessing, output=folder)
        )
    return tuple(commands)


def _inference(record: RunRecord) -> dict[str, object]:
    """What differs from the defaults."""
    used, defaults = record.settings.get("inference") or {}, PredictSettings()
    return {
        f"inference__{key}": used[key] for key in VALIDATED_WITH if key in used and used[key] != getattr(defaults, key)
    }
