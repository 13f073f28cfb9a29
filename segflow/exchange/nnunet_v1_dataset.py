"""Conversion of a task in nnU-Net v1's layout to a raw dataset (recipe 1.1). Only dataset.json changes."""

from __future__ import annotations

import functools
from pathlib import Path

from segflow.core.dataset import DatasetDescription
from segflow.exchange.raw_layout import copy_files, dataset_name, described, refuse_taken, visible_images
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.json_files import build_as, read_json, write_json
from segflow.storage.raw_dataset import find_training_cases
from segflow.storage.whole_folder import folder_written_whole

ENDING = ".nii.gz"
STAGE = "convert"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", "imagesVal", "labelsVal")


def convert_nnunet_v1_dataset(
    task_folder: Path, raw_root: Path, dataset_id: int | None = None, *, progress: Progress = silent
) -> Path:
    """Convert a task of nnU-Net v1: ``TaskNNN_Name`` with ``<case>_0000.nii.gz`` in imagesTr and an old dataset.json.

    Args:
        task_folder: The task.
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the dataset; None takes the task's.
        progress: Called after each folder.

    Returns:
        The new folder, ``DatasetNNN_Name``. It appears only when it is complete.

    Raises:
        SegflowError: The folder is not a task, the number is taken, or its files do not fit together.
    """
    old = read_json(task_folder / "dataset.json", fix="Is this an nnU-Net v1 task? It holds dataset.json and imagesTr.")
    target = refuse_taken(raw_root, dataset_name(task_folder, dataset_id))
    labels = visible_images(task_folder / "labelsTr", ENDING)
    content = build_as(
        task_folder / "dataset.json", old, functools.partial(described, cases=len(labels), file_ending=ENDING)
    )
    description = build_as(
        task_folder / "dataset.json", content, functools.partial(DatasetDescription.from_json, target.name)
    )
    find_training_cases(task_folder, description)
    present = [name for name in FOLDERS if (task_folder / name).is_dir()]
    with folder_written_whole(target) as partial:
        for done, name in enumerate(present, start=1):
            files = visible_images(task_folder / name, ENDING)
            copy_files(task_folder / name, partial / name, {file: file for file in files})
            progress(ProgressEvent(STAGE, name, done, len(present)))
        write_json(partial / "dataset.json", content)
    return target
