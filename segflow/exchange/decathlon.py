"""Conversion of a Medical Segmentation Decathlon task to a raw dataset (recipe 1.1)."""

from __future__ import annotations

import functools
import math
import shutil
from pathlib import Path

from segflow.core.errors import CaseErrors, SegflowError
from segflow.exchange.raw_layout import copy_files, dataset_name, described, refuse_taken, visible_images
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.channel_names import channel_name
from segflow.storage.image_formats.nifti_files import read_nifti, read_nifti_header, write_nifti
from segflow.storage.json_files import build_as, read_json, write_json
from segflow.storage.whole_folder import folder_written_whole

__all__ = ["convert_decathlon", "dataset_name"]

ENDING = ".nii.gz"
STAGE = "convert"
BYTES_PER_STORED = 2.5
"""Memory in bytes for each byte of the voxels of an image that is split: all channels, and one that is packed."""
IMAGE_FOLDERS = ("imagesTr", "imagesTs")


def convert_decathlon(
    task_folder: Path,
    raw_root: Path,
    dataset_id: int | None = None,
    *,
    name: str | None = None,
    processes: int = 0,
    progress: Progress = silent,
) -> Path:
    """Convert a decathlon task.

    The fourth axis of an image becomes one file per channel; 3D images are copied byte for byte.

    Args:
        task_folder: ``TaskNN_Name`` with imagesTr, labelsTr, dataset.json, and perhaps imagesTs.
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the dataset; None takes the task's.
        name: Name of the new folder, such as ``Dataset004_Hippocampus``; None makes it of the task's and the number.
        processes: Worker processes; 0 converts in this one.
        progress: Called after each image.

    Returns:
        The new folder, ``DatasetNNN_Name``. It appears only when it is complete.

    Raises:
        SegflowError: The folder is not a task, the number is taken, a label is missing, or an image cannot be used.
    """
    old = read_json(task_folder / "dataset.json", fix="Is this a decathlon task? It holds dataset.json and imagesTr.")
    target = refuse_taken(raw_root, name or dataset_name(task_folder, dataset_id))
    images = visible_images(task_folder / "imagesTr", ENDING)
    description = build_as(
        task_folder / "dataset.json", old, functools.partial(described, cases=len(images), file_ending=ENDING)
    )
    _check_labels(task_folder, images)
    channels = len(description["channel_names"])
    with folder_written_whole(target) as partial:
        jobs = []
        for part in IMAGE_FOLDERS:
            (partial / part).mkdir()
            if (task_folder / part).is_dir():
                for name in visible_images(task_folder / part, ENDING):
                    image = task_folder / part / name
                    jobs.append(Job(f"{part}/{name}", (image, partial / part, channels), _bytes_of(image)))
        outcomes = run_jobs(split_channels, jobs, processes=processes)
        gather(outcomes, len(jobs), STAGE, progress).all_values(
            "some images could not be converted", fix="Nothing was written."
        )
        copy_files(task_folder / "labelsTr", partial / "labelsTr", {name: name for name in images})
        write_json(partial / "dataset.json", description)
    return target


def _bytes_of(image: Path) -> int:
    """Memory in bytes to split an image; 0 for one that is copied or whose header cannot be read."""
    try:
        header = read_nifti_header(image)
    except SegflowError:
        return 0
    stored = header.dtype.itemsize * math.prod(header.size)
    return int(BYTES_PER_STORED * stored) if len(header.size) > 3 else 0


def split_channels(image: Path, folder: Path, channels: int) -> None:
    """Write one file per channel of an image with three or four axes.

    Raises:
        SegflowError: It cannot be read, or holds another number of channels.
    """
    case_id = image.name.removesuffix(ENDING)
    size = read_nifti_header(image).size
    found = math.prod(size[3:])
    if found != channels or len(size) < 3:
        raise SegflowError(
            "the image has another number of channels than dataset.json declares",
            case=case_id,
            found=f"size {size}",
            expected=f"{channels} channels",
        )
    if found == 1 and len(size) == 3:
        shutil.copyfile(image, folder / channel_name(case_id, 0, ENDING))
        return
    header, voxels = read_nifti(image)
    for number, channel in enumerate(voxels.reshape(found, *size[2::-1])):
        file = folder / channel_name(case_id, number, ENDING)
        write_nifti(channel, header.affine, header.zooms, file, header.forms)


def _check_labels(task_folder: Path, images: list[str]) -> None:
    if not images:
        raise SegflowError(f"{task_folder / 'imagesTr'} holds no {ENDING} image", fix="Is the download complete?")
    missing = sorted(set(images) - set(visible_images(task_folder / "labelsTr", ENDING)))
    if missing:
        raise CaseErrors(
            f"{task_folder.name} is incomplete",
            [str(SegflowError("there is no label", expected=f"labelsTr/{name}")) for name in missing],
            fix="Is the download complete?",
        )
