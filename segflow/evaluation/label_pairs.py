"""Which prediction belongs to which reference, and the two read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.machine import processor_count
from segflow.storage.images import ImageIO, same_placement

MATCH_BY_NAME = "A prediction is held against the reference of the same file name."
SMALL_WORK_VOXELS = 1 << 25
"""With less than this to do, starting worker processes takes longer than the work."""


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
        partial: Whether references without a prediction are passed over.

    Returns:
        The pairs, sorted by case id; and for each case that lacks one side, what is missing.

    Raises:
        SegflowError: A folder is missing or holds no such file, or no case has both sides.
    """
    predicted, expected = (_case_ids(folder, file_ending) for folder in (prediction, reference))
    for folder, found in ((prediction, predicted), (reference, expected)):
        if not found:
            raise SegflowError(f"no file in {folder} ends in '{file_ending}'", found=_endings(folder))
    pairs, missing = [], {}
    for case_id in sorted(predicted | (set() if partial else expected)):
        files = {"prediction": prediction / (case_id + file_ending), "reference": reference / (case_id + file_ending)}
        lacking = [side for side, known in (("prediction", predicted), ("reference", expected)) if case_id not in known]
        if lacking:
            problem = SegflowError(f"there is no {lacking[0]} {files[lacking[0]]}", case=case_id, fix=MATCH_BY_NAME)
            missing[case_id] = str(problem)
        else:
            pairs.append(LabelPair(case_id, files["prediction"], files["reference"]))
    if not pairs:
        raise CaseErrors(f"{prediction} and {reference} have no case in common", list(missing.values()))
    return pairs, missing


def _case_ids(folder: Path, file_ending: str) -> set[str]:
    if not folder.is_dir():
        raise SegflowError(f"there is no folder {folder}", expected=f"a folder of label maps (*{file_ending})")
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    return {name.removesuffix(file_ending) for name in names if name.endswith(file_ending) and name[0] != "."}


def _endings(folder: Path) -> str:
    found = sorted({"".join(Path(entry.name).suffixes[-2:]) for entry in folder.iterdir() if entry.is_file()})
    return ", ".join(found) or "no file"


def read_pair(pair: LabelPair, reader: ImageIO) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Read both label maps of a case and check that they lie on one grid.

    Returns:
        Reference and prediction, whole numbers (Z, Y, X); and the geometry of the prediction.

    Raises:
        SegflowError: A file cannot be read, or shape, spacing or placement differ. Names the case and the files.
    """
    try:
        reference, reference_geometry = reader.read_label(pair.reference)
        prediction, geometry = reader.read_label(pair.prediction)
    except SegflowError as error:
        raise SegflowError(
            error.problem, case=pair.case_id, found=error.found, expected=error.expected, fix=error.fix
        ) from error
    where = f"{pair.prediction} and {pair.reference}"
    fix = "Both must lie on the grid of the case's image."
    if prediction.shape != reference.shape:
        raise SegflowError(
            f"{where} differ in shape (z, y, x)",
            case=pair.case_id, found=prediction.shape, expected=reference.shape, fix=fix,
        )  # fmt: skip
    if not np.allclose(geometry.spacing, reference_geometry.spacing, rtol=1e-3):
        raise SegflowError(
            f"{where} differ in spacing (z, y, x)",
            case=pair.case_id, found=geometry.spacing, expected=reference_geometry.spacing, fix=fix,
        )  # fmt: skip
    if not same_placement(geometry, reference_geometry):
        raise SegflowError(f"{where} differ in origin or direction", case=pair.case_id, fix=fix)
    return reference, prediction, geometry


def pair_voxels(pair: LabelPair, reader: ImageIO) -> int:
    """Voxels of a case by its header; 0 where that cannot be read, which `read_pair` will say better."""
    try:
        return int(np.prod(reader.read_header(pair.prediction).shape, dtype=np.int64))
    except SegflowError:
        return 0


def worker_count(processes: int | None, voxels: Sequence[int]) -> int:
    """Worker processes for cases of these sizes: what the user asks for, else what machine and work call for."""
    if processes is not None:
        return processes
    return 0 if sum(voxels) < SMALL_WORK_VOXELS else min(processor_count(), len(voxels))
