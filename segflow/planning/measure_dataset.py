"""Measuring a dataset on disk. A dataset whose files are unchanged is not measured again."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import MEASURE_AGAIN, CaseMeasurement, Fingerprint
from segflow.core.image_look import SLAB_VALUES
from segflow.core.intensities import describe_absurd
from segflow.core.labels import Labels
from segflow.core.wording import some
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.machine import processor_count
from segflow.execution.parallel import room_for_job, run_jobs
from segflow.execution.progress import Progress, silent
from segflow.planning.measure import measure_as_read, measure_case, samples_per_case, summarize
from segflow.storage.file_names import FINGERPRINT_FILE
from segflow.storage.file_stamps import FileStamp, Origin, stamp_file
from segflow.storage.images import ImageIO, read_case
from segflow.storage.json_files import read_json_as, write_json
from segflow.storage.label_map_files import case_inputs
from segflow.storage.open_case import check_values_as_read, is_read_in_boxes, only_whole, open_case
from segflow.storage.regular_files import stamped_files_stay_open
from segflow.storage.stamps import UNKNOWN, StampedFolder

EARLIER_SOURCE_FILE = "dataset_fingerprint_source.json"
"""File beside a fingerprint from before fingerprints had stamps."""

STAGE = "measure"
_VERSION = 3  # raise it when the same files would give another fingerprint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """A fingerprint, and stamps of the files that it was measured from.

    Attributes:
        fingerprint: The fingerprint of all cases.
        inputs: Role → stamp, see `fingerprint_origin`.
    """

    fingerprint: Fingerprint
    inputs: Mapping[str, FileStamp]


def fingerprint_origin(cases: Sequence[CaseFiles], reader: ImageIO, description: DatasetDescription) -> Origin:
    """Origin of a fingerprint: every file of every case, and the reader."""
    settings = {"reader": reader.name, "labels": description.labels.to_json(), "channels": len(description.channels)}
    return Origin(
        "fingerprint", _VERSION, settings, {role: file for case in cases for role, file in _inputs(case).items()}
    )


def _inputs(case: CaseFiles) -> dict[str, Path]:
    return {f"{case.case_id} {role}": file for role, file in case_inputs(case).items()}


def read_fingerprint(folder: Path, origin: Origin) -> Fingerprint | None:
    """The stored fingerprint, if it is still that of the dataset."""
    file = folder / FINGERPRINT_FILE
    if not file.is_file():
        return None
    stored = read_json_as(file, Fingerprint.from_json, fix=MEASURE_AGAIN)
    reason = StampedFolder(folder).why_stale(FINGERPRINT_FILE, origin)
    if reason is None:
        logger.info("The dataset is unchanged: its fingerprint is used again (clean=true measures anew)")
        return stored
    if reason != UNKNOWN or (folder / EARLIER_SOURCE_FILE).is_file():
        logger.info("The dataset has changed since it was measured (%s): it is measured again", reason)
        return None
    cases = len({role.rpartition(" image_")[0] for role in origin.inputs if " image_" in role})
    if len(stored.spacings) != cases:
        logger.info("%s is of %d cases, not %d: the dataset is measured again", file, len(stored.spacings), cases)
        return None
    logger.warning("%s was made elsewhere and is used as it is (clean=true measures anew)", file)
    return stored


def write_fingerprint(
    folder: Path, fingerprint: Fingerprint, origin: Origin, inputs: Mapping[str, FileStamp] | None = None
) -> None:
    """Write ``dataset_fingerprint.json`` with its stamp; ``inputs`` None takes the stamps of the files now."""
    with StampedFolder(folder).written(FINGERPRINT_FILE, origin, inputs) as place:
        write_json(place / FINGERPRINT_FILE, fingerprint.to_json(), sort_keys=True)
    (folder / EARLIER_SOURCE_FILE).unlink(missing_ok=True)


def measure_dataset(
    cases: Sequence[CaseFiles],
    reader: ImageIO,
    description: DatasetDescription,
    *,
    processes: int | None = None,
    progress: Progress = silent,
) -> Measured:
    """Read and measure all cases.

    Args:
        cases: The training cases, with labels.
        reader: How to read them.
        description: Channels and labels that they must have.
        processes: Worker processes; 0 measures in this one, None takes one per processor.
        progress: Called after each case.

    Raises:
        SegflowError: Cases cannot be read or do not fit the description. The error lists all of them.
    """
    samples = samples_per_case(len(cases))
    processes = processor_count() if processes is None else processes
    room = room_for_job(processes)
    jobs = [_job(case, reader, description, samples, room) for case in cases]
    outcomes = run_jobs(_measure_files, jobs, processes=processes)
    measured = gather(outcomes, len(jobs), STAGE, progress).all_values("the dataset cannot be measured")
    found: dict[str, CaseMeasurement] = {name: measurement for name, (measurement, _) in measured.items()}
    inputs: dict[str, FileStamp] = {role: stamp for _, stamps in measured.values() for role, stamp in stamps.items()}
    empty = [name for name, measurement in found.items() if not measurement.has_foreground]
    if empty and len(empty) < len(found):
        logger.warning("%d cases have no foreground: %s", len(empty), some(sorted(empty)))
    if absurd := {name: measurement.absurd for name, measurement in found.items() if measurement.absurd}:
        logger.warning("%s", describe_absurd(absurd))
    return Measured(summarize([found[case.case_id] for case in cases]), inputs)


@stamped_files_stay_open()
def _measure_files(
    as_read: bool, files: CaseFiles, reader: ImageIO, channels: int, labels: Labels, samples: int
) -> tuple[CaseMeasurement, dict[str, FileStamp]]:
    """Measure one case in a worker, slab by slab or as a whole. Its files are stamped before they are read."""
    stamps = {role: stamp_file(file) for role, file in _inputs(files).items()}
    if as_read:
        with open_case(files, reader, channels=channels) as opened:
            if opened is None:
                raise only_whole(files, reader)
            if opened.label is not None:
                check_values_as_read(opened.label, labels, files.case_id)
            return measure_as_read(opened, samples), stamps
    case = read_case(files, reader, channels=channels, labels=labels)
    return measure_case(case, samples), stamps


def _job(files: CaseFiles, reader: ImageIO, description: DatasetDescription, samples: int, room: int) -> Job:
    """The job of one case. It is measured slab by slab if it needs more memory than ``room`` as a whole."""
    channels = len(description.channels)
    rest = (files, reader, channels, description.labels, samples)
    try:
        header = reader.read_header(files.images[0])
    except SegflowError:
        return Job(files.case_id, (False, *rest))  # the job itself reports what is wrong
    voxels = math.prod(header.shape)
    # The image as stored and as read, the label, the mask and its holes, the draws
    whole = voxels * (8 * channels + 24)
    kept = (len(files.images) + 1) * getattr(reader, "kept_bytes", 0)
    in_slabs = 16 * SLAB_VALUES + 24 * channels * min(samples, voxels) + kept
    as_read = in_slabs < whole > room and is_read_in_boxes(files, reader)
    sizes = f"{' × '.join(map(str, header.shape))} voxels"
    return Job(files.case_id, (as_read, *rest), in_slabs if as_read else whole, sizes)
