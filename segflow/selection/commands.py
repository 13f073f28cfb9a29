"""What to type to predict with a selected candidate."""

from __future__ import annotations

import shlex
from pathlib import Path

from segflow.core.selection import Candidate


def predict_commands(
    candidate: Candidate, postprocessing: Path | None, source: str = "INPUT", output: str = "OUTPUT"
) -> tuple[str, ...]:
    """Command lines, in order.

    Args:
        candidate: What predicts. A cascade's previous stage is predicted by the same command.
        postprocessing: File of chosen steps, or None where nothing is to be done.
        source: Folder of images.
        output: Folder for the label maps; with an ensemble its members' predictions lie below it.
    """
    commands = []
    alone = len(candidate.runs) == 1
    folders = [output if alone else f"{output}/member_{k}" for k in range(1, len(candidate.runs) + 1)]
    for run, folds, folder in zip(candidate.runs, candidate.folds, folders, strict=True):
        words = [
            "predict",
            f"model={run}",
            f"input={source}",
            f"output={folder}",
            f"inference.folds=[{','.join(folds)}]",
        ]
        commands.append(_line(words if alone else [*words, "inference.probabilities=true"]))
    if not alone:
        commands.append(_line(["ensemble", f"members=[{','.join(folders)}]", f"output={output}"]))
    if postprocessing is not None:
        words = ["postprocess", "action=apply", f"prediction={output}", f"choice={postprocessing}"]
        commands.append(_line([*words, f"output={output}/postprocessed"]))
    return tuple(commands)


def _line(words: list[str]) -> str:
    return " ".join(["segflow", *(shlex.quote(word) for word in words)])
