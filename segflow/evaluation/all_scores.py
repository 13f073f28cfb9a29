"""All scores of validation cases. Training computes the overlap only, by which configurations are selected."""

from __future__ import annotations

from pathlib import Path

from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases, is_scored
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.evaluation.label_pairs import prediction_role
from segflow.evaluation.summary import SUMMARY_FILE, read_summary
from segflow.execution.progress import Progress, silent
from segflow.storage.file_stamps import is_same_file
from segflow.storage.links import within
from segflow.storage.stamps import StampedFolder

FOLDER = "all_scores"


def all_scores(
    folder: Path,
    reference: Path,
    labels: Labels,
    *,
    file_ending: str,
    reader: str,
    progress: Progress = silent,
) -> Summary:
    """Every score of ``segflow evaluate``, with its defaults. They are computed once, and kept in ``all_scores``.

    Args:
        folder: Folder of label maps.
        reference: Folder of the reference label maps.
        labels: The label definition.
        file_ending: Ending of the label maps, with its dot.
        reader: Name of their reader.
        progress: Called after each case.

    Raises:
        SegflowError: A folder is missing or empty, or no case can be scored.
    """
    output, settings = within(folder, FOLDER), EvaluateSettings(partial=True)
    if is_scored(folder, reference, labels, settings, file_ending=file_ending, output=output):
        return read_summary(output / SUMMARY_FILE, file_ending)
    return evaluate_cases(
        folder,
        reference,
        labels,
        settings,
        file_ending=file_ending,
        reader=reader,
        output=output,
        progress=progress,
    )


def kept_all_scores(folder: Path, file_ending: str) -> Summary | None:
    """The scores that `all_scores` kept for the label maps in a folder; None if there are none of the present ones."""
    output = folder / FOLDER
    if not (output / SUMMARY_FILE).is_file():
        return None
    scored = (StampedFolder(output).stamp_of(SUMMARY_FILE) or {"inputs": {}})["inputs"]
    summary = read_summary(output / SUMMARY_FILE, file_ending)
    same = all(
        is_same_file(folder / f"{case.case_id}{file_ending}", scored.get(prediction_role(case.case_id), {}))
        for case in summary.cases
    )
    return summary if same else None
