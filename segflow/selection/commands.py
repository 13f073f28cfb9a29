"""What to type to predict with a selected candidate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from segflow.core.run import RunRecord
from segflow.core.selection import Candidate
from segflow.inference.predict_cases import PredictSettings

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
        words = [
            "predict",
            f"model={run}",
            f"input={source}",
            f"output={folder}",
            f"inference.folds=[{','.join(folds)}]",
            *_inference(record),
        ]
        commands.append(_line(words if alone else [*words, "inference.probabilities=true"]))
    if not alone:
        commands.append(_line(["ensemble", f"members=[{','.join(folders)}]", f"output={output}"]))
    if postprocessing is not None:
        words = ["postprocess", "action=apply", f"prediction={output}", f"choice={postprocessing}"]
        commands.append(_line([*words, f"output={output}/postprocessed"]))
    return tuple(commands)


def _inference(record: RunRecord) -> list[str]:
    """What differs from the defaults."""
    used, defaults = record.settings.get("inference") or {}, PredictSettings()
    changed = {key: used[key] for key in VALIDATED_WITH if key in used and used[key] != getattr(defaults, key)}
    return [f"inference.{key}={str(value).lower()}" for key, value in changed.items()]


def _line(words: list[str]) -> str:
    return " ".join(["segflow", *(shlex.quote(word) for word in words)])
