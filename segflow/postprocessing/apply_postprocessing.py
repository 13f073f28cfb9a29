"""Postprocessing of every label map of a folder by chosen steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
from segflow.evaluation.label_pairs import label_files, work_on_maps
from segflow.execution.jobs import Job
from segflow.execution.progress import Progress, silent
from segflow.postprocessing.components import BYTES_PER_VOXEL, postprocess_label_map
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, reader_of, voxels_of
from segflow.storage.json_files import read_json_as
from segflow.storage.label_map_files import inputs_beside
from segflow.storage.label_mapping import in_classes
from segflow.storage.predictions import Predictions, Wanted

WAY = "postprocess"
VERSION = 1  # raise it when the same label map and steps would give another result


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """Result of postprocessing a folder.

    Attributes:
        done: Case ids written.
        failed: Case id → message.
    """

    done: tuple[str, ...]
    failed: dict[str, str]


def read_choice(file: Path) -> PostprocessingChoice:
    """Read a ``postprocessing.json``.

    Raises:
        SegflowError: It is missing or cannot be used.
    """
    return read_json_as(file, PostprocessingChoice.from_json, fix="Make it: segflow postprocess action=choose …")


def apply_postprocessing(
    prediction: Path,
    choice: PostprocessingChoice,
    output: Path,
    *,
    file_ending: str,
    labels: Labels | None = None,
    reader: str | None = None,
    processes: int | None = None,
    own: bool = False,
    progress: Progress = silent,
) -> ApplyReport:
    """Apply the chosen steps to every label map of a folder, and write the results under the same names.

    Args:
        prediction: Folder of label maps.
        choice: The steps.
        output: Folder for the results; it must not be ``prediction``.
        file_ending: Ending of the label maps, with its dot.
        labels: The label definition, if the values of its files are not its classes, which the steps name.
        reader: Name of the reader; None chooses by ending.
        processes: Worker processes; None takes one per processor, or none for little work.
        own: Only segflow writes into the output folder.
        progress: Called after each case.

    Returns:
        The result. A file that cannot be read or written does not stop the others.

    Raises:
        SegflowError: The folder is missing or holds no label map; or a file in the way in the output folder is an input
            or was not written by segflow.
    """
    files = label_files(prediction, file_ending)
    images = reader_of(files.values(), file_ending, reader)
    images = images if labels is None else in_classes(images, labels)
    predictions = Predictions(output, file_ending, own=own)
    decisive: dict[str, Any] = {"steps": [step.to_json() for step in choice.steps]}
    if labels is not None and labels.values:
        decisive["label_values"] = labels.values
    wanted = {
        case_id: Wanted(Origin(WAY, VERSION, decisive, {"label_map": file} | inputs_beside({"label_map": file})))
        for case_id, file in files.items()
    }
    predictions.prepare(wanted, what="label maps", maker="choice of steps", resume=False)
    voxels = [voxels_of(file, images) for file in files.values()]
    jobs = [
        Job(
            case_id,
            (case_id, file, choice.steps, predictions, wanted[case_id].origin, images),
            BYTES_PER_VOXEL * n,
            f"{n:,} voxels",
        )
        for (case_id, file), n in zip(files.items(), voxels, strict=True)
    ]
    applied = work_on_maps(_apply_to_file, jobs, voxels, processes, "postprocess", progress)
    return ApplyReport(tuple(sorted(applied.values)), dict(sorted(applied.failed.items())))


def _apply_to_file(
    case_id: str,
    file: Path,
    steps: Sequence[PostprocessingStep],
    predictions: Predictions,
    origin: Origin,
    reader: ImageIO,
) -> None:
    try:
        inputs = origin.stamp_inputs()
        label_map, geometry = reader.read_label(file)
        with predictions.written(case_id, origin, inputs) as place:
            reader.write_label(postprocess_label_map(label_map, steps, geometry.spacing), geometry, place / file.name)
    except SegflowError as error:
        raise error.of_case(case_id) from error
