"""What a training writes into TensorBoard beside curves and pictures: its page of charts and its row of the table."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

CHARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Training": {
        "loss": ("train/loss", "val/loss"),
        "terms of the loss": ("train/loss/", "val/loss/"),
        "weights of the loss": ("loss_weight/",),
        "Dice of validation patches": ("val/dice_mean", "val/dice_ema"),
        "Dice of each label": ("val/dice/",),
        "learning rate": ("lr",),
    },
    "Whole validation cases": {
        "Dice of cases": ("val_volume/dice_mean",),
        "Dice of cases, each label": ("val_volume/dice/",),
    },
    "Time and memory": {
        "seconds of an epoch": ("time/epoch",),
        "seconds of a step: waiting for data, computing": ("time/data_wait", "time/compute"),
        "GPU memory (GiB)": ("memory/gpu_peak_gib",),
    },
}
"""Section → title of a chart → its tags. A tag that ends with ``/`` stands for all that begin with it.

TensorBoard joins the charts of all runs, and shows equal ones once. So they name no label and no run.
"""


def add_charts(board: TensorBoardLogger, tags: Collection[str]) -> None:
    """Describe the page "Custom Scalars": curves that belong together share a chart.

    Args:
        board: The logger.
        tags: Tags that the training may log. A chart without any of them is left out.
    """
    layout = {
        section: {
            title: ["Multiline", [_pattern(tag) for tag in shown]]
            for title, shown in charts.items()
            if any(re.match(_pattern(tag), possible) for tag in shown for possible in tags)
        }
        for section, charts in CHARTS.items()
    }
    board.experiment.add_custom_scalars({section: charts for section, charts in layout.items() if charts})


def begin_row(board: TensorBoardLogger, values: Mapping[str, str | int | float]) -> None:
    """Add the run to the table of hyper-parameters. Its metrics are the last values of its curves.

    Lightning's own method would also declare the columns, and TensorBoard takes those of one run for all.
    """
    _, start, _ = hparams(dict(values), {})
    board.experiment._get_file_writer().add_summary(start)
    board.hparams.update(values)  # Lightning writes them into hparams.yaml


def end_row(board: TensorBoardLogger) -> None:
    """Note in the table of hyper-parameters that the training has ended."""
    _, _, end = hparams({}, {})
    board.experiment._get_file_writer().add_summary(end)


def _pattern(tag: str) -> str:
    return f"^{re.escape(tag)}" if tag.endswith("/") else f"^{re.escape(tag)}$"
