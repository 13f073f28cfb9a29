"""The learning-curve picture of a fold, ``progress.png`` (recipe 9.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from segflow.storage.json_files import written_whole

CURVES = ("train_loss", "val_loss", "dice", "dice_ema", "epoch_seconds", "lr")
"""Names of the curves, with one value per epoch. ``dice`` is the pseudo-Dice of patches, not of whole cases."""

BLUE, RED, GREEN, GREY = "#1f5fbf", "#c8322b", "#2e8b3d", "#444444"
POINTS_WITH_MARKERS = 30
"""Up to this many epochs every value gets a marker, so that even a single epoch is visible."""


def write_progress_picture(metrics: Mapping[str, Sequence[float]], file: Path) -> None:
    """Draw the curves of a training in three stacked panels over the epochs, and write them as a PNG.

    The panels are nnU-Net's: losses, with the pseudo-Dice and its moving average on the right axis; seconds per epoch;
    learning rate. No global state of matplotlib is used, so any thread may draw.

    Args:
        metrics: One value per epoch under the names of `CURVES`. Names may be missing, and lists may differ in length
            by the current epoch. NaN leaves a gap.
        file: The PNG, which is replaced if it exists.

    Raises:
        SegflowError: The file cannot be written.
    """
    figure = Figure(figsize=(10, 12), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    losses, seconds, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2.2, 1, 1))
    _draw_losses(losses, metrics)
    _draw_line(seconds, metrics.get("epoch_seconds", ()), GREY, "-", "seconds per epoch")
    seconds.set_ylabel("seconds per epoch")
    seconds.set_ylim(bottom=0)
    _draw_line(rate, metrics.get("lr", ()), GREY, "-", "learning rate")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, seconds, rate):
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.margins(x=0.01)
    with written_whole(file) as temporary:
        canvas.print_png(temporary)


def _draw_losses(axes: Axes, metrics: Mapping[str, Sequence[float]]) -> None:
    dice_axes = axes.twinx()
    lines = [
        _draw_line(axes, metrics.get("train_loss", ()), BLUE, "-", "training loss"),
        _draw_line(axes, metrics.get("val_loss", ()), RED, "-", "validation loss"),
        _draw_line(dice_axes, metrics.get("dice", ()), GREEN, ":", "pseudo-Dice"),
        _draw_line(dice_axes, metrics.get("dice_ema", ()), GREEN, "-", "pseudo-Dice, moving average"),
    ]
    axes.set_ylabel("loss")
    dice_axes.set_ylabel("pseudo-Dice", color=GREEN)
    dice_axes.tick_params(axis="y", colors=GREEN)
    dice_axes.set_ylim(0, 1)
    # A legend within the panel would hide curves, and "best" placement takes longer than drawing.
    axes.legend(handles=lines, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4, frameon=False, borderaxespad=0)


def _draw_line(axes: Axes, values: Sequence[float], color: str, style: str, label: str) -> Line2D:
    heights = np.asarray(values, dtype=np.float64)
    marker = "o" if len(heights) <= POINTS_WITH_MARKERS else ""
    (line,) = axes.plot(
        np.arange(len(heights)), heights, color=color, linestyle=style, linewidth=1.6, marker=marker, markersize=3,
        label=label,
    )  # fmt: skip
    return line
