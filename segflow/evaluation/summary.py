"""Scores on disk and as a table: ``summary.json``, ``metrics.csv``, and rows for a terminal or a page."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels, key_text
from segflow.core.metrics import HEADINGS, METRICS, OVERLAP_METRICS, Summary
from segflow.evaluation.compare import Estimate, estimate_means
from segflow.evaluation.label_pairs import prediction_role
from segflow.storage.file_stamps import is_same_file
from segflow.storage.json_files import read_json_as, write_json, written_whole
from segflow.storage.stamps import StampedFolder

SUMMARY_FILE = "summary.json"
TABLE_FILE = "metrics.csv"


def write_summary(summary: Summary, labels: Labels, folder: Path) -> None:
    """Write ``summary.json`` with nnU-Net's keys, sorted, and ``metrics.csv`` with a row per case and label."""
    write_json(folder / SUMMARY_FILE, summary.to_json(), sort_keys=True)
    metrics = _metrics_of(summary)
    with (
        written_whole(folder / TABLE_FILE) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["case", "label", "name", *metrics])
        for case in summary.cases:
            for key, scores in case.metrics.items():
                row = [case.case_id, key_text(key), labels.name_of(key)]
                writer.writerow([*row, *(scores[metric] for metric in metrics)])


def read_summary(file: str | Path, file_ending: str = "") -> Summary:
    """Read a ``summary.json`` of segflow or nnU-Net.

    Raises:
        SegflowError: It is missing or is not a summary.
    """
    return read_json_as(
        Path(file),
        lambda value: Summary.from_json(value, file_ending),
        fix="Make it: segflow evaluate prediction=… reference=…",
    )


def read_scores_of(folder: Path, file_ending: str) -> Summary:
    """Read the ``summary.json`` beside label maps, and check that it belongs to them.

    Args:
        folder: Folder of the label maps.
        file_ending: Their ending, with its dot.

    Raises:
        SegflowError: There is none, or a label map was made anew or changed since. Scores without a stamp, from earlier
            versions or nnU-Net, are accepted.
    """
    summary = read_summary(folder / SUMMARY_FILE, file_ending)
    scored = (StampedFolder(folder).stamp_of(SUMMARY_FILE) or {"inputs": {}})["inputs"]
    for case in summary.cases if scored else ():
        role = prediction_role(case.case_id)
        if not is_same_file(folder / f"{case.case_id}{file_ending}", scored.get(role, {})):
            raise SegflowError(
                f"the scores in {folder} are of another label map than the one that is there",
                case=case.case_id,
                fix="Score them anew: segflow evaluate, or for a fold the same 'segflow train' command again.",
            )
    return summary


def table_rows(summary: Summary, labels: Labels) -> list[list[str]]:
    """The summary as a table: a heading, one row per label or region, and the foreground mean.

    A cell reads ``0.912 [0.897, 0.925]``: the mean over the cases in which the label occurs, and its 95 % confidence
    interval by bootstrap over the cases. The last column is the number of those cases.

    Args:
        summary: Summary to show.
        labels: The label definition, for the names.
    """
    computed = _metrics_of(summary)
    shown = [metric for metric in HEADINGS if metric in computed]
    shown += [metric for metric in computed if metric not in METRICS]
    rows = [["label", *(HEADINGS.get(metric, metric) for metric in shown), "cases"]]
    tables = [summary.values(metric) for metric in shown]
    columns = [table[:, index] for index in range(len(summary.keys)) for table in tables]
    names = [labels.name_of(key) for key in summary.keys]
    if len(summary.keys) > 1:
        columns += tables
        names.append("mean")
    estimates = estimate_means(columns)
    for number, name in enumerate(names):
        row = estimates[number * len(shown) : (number + 1) * len(shown)]
        rows.append([name, *(format_estimate(estimate) for estimate in row), str(row[0].cases)])
    return rows


def format_estimate(estimate: Estimate) -> str:
    """``0.912 [0.897, 0.925]``; a dash if undefined; ``inf (2 of 30)`` if 2 of 30 distances are infinite."""
    if math.isnan(estimate.mean):
        return "–"
    if estimate.infinite:
        return f"inf ({estimate.infinite} of {estimate.cases})"
    if math.isnan(estimate.low):
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _metrics_of(summary: Summary) -> Sequence[str]:
    """Names of the metrics that were computed: nnU-Net's in its order, then the others."""
    first = next((scores for case in summary.cases for scores in case.metrics.values()), {})
    return [*OVERLAP_METRICS, *(name for name in first if name not in OVERLAP_METRICS)]
