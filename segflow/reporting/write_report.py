"""A report of trained runs as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.reporting.facts import Facts, facts_of
from segflow.reporting.page import write_page
from segflow.reporting.page_data import page_data
from segflow.reporting.reported_run import ReportedRun
from segflow.reporting.viewed_cases import library
from segflow.reporting.viewer import viewer_data

LISTED_FAILED = 100
"""Messages about cases that failed, if there are more."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report.

    Attributes:
        title: Title above the table.
        rows: Rows of cells; the first is the heading.
        text: What the table says or how it was made, in sentences.
        texts: Number of columns at the left that hold words.
    """

    title: str
    rows: Sequence[Sequence[str]]
    text: str = ""
    texts: int = 1


def write_report(
    file: Path,
    runs: Sequence[ReportedRun],
    *,
    headline: Mapping[str, str] | None = None,
    tables: Sequence[Table] = (),
    images: Mapping[str, CaseFiles] | None = None,
    notes: Sequence[str] = (),
    channel: int = 0,
) -> None:
    """Write one HTML page about a run, or one that compares several.

    The page needs no other file and no network.

    Args:
        file: The page.
        runs: The runs, whose labels are the same. Pictures are those of the first.
        headline: Name → value of the few numbers that stand first.
        tables: Tables of scores, in order.
        images: Case → its image files, for the pictures. Other cases are left out.
        notes: Sentences to show under the title.
        channel: Channel of the image to show first.

    Raises:
        SegflowError: There is no run, or the page cannot be written.
    """
    if not runs:
        raise SegflowError("a report needs at least one run", fix="Train first: segflow train")
    viewer = viewer_data(runs[0], images or {}, channel) if len(runs) == 1 else None
    write_page(
        file,
        "report.html.j2",
        page_data(runs),
        title=_title(runs),
        runs=runs,
        headline=headline or {},
        notes=notes,
        failed=_failed(runs),
        facts=_side_by_side([facts_of(run) for run in runs]),
        tables=tables,
        has_cases=any(run.summary.cases for run in runs),
        has_curves=any(curves for run in runs for curves in run.curves),
        viewer=viewer,
        viewer_library="" if viewer is None else library(),
        settings=[(run.name, yaml.safe_dump(dict(run.record.settings), sort_keys=False)) for run in runs],
    )


def _title(runs: Sequence[ReportedRun]) -> str:
    record = runs[0].record
    if len(runs) > 1:
        return f"{record.dataset.name}: {len(runs)} runs compared"
    folder = runs[0].folds[0].path.parent
    name = "" if folder.name == "default" else f", {folder.name}"
    return f"{record.dataset.name}: {record.configuration}{name}"


def _failed(runs: Sequence[ReportedRun]) -> list[str]:
    messages = [message for run in runs for message in run.summary.failed.values()]
    more = len(messages) - LISTED_FAILED
    return messages if more <= 0 else [*messages[:LISTED_FAILED], f"and {more} more; summary.json has all"]


def _side_by_side(facts: Sequence[Facts]) -> dict[str, dict[str, list[str]]]:
    """Group → name → the value of each run. What no run has is left out."""
    found: dict[str, dict[str, list[str]]] = {}
    for group, values in facts[0].items():
        rows = {name: [one[group][name] for one in facts] for name in values}
        found[group] = {name: row for name, row in rows.items() if any(value.strip("–") for value in row)}
    return found
