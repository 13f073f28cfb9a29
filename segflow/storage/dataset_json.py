"""Reading of a dataset.json in any place."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from segflow.core.dataset import DatasetDescription
from segflow.storage.json_files import read_json_as


def read_dataset_json(file: str | Path, name: str, fix: str | None = None) -> DatasetDescription:
    """Read a dataset.json from any place.

    Args:
        file: The file.
        name: Name of the dataset.
        fix: Advice if the file is missing or cannot be used.

    Raises:
        SegflowError: It is missing, or its content cannot be used. The error names the file.
    """
    return read_json_as(Path(file), partial(DatasetDescription.from_json, name), fix)
