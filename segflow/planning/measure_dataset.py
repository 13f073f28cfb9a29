"""Measuring a dataset on disk: all cases, or nothing where its files are unchanged."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.fingerprint import MEASURE_AGAIN, CaseMeasurement, Fingerprint
from segflow.core.intensities import describe_absurd
from segflow.core.labels import Labels
from segflow.core.machine import memory_bytes, processor_count
from segflow.core.parallel import Job, run_jobs
from segflow.core.progress import Progress, ProgressEvent, silent
from segflow.planning.measure import measure_case, samples_per_case, summarize
from segflow.storage.dataset_check import check_label_values
from segflow.storage.images import ImageIO, read_case
from segflow.storage.json_files import read_json, read_json_as, write_json
from segflow.storage.label_map_files import files_beside

FINGERPRINT_FILE = "dataset_fingerprint.json"
SOURCE_FILE = "dataset_fingerprint_source.json"
"""Says which files the fingerprint was measured from, so that an unchanged dataset is not measured again."""

STAGE = "measure"
_FORMAT = 2  # of what SOURCE_FILE stands for: raise it when the measure changes

logger = logging.getLogger(__name__)


def content_key(folder: Path, cases: Sequence[CaseFiles], reader: ImageIO) -> str:
    """Changes with the name, size or time of any file that is read, and with the reader."""
    entries: list[object] = [_FORMAT, reader.name]
    for case in cases:
        own = (*case.images, *((case.label,) if case.label else ()))
        for file in (*own, *(beside for image in own for beside in files_beside(image))):
            status = file.stat()
            name = file.relative_to(folder) if file.is_relative_to(folder) else file
            entries.append([case.case_id, name.as_posix(), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def read_fingerprint(folder: Path, source: dict[str, str], cases: int) -> Fingerprint | None:
    """The stored fingerprint, if it still stands for the dataset."""
    file, source_file = folder / FINGERPRINT_FILE, folder / SOURCE_FILE
    if not file.is_file():
        return None
    stored = read_json_as(file, Fingerprint.from_json, fix=MEASURE_AGAIN)
    if source_file.is_file():
        if read_json(source_file) == source:
            logger.info("The dataset is unchanged: its fingerprint is used again (clean=true measures anew)")
            return stored
        logger.info("The dataset has changed since it was measured: it is measured again")
        return None
    if len(stored.spacings) != cases:
        logger.info("%s is of %d cases, not %d: the dataset is measured again", file, len(stored.spacings), cases)
        return None
    logger.warning("%s was made elsewhere and is used as it is (clean=true measures anew)", file)
    return stored


def write_fingerprint(folder: Path, fingerprint: Fingerprint, source: dict[str, str]) -> None:
    # Without its source, a fingerprint that was written halfway through would pass for one made elsewhere.
    write_json(folder / SOURCE_FILE, {"files": "being written"})
    write_json(folder / FINGERPRINT_FILE, fingerprint.to_json(), sort_keys=True)
    write_json(folder / SOURCE_FILE, source)


def measure_dataset(
    cases: Sequence[CaseFiles],
    reader: ImageIO,
    description: DatasetDescription,
    *,
    processes: int | None = None,
    memory_limit_bytes: int | None = None,
    progress: Progress = silent,
) -> Fingerprint:
    """Read and measure all cases.

    Args:
        cases: The training cases, with labels.
        reader: How to read them.
        description: Channels and labels that they must have.
        processes: Worker processes; 0 measures in this one, None takes one per processor.
        memory_limit_bytes: Cases are measured together only while they fit; None takes what the machine has.
        progress: Told after each case.

    Raises:
        SegflowError: Cases cannot be read or do not fit the description; all of them are listed.
    """
    samples = samples_per_case(len(cases))
    channels = len(description.channels)
    jobs = [
        Job(case.case_id, (case, reader, channels, description.labels, samples), _peak_bytes(case, reader, channels))
        for case in cases
    ]
    found: dict[str, CaseMeasurement] = {}
    errors: list[str] = []
    progress(ProgressEvent(STAGE, "", 0, len(jobs)))
    outcomes = run_jobs(
        _measure_files,
        jobs,
        processes=processor_count() if processes is None else processes,
        memory_limit_bytes=memory_bytes() if memory_limit_bytes is None else memory_limit_bytes,
    )
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.error is None:
            found[outcome.name] = outcome.value
        else:
            errors.append(outcome.error)
        progress(ProgressEvent(STAGE, outcome.name, done, len(jobs)))
    if errors:
        raise CaseErrors("the dataset cannot be measured", sorted(errors))
    empty = [name for name, measurement in found.items() if not measurement.intensities[0].counts.size]
    if empty and len(empty) < len(found):
        logger.warning("%d cases have no foreground: %s", len(empty), ", ".join(sorted(empty)[:8]))
    if absurd := {name: measurement.absurd for name, measurement in found.items() if measurement.absurd}:
        logger.warning("%s", describe_absurd(absurd))
    return summarize([found[case.case_id] for case in cases])


def _measure_files(files: CaseFiles, reader: ImageIO, channels: int, labels: Labels, samples: int) -> CaseMeasurement:
    case = read_case(files, reader, channels=channels)
    if case.label is not None:
        check_label_values(case.label, labels, files.case_id)
    return measure_case(case, samples)


def _peak_bytes(files: CaseFiles, reader: ImageIO, channels: int) -> int:
    """Memory for measuring a case: the image as stored and as read, the label, the mask and its holes, the draws."""
    try:
        header = reader.read_header(files.images[0])
    except SegflowError:
        return 0  # the job itself will say what is wrong
    return math.prod(header.shape) * (8 * channels + 24)
