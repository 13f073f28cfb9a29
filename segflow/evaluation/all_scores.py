"""All scores of validation cases. Training computes the overlap only, by which configurations are selected."""

from __future__ import annotations

from pathlib import Path

from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases, is_scored
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.evaluation.summary import SUMMARY_FILE, read_summary
from segflow.execution.progress import Progress, silent
from segflow.storage.links import within

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
