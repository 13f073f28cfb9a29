"""A dataset with renumbered copies of label maps whose values are not 0, 1, 2, …, such as 0 and 255.

Segflow needs none, since it maps the values as it reads them; other programs may.
Images stay where they are (recipe 1.3, key ``dataset``). Only label maps are written.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.exchange.raw_layout import refuse_taken
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.case_files import LABELS, find_training_cases
from segflow.storage.images import ImageIO, reader_of, voxels_of
from segflow.storage.json_files import build_as, read_json, write_json
from segflow.storage.label_values import label_values
from segflow.storage.whole_folder import folder_written_whole

STAGE = "renumber"
BYTES_PER_VOXEL = 6
"""Memory per voxel in bytes: the label map as stored, as read and renumbered, and a mask."""

log = logging.getLogger(__name__)


def renumbered(labels: Any, regions_class_order: Any = None) -> tuple[dict[str, Any], dict[int, int]]:
    """Consecutive values in place of those of a dataset.json; see `segflow.core.label_rules` for their order.

    Args:
        labels: Name → value or list of values.
        regions_class_order: As in dataset.json.

    Returns:
        The keys ``labels`` and, with regions, ``regions_class_order``; and old value → new value.

    Raises:
        SegflowError: The labels cannot be used.
    """
    found = Labels.from_json(labels, regions_class_order)
    named = {key: value for key, value in found.to_consecutive().items() if key != "label_values"}
    values = found.values or tuple((number,) for number in found.classes)
    return named, {old: number for number, own in enumerate(values) for old in own}


def renumber_dataset(source: Path, raw_root: Path, dataset_id: int | None, *, progress: Progress = silent) -> Path:
    """Make a dataset from the images of another one and renumbered copies of its label maps.

    Args:
        source: A raw dataset whose dataset.json names the values that its label maps hold.
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the new dataset, which keeps the old name.
        progress: Called after each label map.

    Raises:
        SegflowError: The labels count 0, 1, 2, … already, files do not fit together, a label map cannot be read or
            holds a value without a name, or the number is taken. All problems of the cases are listed together.
    """
    content = read_json(source / "dataset.json")
    labels = content.get("labels") if isinstance(content, Mapping) else None
    if not isinstance(labels, Mapping):
        raise SegflowError(f"{source / 'dataset.json'} names no labels", expected='{"background": 0, "tumour": 255}')
    order = content.get("regions_class_order")
    named, new = renumbered(labels, order)
    if all(old == value for old, value in new.items()):
        raise SegflowError(
            "the labels count 0, 1, 2, … already", found=labels, fix="It needs no conversion: dataset.path=FOLDER."
        )
    if dataset_id is None:
        raise SegflowError(
            "the renumbered dataset has no number",
            fix="Give it one: dataset_id=42. Or use the dataset as it is: values are mapped while they are read.",
        )
    content = {**content, **named}
    description = build_as(
        source / "dataset.json", content, functools.partial(DatasetDescription.from_json, source.resolve().name)
    )
    target = refuse_taken(raw_root, f"Dataset{dataset_id:03d}_{description.name.split('_', 1)[-1]}")
    cases = find_training_cases(source.resolve(), description)
    reader = reader_of((case.images[0] for case in cases), description.file_ending, description.reader)
    with folder_written_whole(target) as partial:
        content["dataset"] = write_renumbered(cases, new, reader, partial, description.label_ending, progress)
        content["numTraining"] = len(cases)
        write_json(partial / "dataset.json", content)
    return target


def write_renumbered(
    cases: Sequence[CaseFiles], new: Mapping[int, int], reader: ImageIO, folder: Path, ending: str, progress: Progress
) -> dict[str, Any]:
    """Write the cases' label maps with new values below ``folder``.

    Returns:
        The value of dataset.json's key ``dataset``.

    Raises:
        CaseErrors: Label maps cannot be read, or hold values that are not in ``new``.
    """
    log.info("labels are renumbered, in predictions too: %s", ", ".join(f"{old} → {new[old]}" for old in sorted(new)))
    (folder / LABELS).mkdir()
    jobs = []
    for case in cases:
        voxels = 0 if case.label is None else voxels_of(case.label, reader)
        arguments = (case, new, reader, folder / LABELS / f"{case.case_id}{ending}")
        jobs.append(Job(case.case_id, arguments, BYTES_PER_VOXEL * voxels, f"{voxels:,} voxels"))
    gather(run_jobs(renumber_case, jobs, processes=0), len(jobs), STAGE, progress).all_values(
        "some label maps could not be renumbered", fix="Nothing was written."
    )
    return {
        case.case_id: {
            "images": [str(file.resolve()) for file in case.images],
            "label": f"{LABELS}/{case.case_id}{ending}",
        }
        for case in cases
    }


def renumber_case(case: CaseFiles, new: Mapping[int, int], reader: ImageIO, file: Path) -> None:
    """Write one case's label map with new values."""
    if case.label is None:
        raise SegflowError("the case has no label", case=case.case_id)
    try:
        label, geometry = reader.read_label(case.label)
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    values = label_values(label)
    if unknown := [value for value in values if value not in new]:
        raise SegflowError(
            f"{case.label.name} holds labels without a name",
            case=case.case_id,
            found=unknown[:10],
            expected=f"only {sorted(new)}",
            fix="Name them, or correct the label map.",
        )
    result = np.zeros_like(label)
    for value in values:
        result[label == value] = new[value]
    reader.write_label(result, geometry, file)
