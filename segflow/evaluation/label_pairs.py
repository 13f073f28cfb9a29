"""Matching of predictions with references, and reading of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Geometry
from segflow.evaluation.label_maps import LabelMap
from segflow.execution.gathering import Gathered, gather
from segflow.execution.jobs import Job
from segflow.execution.machine import processor_count
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress
from segflow.storage.images import ImageIO, same_placement
from segflow.storage.listing import FETCH, list_folder, tell_passed_over
from segflow.storage.open_volumes import open_label_source

MATCH_BY_NAME = "A prediction is compared with the reference of the same file name."
SMALL_WORK_VOXELS = 1 << 25
"""Amount of work below which starting worker processes takes longer than the work itself."""


@dataclass(frozen=True, slots=True)
class LabelPair:
    """The two label maps of one case."""

    case_id: str
    prediction: Path
    reference: Path


def find_pairs(
    prediction: Path, reference: Path, file_ending: str, *, partial: bool = False
) -> tuple[list[LabelPair], dict[str, str]]:
    """Match two folders by file name.

    Args:
        prediction: Folder of predicted label maps.
        reference: Folder of reference label maps.
        file_ending: Ending of both, with its dot.
        partial: Skip references without a prediction.

    Returns:
        The pairs, sorted by case id; and case id → message for each case that lacks one side.

    Raises:
        SegflowError: A folder is missing or holds no such file, or no case has both sides.
    """
    predicted, expected = label_files(prediction, file_ending), label_files(reference, file_ending)
    pairs, missing = [], {}
    for case_id in sorted(set(predicted) | (set() if partial else set(expected))):
        name = case_id + file_ending
        if case_id not in predicted:
            missing[case_id] = (
                f"case '{case_id}': there is no prediction {prediction / name}. evaluation.partial=true skips it."
            )
        elif case_id not in expected:
            missing[case_id] = f"case '{case_id}': there is no reference {reference / name}. {MATCH_BY_NAME}"
        else:
            pairs.append(LabelPair(case_id, predicted[case_id], expected[case_id]))
    if not pairs:
        raise CaseErrors(f"{prediction} and {reference} have no case in common", list(missing.values()))
    return pairs, missing


def inputs_of(pairs: Iterable[LabelPair]) -> dict[str, Path]:
    """Role → file of label maps that are scored, for a stamp; see `prediction_role`."""
    inputs: dict[str, Path] = {}
    for pair in pairs:
        inputs[prediction_role(pair.case_id)] = pair.prediction
        inputs[f"reference {pair.case_id}"] = pair.reference
    return inputs


def prediction_role(case_id: str) -> str:
    """Role of a case's predicted label map in the stamp of its scores."""
    return f"prediction {case_id}"


def label_files(folder: Path, file_ending: str) -> dict[str, Path]:
    """Case id → file of every label map in a folder, sorted. Other files that may be label maps are logged.

    Raises:
        SegflowError: The folder is missing or holds no such file.
    """
    if not folder.is_dir():
        raise SegflowError(f"there is no folder {folder}", expected=f"a folder of label maps (*{file_ending})")
    listing = list_folder(folder)
    names = [name for name in listing.files if name.endswith(file_ending)]
    if not names:
        fix = FETCH if listing.lost else None
        raise SegflowError(f"no file in {folder} ends in '{file_ending}'", found=listing.summary(), fix=fix)
    tell_passed_over(folder, listing.passed_over(names, [file_ending]))
    return {name.removesuffix(file_ending): folder / name for name in names}


def read_pair(pair: LabelPair, reader: ImageIO) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Read both label maps of a case and check that they lie on one grid.

    Returns:
        Reference and prediction, whole numbers (Z, Y, X); and the geometry of the prediction.

    Raises:
        SegflowError: A file cannot be read, or shape, spacing or placement differ. The error names case and files.
    """
    try:
        reference, reference_geometry = reader.read_label(pair.reference)
        prediction, geometry = reader.read_label(pair.prediction)
    except SegflowError as error:
        raise error.of_case(pair.case_id) from error
    check_grid(pair, (prediction.shape, geometry), (reference.shape, reference_geometry))
    return reference, prediction, geometry


@contextmanager
def open_pair(pair: LabelPair, reader: ImageIO) -> Iterator[tuple[LabelMap, LabelMap, Geometry]]:
    """Like `read_pair`, for label maps that are read box by box and need not fit into memory.

    Raises:
        SegflowError: As `read_pair`; or a file can only be read as a whole.
    """
    with ExitStack() as stack:
        opened = []
        for file in (pair.reference, pair.prediction):
            try:
                source = open_label_source(file, reader)
            except SegflowError as error:
                raise error.of_case(pair.case_id) from error
            if source is None:
                raise SegflowError(
                    f"{file} can only be read as a whole, and both label maps do not fit into memory",
                    case=pair.case_id,
                    fix="Give it more memory (max_memory_gb), or convert the files to .nii.gz.",
                )
            opened.append(stack.enter_context(source))
        reference, prediction = opened
        check_grid(pair, (prediction.shape, prediction.geometry), (reference.shape, reference.geometry))
        yield reference, prediction, prediction.geometry


Grid = tuple[Sequence[int], Geometry]


def check_grid(pair: LabelPair, prediction: Grid, reference: Grid) -> None:
    """Refuse label maps that do not lie on one grid.

    Args:
        pair: Their files, for the message.
        prediction, reference: Shape (Z, Y, X) and geometry of each.

    Raises:
        SegflowError: Shape, spacing or placement differ. The error names case and files.
    """
    (shape, geometry), (expected, of_reference) = prediction, reference
    where = f"{pair.prediction} and {pair.reference}"
    fix = "Both must lie on the grid of the case's image."
    if shape != expected:
        raise SegflowError(
            f"{where} differ in shape (z, y, x)", case=pair.case_id, found=shape, expected=expected, fix=fix
        )
    same = geometry.spacing == of_reference.spacing  # `allclose` takes longer than a small label map
    if not same and not np.allclose(geometry.spacing, of_reference.spacing, rtol=1e-3):
        raise SegflowError(
            f"{where} differ in spacing (z, y, x)",
            case=pair.case_id, found=geometry.spacing, expected=of_reference.spacing, fix=fix,
        )  # fmt: skip
    if not same_placement(geometry, of_reference):
        raise SegflowError(f"{where} differ in origin or direction", case=pair.case_id, fix=fix)


def worker_count(processes: int | None, voxels: Sequence[int]) -> int:
    """Number of worker processes for cases of these sizes: the user's, else by the machine and the work."""
    if processes is not None:
        return processes
    return 0 if sum(voxels) < SMALL_WORK_VOXELS else min(processor_count(), len(voxels))


def work_on_maps(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    voxels: Sequence[int],
    processes: int | None,
    stage: str,
    progress: Progress,
) -> Gathered:
    """Do jobs on label maps.

    Args:
        function, jobs: See `run_jobs`.
        voxels: The size of each job, for `worker_count`.
        processes: Worker processes; None for as many as there are processors, or none for little work.
        stage: Name of the work, for progress.
        progress: Called after each job.
    """
    workers = worker_count(processes, voxels)
    outcomes = run_jobs(function, jobs, processes=workers)
    return gather(outcomes, len(jobs), stage, progress)
