"""A report of a trained run as one HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import CaseMetrics, Summary, mean_of_defined
from segflow.core.run_record import RunRecord
from segflow.reporting.overlays import PALETTE, best_slice, channel_of, draw_overlay
from segflow.storage.file_stamps import Origin, digest_of
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.stamps import StampedFolder

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
div.wide { overflow-x: auto; } div.wide table { font-size: .85rem; } div.wide td, div.wide th { padding: .25rem .5rem; }
table.facts td { text-align: left; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; } figcaption { margin-bottom: .3rem; }
.pair { display: flex; gap: .5rem; flex-wrap: wrap; } .pair div { flex: 1 1 16rem; max-width: 24rem; }
.pair img { width: 100%; } .pair span, .note { opacity: .7; font-size: .9rem; }
.key i { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem; border-radius: 2px; }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report.

    Attributes:
        title: Title above the table.
        rows: Rows of cells; the first is the heading.
        folded: Show the table only after a click.
    """

    title: str
    rows: Sequence[Sequence[str]]
    folded: bool = False


def write_report(
    file: Path,
    folds: Sequence[Fold],
    summary: Summary,
    *,
    tables: Sequence[Table] = (),
    images: Mapping[str, CaseFiles] | None = None,
    notes: Sequence[str] = (),
    channel: int = 0,
) -> None:
    """Write one HTML page with the facts, scores and curves of a run, and its best, median and worst case.

    Pictures are embedded, so the page needs no other file.

    Args:
        file: The page.
        folds: The run's folds. The ``progress.png`` of each is shown if it exists.
        summary: Scores of the run's cases, which are ranked by mean foreground Dice.
        tables: Further tables, such as `table_rows` of the summary.
        images: Case → its image files, for the pictures. Other cases are left out.
        notes: Sentences to show under the title.
        channel: Channel of the image to show.

    Raises:
        SegflowError: A fold was never trained, or the page cannot be written.
    """
    if not folds:
        raise SegflowError("a report needs at least one fold", fix="Train first: segflow train")
    record = folds[0].read_record()
    body = [_heading(record, folds, summary, notes)]
    body += [_table(table) for table in (*tables, _cases_table(summary, record.dataset.labels))]
    body.append(_curves(folds))
    body.append(_examples(record, summary, images or {}, channel))
    title = escape(f"{record.dataset.name} {record.configuration}")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>{''.join(body)}</body></html>\n"
    )
    shown = {"scores": digest_of(summary.to_json()), "notes": list(notes), "channel": channel}
    with StampedFolder(file.parent).written(file.name, Origin("report", 1, shown)) as place:
        (place / file.name).write_text(page, encoding="utf-8")


def _heading(record: RunRecord, folds: Sequence[Fold], summary: Summary, notes: Sequence[str]) -> str:
    plan = record.plan
    facts = {
        "folds": ", ".join(fold.fold for fold in folds),
        "cases scored": str(len(summary.cases)),
        "mean foreground Dice": _number(summary.score),
        "patch": " × ".join(map(str, plan.patch_size)),
        "batch": str(plan.batch_size),
        "spacing": " × ".join(f"{s:.3g}" for s in plan.spacing) + " mm",
        "network": f"{plan.topology.network}, features {' '.join(map(str, plan.topology.features))}",
        "plans": record.plans.plans_name,
    }
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    lines = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    failed = "".join(f'<p class="note">Not scored: {escape(text)}</p>' for text in summary.failed.values())
    title = f"<h1>{escape(record.dataset.name)}: {escape(record.configuration)}</h1>"
    return f'{title}{lines}{failed}<table class="facts">{rows}</table>'


def _table(table: Table) -> str:
    heading, *rows = table.rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    content = f'<div class="wide"><table><tr>{cells}</tr>{lines}</table></div>'
    if table.folded:
        return f"<h2>{escape(table.title)}</h2><details><summary>{len(rows)} rows</summary>{content}</details>"
    return f"<h2>{escape(table.title)}</h2>{content}"


def _cases_table(summary: Summary, labels: Labels) -> Table:
    """Dice of every case, the worst first."""
    names = [labels.name_of(key) for key in summary.keys]
    rows = [
        [case.case_id, *(_number(case.metrics[key]["Dice"]) for key in summary.keys), _number(_case_score(case))]
        for case in _by_score(summary)
    ]
    return Table("Dice of each case, the worst first", [["case", *names, "mean"], *rows], folded=True)


def _curves(folds: Sequence[Fold]) -> str:
    figures = [
        f"<figure><figcaption>Fold {escape(fold.fold)}</figcaption>{_picture(fold.progress_png.read_bytes())}</figure>"
        for fold in folds
        if fold.progress_png.is_file()
    ]
    return f"<h2>Training</h2>{''.join(figures)}" if figures else ""


def _examples(record: RunRecord, summary: Summary, images: Mapping[str, CaseFiles], channel: int) -> str:
    cases = [case for case in _by_score(summary) if case.case_id in images]
    if not cases:
        return ""
    chosen = {"Best": cases[-1], "Median": cases[len(cases) // 2], "Worst": cases[0]}
    shown: set[str] = set()
    figures = []
    for name, case in chosen.items():
        if case.case_id not in shown:
            shown.add(case.case_id)
            figures.append(_example(name, record, case, images[case.case_id], channel))
    labels = record.dataset.labels
    values = {labels.name_of(value): value for value in labels.foreground_labels}
    key = "".join(
        f'<i style="background:rgb{PALETTE[(value - 1) % len(PALETTE)]}"></i>{escape(name)}'
        for name, value in values.items()
    )
    return f'<h2>Examples</h2><p class="key">{key}</p>{"".join(figures)}'


def _example(name: str, record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> str:
    caption = f"{name}: {case.case_id}, mean Dice {_number(_case_score(case))}"
    try:
        pictures = _draw_case(record, case, files, channel)
    except SegflowError as error:
        return f'<figure><figcaption>{escape(caption)}</figcaption><p class="note">{escape(str(error))}</p></figure>'
    panels = "".join(f"<div><span>{escape(side)}</span>{_picture(png)}</div>" for side, png in pictures.items())
    return f'<figure><figcaption>{escape(caption)}</figcaption><div class="pair">{panels}</div></figure>'


def _draw_case(record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> dict[str, bytes]:
    """Image, reference and prediction as PNG, of the slice that shows most of the reference."""
    reader = reader_by_name(record.plans.reader)
    image, geometry = reader.read_image(files.images)
    reference, _ = reader.read_label(Path(case.reference_file))
    prediction, _ = reader.read_label(Path(case.prediction_file))
    grey = channel_of(image, channel, case.case_id)
    if not reference.shape == prediction.shape == grey.shape:
        raise SegflowError("image and label maps differ in shape", case=case.case_id)
    index = best_slice(reference if (reference > 0).any() else prediction)
    sides = {"image": np.zeros_like(reference), "reference": reference, "prediction": prediction}
    pictures = {}
    for side, label in sides.items():
        drawn = draw_overlay(grey[index], label[index], geometry.spacing[1:])
        stream = io.BytesIO()
        Image.fromarray(drawn).save(stream, format="PNG", optimize=True)
        pictures[side] = stream.getvalue()
    return pictures


def _picture(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


def _by_score(summary: Summary) -> list[CaseMetrics]:
    scored = [case for case in summary.cases if not math.isnan(_case_score(case))]
    return sorted(scored, key=_case_score)


def _case_score(case: CaseMetrics) -> float:
    return mean_of_defined([scores["Dice"] for key, scores in case.metrics.items() if key != 0])


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
