"""A report of a trained run as one HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import CaseMetrics, Summary, mean_of_defined
from segflow.core.run_record import RunRecord
from segflow.execution.machine import check_room
from segflow.reporting.overlays import PALETTE, best_slice, channel_of, draw_overlay
from segflow.storage.file_stamps import Origin, digest_of
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.label_mapping import in_classes
from segflow.storage.stamps import StampedFolder

TEMPLATE = "report.html.j2"
LISTED_WORST, LISTED_BEST = 400, 100
"""Cases in the table of a page, if there are more; a person reads no more, and browsers get slow."""
LISTED_FAILED = 100
"""Messages about cases that failed, if there are more."""


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
    page = _template().render(
        dataset=record.dataset.name,
        configuration=record.configuration,
        notes=notes,
        failed=_failed(summary),
        facts=_facts(record, folds, summary),
        tables=(*tables, _cases_table(summary, record.dataset.labels)),
        curves=[(fold.fold, _in_page(fold.progress_png.read_bytes())) for fold in folds if fold.progress_png.is_file()],
        examples=_examples(record, summary, images or {}, channel),
        colors=_colors(record.dataset.labels),
    )
    shown = {"scores": digest_of(summary.to_json()), "notes": list(notes), "channel": channel}
    with StampedFolder(file.parent).written(file.name, Origin("report", 1, shown)) as place:
        (place / file.name).write_text(page, encoding="utf-8")


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("segflow", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE)


def _facts(record: RunRecord, folds: Sequence[Fold], summary: Summary) -> dict[str, str]:
    plan = record.plan
    return {
        "folds": ", ".join(fold.fold for fold in folds),
        "cases scored": str(len(summary.cases)),
        "mean foreground Dice": _number(summary.score),
        "patch": " × ".join(map(str, plan.patch_size)),
        "batch": str(plan.batch_size),
        "spacing": " × ".join(f"{s:.3g}" for s in plan.spacing) + " mm",
        "network": f"{plan.topology.network}, features {' '.join(map(str, plan.topology.features))}",
        "plans": record.plans.plans_name,
    }


def _failed(summary: Summary) -> list[str]:
    messages = list(summary.failed.values())
    more = len(messages) - LISTED_FAILED
    return messages if more <= 0 else [*messages[:LISTED_FAILED], f"and {more} more; summary.json has all"]


def _cases_table(summary: Summary, labels: Labels) -> Table:
    """Dice of every case, the worst first; of many cases only the worst and the best."""
    names = [labels.name_of(key) for key in summary.keys]
    rows = [
        [case.case_id, *(_number(case.metrics[key]["Dice"]) for key in summary.keys), _number(_case_score(case))]
        for case in _by_score(summary)
    ]
    title, header = "Dice of each case, the worst first", ["case", *names, "mean"]
    if len(rows) > LISTED_WORST + LISTED_BEST:
        title = f"Dice of the {LISTED_WORST} worst and {LISTED_BEST} best of {len(rows)} cases; metrics.csv has all"
        rows = [*rows[:LISTED_WORST], ["…"] * len(header), *rows[-LISTED_BEST:]]
    return Table(title, [header, *rows], folded=True)


def _colors(labels: Labels) -> dict[str, tuple[int, int, int]]:
    """Name of a label → its colour in the pictures, red, green and blue of 0 to 255."""
    return {labels.name_of(value): PALETTE[(value - 1) % len(PALETTE)] for value in labels.foreground_labels}


@dataclass(frozen=True, slots=True)
class _Example:
    """A case as the page shows it.

    Attributes:
        caption: Rank, name and score.
        pictures: Side, such as ``reference`` → its picture.
        problem: Why there are no pictures, or None.
    """

    caption: str
    pictures: Mapping[str, str]
    problem: str | None = None


def _examples(record: RunRecord, summary: Summary, images: Mapping[str, CaseFiles], channel: int) -> list[_Example]:
    """The best, the median and the worst case; each only once, and none if there are no images."""
    cases = [case for case in _by_score(summary) if case.case_id in images]
    if not cases:
        return []
    chosen = {"Best": cases[-1], "Median": cases[len(cases) // 2], "Worst": cases[0]}
    first = {case.case_id: name for name, case in reversed(chosen.items())}
    return [
        _example(name, record, case, images[case.case_id], channel)
        for name, case in chosen.items()
        if first[case.case_id] == name
    ]


def _example(name: str, record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> _Example:
    caption = f"{name}: {case.case_id}, mean Dice {_number(_case_score(case))}"
    try:
        drawn = _draw_case(record, case, files, channel)
    except SegflowError as error:
        return _Example(caption, {}, str(error))
    return _Example(caption, {side: _in_page(png) for side, png in drawn.items()})


def _draw_case(record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> dict[str, bytes]:
    """Image, reference and prediction as PNG, of the slice that shows most of the reference."""
    reader = in_classes(reader_by_name(record.plans.reader), record.dataset.labels)
    header = reader.read_header(files.images[0])
    values = math.prod(header.shape) * header.channels * len(files.images)
    shape = " × ".join(map(str, header.shape))
    check_room(8 * values, "the picture of a case", found=f"{shape} voxels", case=case.case_id)
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


def _in_page(png: bytes) -> str:
    """The bytes of a picture as a page holds them."""
    return base64.b64encode(png).decode("ascii")


def _by_score(summary: Summary) -> list[CaseMetrics]:
    scored = [case for case in summary.cases if not math.isnan(_case_score(case))]
    return sorted(scored, key=_case_score)


def _case_score(case: CaseMetrics) -> float:
    return mean_of_defined([scores["Dice"] for key, scores in case.metrics.items() if key != 0])


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
