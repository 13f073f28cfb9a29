"""The picture of a comparison: differences with their intervals, and the scores of all cases, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from segflow.core.comparison import Comparison
from segflow.core.metrics import HEADINGS
from segflow.reporting.curves import BLUE, GREY, RED
from segflow.storage.json_files import written_whole

MOST_LINES = 300
"""Most cases that are joined by lines; more would cover each other."""
LONGEST_NAME = 28


def write_comparison_pictures(comparison: Comparison, files: Sequence[Path]) -> None:
    """Draw a comparison, with a row of two panels for each metric: mean differences of all pairs, and all cases.

    Args:
        comparison: What was found.
        files: Files to write, each a PNG or an SVG.

    Raises:
        SegflowError: A file cannot be written.
    """
    metrics, settings = comparison.metrics, comparison.settings
    pairs = max(len(settings) * (len(settings) - 1) // 2, 1)
    height = max(2.4, 0.4 * pairs + 1.4)
    figure = Figure(figsize=(11, height * len(metrics)), dpi=110, layout="constrained")
    panels = figure.subplots(len(metrics), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), metric in zip(panels, metrics, strict=True):
        _draw_differences(left, comparison, metric)
        _draw_cases(right, comparison, metric)
    for file in files:
        with written_whole(file) as temporary:
            if file.suffix == ".svg":
                with matplotlib.rc_context({"svg.hashsalt": "segflow"}):
                    FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})
            else:
                FigureCanvasAgg(figure).print_png(temporary)


def _draw_differences(axes: Axes, comparison: Comparison, metric: str) -> None:
    """A point and an interval for each pair, blue where the pair is distinguishable."""
    rows = comparison.rows_of(metric)
    for place, row in enumerate(rows):
        pair = row.pair
        color = BLUE if pair.winner(comparison.alpha) else GREY
        if not math.isnan(pair.low):
            axes.plot([pair.low, pair.high], [place, place], color=color, linewidth=2)
        axes.plot([pair.difference], [place], "o", color=color, markersize=6)
    names = _short(comparison.settings)
    axes.set_yticks(range(len(rows)), [f"{names[row.second]} - {names[row.first]}" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color=RED, linewidth=1)
    axes.set_xlabel(f"difference of {HEADINGS.get(metric, metric)}")
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)


def _draw_cases(axes: Axes, comparison: Comparison, metric: str) -> None:
    """The mean over the labels of every case in every setting, joined by lines, and the means."""
    table = np.where(np.isfinite(comparison.spots[metric]), comparison.spots[metric], np.nan)
    places = np.arange(len(table))
    if table.shape[1] <= MOST_LINES:
        axes.plot(places, table, color=GREY, alpha=0.25, linewidth=0.8)
    axes.plot(places, table, "o", color=GREY, alpha=0.4, markersize=3, markeredgewidth=0)
    defined = [row[~np.isnan(row)] for row in table]
    axes.plot(places, [row.mean() if row.size else np.nan for row in defined], "D", color=BLUE, markersize=6)
    axes.set_xticks(places, _short(comparison.settings), rotation=20, ha="right")
    axes.set_xlim(-0.5, len(table) - 0.5)
    axes.set_ylabel(HEADINGS.get(metric, metric))
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.6)


def _short(names: Sequence[str]) -> list[str]:
    """The ends of long names, where these differ; else the whole names."""
    short = [name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}" for name in names]
    return short if len(set(short)) == len(short) else list(names)
