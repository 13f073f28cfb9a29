"""A raw dataset: its folder and its dataset.json (recipe 1.1, 1.3)."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.labels_present import LABELS_PRESENT
from segflow.storage.case_files import find_training_cases
from segflow.storage.dataset_check import check_dataset
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.problems import Problem

__all__ = [
    "Problem",
    "check_dataset",
    "check_planned_description",
    "find_training_cases",
    "read_dataset_json",
    "read_description",
    "resolve_dataset",
]


def read_description(folder: Path) -> DatasetDescription:
    """Read a raw dataset's dataset.json.

    Raises:
        SegflowError: The folder or the file is missing, its content cannot be used, or a region would be painted over
            by a later one.
    """
    if not folder.is_dir():
        raise SegflowError(f"there is no dataset folder {folder}", fix="Check dataset.path or paths.raw.")
    fix = (
        'Every raw dataset needs one: {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1}, '
        '"numTraining": 30, "file_ending": ".nii.gz"}. All keys: docs/reference/dataset_json.md.'
    )
    description = read_dataset_json(folder / DESCRIPTION_FILE, folder.resolve().name, fix)
    try:
        description.labels.check_painting()  # here only: a trained model is used as it is
    except SegflowError as error:
        raise error.changed(problem=f"{folder / DESCRIPTION_FILE}: {error.problem}") from None
    return description


def check_planned_description(prepared: Path, description: DatasetDescription) -> None:
    """Refuse a dataset.json that differs from the copy that planning stored beside the plans.

    Args:
        prepared: Folder of the plans. If it has no copy, nothing is compared.
        description: Description of the raw dataset.

    Raises:
        SegflowError: Labels, channels, file ending or reader have changed. The error names what differs.
    """
    file = prepared / DESCRIPTION_FILE
    if not file.is_file():
        return
    planned = read_dataset_json(file, description.name)
    if planned.labels.present != description.labels.present:
        raise SegflowError(
            f"dataset.json of {description.name} has another {LABELS_PRESENT} than when it was planned",
            fix="Plan again: segflow plan with the same dataset, which reads no image again.",
        )
    for what in ("labels", "channels", "file_ending", "label_ending", "reader"):
        before, now = getattr(planned, what), getattr(description, what)
        if before != now:
            keys = ("labels", "regions_class_order") if what == "labels" else None
            raise SegflowError(
                f"dataset.json of {description.name} has other {what.replace('_', ' ')} than when it was planned",
                found=now if keys is None else {key: description.raw[key] for key in keys if key in description.raw},
                expected=before if keys is None else {key: planned.raw[key] for key in keys if key in planned.raw},
                fix="Plan and preprocess again: segflow plan and segflow preprocess, with the same dataset. Or put the "
                "earlier dataset.json back.",
            )


def resolve_dataset(name_or_path: str | int, raw_root: Path) -> Path:
    """The folder of a raw dataset.

    Args:
        name_or_path: Its name (``Dataset004_Hippocampus``), its number (``4``, ``Dataset004``), or the path of its
            folder.
        raw_root: Folder of the raw datasets.

    Raises:
        SegflowError: There is none, or several have the number.
    """
    text = str(name_or_path)
    if number := re.fullmatch(r"(?:Dataset)?(\d+)", text):
        return _by_number(int(number[1]), raw_root)
    for folder in (raw_root / text, Path(text).expanduser()):
        if folder.is_dir():
            return folder
    near = difflib.get_close_matches(text, _dataset_names(raw_root), n=1)
    raise SegflowError(
        f"there is no dataset '{text}' in {raw_root}, nor a folder of that path",
        found=", ".join(_dataset_names(raw_root)) or "no dataset at all",
        fix=f"Did you mean '{near[0]}'?"
        if near
        else "Set paths.raw to the folder that holds it, or give dataset.path.",
    )


def _by_number(number: int, raw_root: Path) -> Path:
    prefix = f"Dataset{number:03d}_"
    matches = [name for name in _dataset_names(raw_root) if name.startswith(prefix)]
    if len(matches) == 1:
        return raw_root / matches[0]
    raise SegflowError(
        f"there is no dataset {prefix}… in {raw_root}"
        if not matches
        else f"several datasets in {raw_root} have the number {number}",
        found=", ".join(matches or _dataset_names(raw_root)) or "no dataset at all",
        fix="Give its full name." if matches else "Set paths.raw to the folder that holds it, or give dataset.path.",
    )


def _dataset_names(raw_root: Path) -> list[str]:
    if not raw_root.is_dir():
        return []
    return sorted(child.name for child in raw_root.iterdir() if child.name.startswith("Dataset") and child.is_dir())
