"""Common parts of converters: the new dataset's folder and its dataset.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from segflow.core.errors import SegflowError
from segflow.core.names import is_number, safe_name
from segflow.storage.folder_files import copy_image
from segflow.storage.listing import files_ending_in

TASK_NAME = re.compile(r"Task(\d+)_(.+)")
DROPPED_KEYS = ("modality", "labels", "training", "test", "numTraining", "numTest", "tensorImageSize", "file_ending")
"""Keys of an old dataset.json with another meaning today, or with none."""


def dataset_name(task_folder: Path, dataset_id: int | None = None) -> str:
    """``Task04_Hippocampus`` → ``Dataset004_Hippocampus``.

    Args:
        task_folder: The folder to convert.
        dataset_id: Number of the dataset; None takes the number in the folder's name.

    Raises:
        SegflowError: There is no number.
    """
    name = task_folder.resolve().name
    match = TASK_NAME.fullmatch(name)
    if match is None and dataset_id is None:
        raise SegflowError(
            f"'{name}' has no number", expected="a folder named TaskNN_Name", fix="Rename it, or give dataset_id."
        )
    number = int(match[1]) if match and dataset_id is None else dataset_id
    return f"Dataset{number:03d}_{match[2] if match else name}"


def refuse_taken(raw_root: Path, name: str) -> Path:
    """The folder for a new dataset.

    Raises:
        SegflowError: A dataset of this number exists, or the name cannot be that of a folder.
    """
    safe_name(name, "the name of the dataset")
    number = name.split("_", 1)[0]
    taken = sorted(child.name for child in raw_root.glob(f"{number}_*")) if raw_root.is_dir() else []
    if taken:
        raise SegflowError(
            f"{raw_root} has a dataset of this number already",
            found=", ".join(taken),
            fix="Remove it, or give another dataset_id.",
        )
    return raw_root / name


def visible_images(folder: Path, ending: str) -> list[str]:
    """Names of the images in a folder, sorted, without hidden files and those that begin with ``_``."""
    return [name for name in files_ending_in(folder, ending) if not name.startswith("_")]


def copy_files(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copy files, or folders that are one image each, under new names (old → new), contents byte for byte."""
    target.mkdir(parents=True, exist_ok=True)
    for old, new in names.items():
        copy_image(source / old, target / new)


def described(old: Mapping[str, Any], *, cases: int, file_ending: str) -> dict[str, Any]:
    """The content of today's dataset.json, from that of the decathlon or of nnU-Net v1.

    Args:
        old: Content with ``modality`` (number → name) and ``labels`` (number → name).
        cases: Number of training cases.
        file_ending: Ending of the written files.

    Raises:
        SegflowError: ``modality`` or ``labels`` is missing or has another form.
    """
    modality, labels = (old.get(key) if isinstance(old, Mapping) else None for key in ("modality", "labels"))
    if not _is_numbered(modality) or not _is_numbered(labels) or "0" not in labels:
        raise SegflowError(
            "this dataset.json is neither the decathlon's nor nnU-Net v1's",
            found=f"modality {modality}, labels {labels}",
            expected='"modality": {"0": "CT"} and "labels": {"0": "background", "1": "liver"}',
            fix="A dataset in today's layout needs no conversion: dataset.path=FOLDER.",
        )
    names = {int(value): str(name) for value, name in labels.items()}
    names[0] = "background"
    if len(set(names.values())) < len(names):
        raise SegflowError("dataset.json: two labels have the same name", found=labels, fix="Rename one of them.")
    return {
        **{key: value for key, value in old.items() if key not in DROPPED_KEYS},
        "channel_names": {str(number): str(modality[key]) for number, key in enumerate(sorted(modality, key=int))},
        "labels": {names[value]: value for value in sorted(names)},
        "numTraining": cases,
        "file_ending": file_ending,
        "converted_by": "segflow",
    }


def _is_numbered(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and bool(value) and all(is_number(str(key)) for key in value)
