"""The learning curves of a fold, as its ``metrics.csv`` has them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping

from segflow.core.errors import SegflowError
from segflow.storage.folds import Fold

SECONDS = "time/epoch"

Curves = Mapping[str, list[float]]
"""Tag, as in TensorBoard → one value per epoch; NaN where an epoch has none."""


def read_curves(fold: Fold) -> Curves:
    """Read the curves; none before the first epoch has ended, and for imported models.

    Raises:
        SegflowError: The file is not a table of numbers.
    """
    file = fold.metrics_csv
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            header, *rows = [row for row in csv.reader(stream) if row]
        columns = zip(*rows, strict=True) if rows else ((),) * len(header)
        table = dict(zip(header, columns, strict=True))
        return {tag: [_number(cell) for cell in cells] for tag, cells in table.items() if tag != "epoch"}
    except (OSError, ValueError, csv.Error) as error:
        raise SegflowError(f"{file} is not a table of curves", found=str(error)) from error


def epochs_of(curves: Curves) -> int:
    """The number of epochs that have ended."""
    return max((len(values) for values in curves.values()), default=0)


def seconds_of(curves: Curves) -> float:
    """The seconds that all epochs took together; NaN if they were not recorded."""
    known = [value for value in curves.get(SECONDS, []) if not math.isnan(value)]
    return sum(known) if known else math.nan


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan
