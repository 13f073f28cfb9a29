"""Command lines that predict with a selected candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segflow.core.command_line import command_line
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.core.selection import Candidate
from segflow.inference.predict_settings import PredictSettings

VALIDATED_WITH = ("overlap", "gaussian", "mirroring", "sums", "precision", "checkpoint")
"""Settings of inference that change label maps. A candidate was scored with its own values of them."""


def predict_commands(
    candidate: Candidate,
    records: Sequence[RunRecord],
    postprocessing: Path | None,
    source: str = "INPUT",
    output: str = "OUTPUT",
) -> tuple[str, ...]:
    """Command lines, in order.

    Args:
        candidate: The candidate. The same command also predicts a cascade's previous stage.
        records: Records of its runs, in their order, with the settings that made the scored label maps.
        postprocessing: File of the chosen steps, or None without any.
        source: Folder of images.
        output: Folder for the label maps. The predictions of an ensemble's members lie below it.
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
    """Settings of inference that differ from the defaults."""
    used, defaults = record.settings.get("inference") or {}, PredictSettings()
    return {
        f"inference__{key}": used[key] for key in VALIDATED_WITH if key in used and used[key] != getattr(defaults, key)
    }
