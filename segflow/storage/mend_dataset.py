"""The mended copy of a raw dataset. The original is never touched.

The copy has a dataset.json from the moment at which it is complete. Until then the folder ``.mending`` in it holds a
record for each finished case, so that the same call continues what was interrupted.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.splits import Split
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.case_files import IMAGES, LABELS
from segflow.storage.case_likeness import duplicates_of
from segflow.storage.case_names import image_ending
from segflow.storage.channel_names import channel_name
from segflow.storage.dataset_check import examine
from segflow.storage.file_names import DESCRIPTION_FILE, SPLITS_FILE
from segflow.storage.folder_files import remove_image
from segflow.storage.folder_lock import held, open_lock
from segflow.storage.images import ImageIO, voxels_of
from segflow.storage.json_files import read_json, write_json, written_whole
from segflow.storage.label_map_files import case_inputs, link_or_copy
from segflow.storage.links import is_below
from segflow.storage.listing import QUIET_NAMES
from segflow.storage.mend_case import Change, MendedCase, MendRules, mend_case
from segflow.storage.patients import notes_beside
from segflow.storage.problems import Problem
from segflow.storage.split_files import read_splits, write_splits

STAGE = "mend"
LOG_FILE = "mending.csv"
WORK = ".mending"
SOURCE_FILE, CASES = "source.json", "cases"
BYTES_PER_VALUE = 16
"""Memory per value of an image in bytes: as stored, mended, written, and read again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mending:
    """Result of `mend_dataset`.

    Attributes:
        folder: The copy.
        changes: What differs from the original, case by case.
        left: Errors that a person must correct. Their cases are not in the copy.
        remaining: Problems of the copy, which are warnings.
        cases: Number of cases in the copy.
    """

    folder: Path
    changes: list[Change]
    left: list[Problem]
    remaining: list[Problem]
    cases: int


def mend_dataset(
    folder: Path,
    description: DatasetDescription,
    reader: ImageIO,
    output: Path,
    rules: MendRules,
    *,
    processes: int = 0,
    progress: Progress = silent,
) -> Mending:
    """Write a mended copy of a raw dataset.

    Args:
        folder: The raw dataset.
        description: Its dataset.json.
        reader: How to read its files, which hold values.
        output: Folder of the copy.
        rules: What is allowed.
        processes: Worker processes; 0 works in this one.
        progress: Called after each case.

    Raises:
        SegflowError: The output lies within the dataset, holds something else, or cannot be written; no case is left.
    """
    work = _prepared(folder, output, rules)
    with held(open_lock(work / "lock"), f"mends into {output}"):
        examined = examine(folder, description, reader, processes=processes, progress=progress)
        duplicates = duplicates_of([case.features for case in examined.cases])
        changes = [
            Change(case_id, "", f"image and label map are those of case '{first}'", "left out")
            for case_id, first in duplicates.items()
        ]
        found = examined.found
        left = [problem for problem in found.problems if problem.severity == "error"]
        unusable = {problem.case for problem in left}
        cases = [case for case in found.cases if case.case_id not in {*duplicates, *unusable}]
        targets = {case.case_id: _target(case, output, description) for case in cases}
        known: dict[str, list[Problem]] = defaultdict(list)
        for case in examined.cases:
            known[case.case_id] = case.problems
        records = work / CASES
        jobs = [
            Job(
                case.case_id,
                (case, targets[case.case_id], reader, rules, known[case.case_id], records / f"{case.case_id}.json"),
                *_need_of(case, reader),
            )
            for case in cases
        ]
        mended = _all_mended(jobs, processes, progress)
        kept = [case for case in cases if case.case_id in mended and not mended[case.case_id].left]
        for result in mended.values():
            changes.extend(result.changes)
            left.extend(result.left)
        if not kept:
            raise SegflowError(f"no case of {folder} can be used", found=left[0].message if left else None)
        _remove_strangers(output, [targets[case.case_id] for case in kept])
        changes.extend(_rest(folder, output, description, [case.case_id for case in kept], rules))
        _write_log(output / LOG_FILE, changes, left)
        content = _described(description, kept, targets, output)
        after = examine(
            output,
            DatasetDescription.from_json(description.name, content),
            reader,
            processes=processes,
            progress=progress,
        )
        write_json(output / DESCRIPTION_FILE, content)
    shutil.rmtree(work, ignore_errors=True)
    return Mending(output, changes, left, after.problems, len(kept))


def _prepared(folder: Path, output: Path, rules: MendRules) -> Path:
    """The folder for records in a new copy, or in one that was interrupted."""
    if is_below(output, folder) or is_below(folder, output):
        raise SegflowError(
            "the mended copy cannot lie in the dataset, nor the dataset in it",
            found=f"output {output}, dataset {folder}",
            fix="Give another folder.",
        )
    work, source = output / WORK, {"source": str(folder.resolve()), "rules": _as_json(rules)}
    if (output / DESCRIPTION_FILE).exists():
        raise SegflowError(f"{output} holds a dataset already", fix="Remove it, or give another folder.")
    try:
        if (work / SOURCE_FILE).is_file():
            if read_json(work / SOURCE_FILE) != source:
                raise SegflowError(
                    f"{output} holds the beginning of another mended copy", fix="Remove it, or give another folder."
                )
            log.info("%s is continued", output)
        elif output.exists() and any(output.iterdir()):
            raise SegflowError(f"{output} is not empty", fix="Give a new folder.")
        for name in (WORK, IMAGES, LABELS):
            (output / name).mkdir(parents=True, exist_ok=True)
        write_json(work / SOURCE_FILE, source)
    except OSError as error:
        raise SegflowError(f"cannot write {output}: {error.strerror or error}") from error
    return work


def _as_json(rules: MendRules) -> dict[str, Any]:
    return {"stray": rules.stray, "copy": rules.copy, "declared": list(rules.declared), "channels": rules.channels}


def _target(case: CaseFiles, output: Path, description: DatasetDescription) -> CaseFiles:
    """Where the copy of a case belongs."""
    endings = description.file_ending, description.label_ending
    images = tuple(
        output / IMAGES / channel_name(case.case_id, number, _ending_of(file, endings[0]))
        for number, file in zip(case.numbers, case.images, strict=True)
    )
    label = None
    if case.label is not None:
        label = output / LABELS / f"{case.case_id}{_ending_of(case.label, endings[1])}"
    return CaseFiles(case.case_id, images, label, case.missing)


def _ending_of(file: Path, usual: str) -> str:
    """The ending that a file's reader knows it by: the dataset's, or the file's own."""
    return usual if file.name.endswith(usual) else image_ending(file.name) or file.suffix


def _all_mended(jobs: Sequence[Job], processes: int, progress: Progress) -> dict[str, MendedCase]:
    gathered = gather(run_jobs(mend_or_continue, jobs, processes=processes), len(jobs), STAGE, progress)
    failed = {
        case_id: MendedCase(case_id, [], [Problem(case_id, "error", message)])
        for case_id, message in gathered.failed.items()
    }
    return dict(sorted({**gathered.values, **failed}.items()))


def _need_of(case: CaseFiles, reader: ImageIO) -> tuple[int, str]:
    """Memory in bytes to mend a case, and the size that it follows from."""
    voxels = voxels_of(case.images[0], reader)
    return BYTES_PER_VALUE * voxels, f"{voxels:,} voxels"


def mend_or_continue(
    files: CaseFiles, targets: CaseFiles, reader: ImageIO, rules: MendRules, known: Sequence[Problem], record: Path
) -> MendedCase:
    """`mend_case`, or its recorded result if it finished and the files have not changed since."""
    stamp = {role: [str(path), *_size_and_age(path)] for role, path in case_inputs(files).items()}
    if record.is_file():
        content = read_json(record)
        if isinstance(content, dict) and content.get("stamp") == stamp:
            return MendedCase.from_json(content["result"])
    result = mend_case(files, targets, reader, rules, known)
    write_json(record, {"stamp": stamp, "result": result.to_json()})
    return result


def _size_and_age(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _remove_strangers(output: Path, targets: Sequence[CaseFiles]) -> None:
    """Remove files that an interrupted call wrote for cases that are no longer there."""
    files = [path for case in targets for path in (*case.images, case.label) if path is not None]
    wanted = {path.name for path in files} | {notes_beside(path).name for path in files}
    wanted |= {f"{case.case_id}.json" for case in targets}  # the spacing of all channels of a TIFF
    for name in (IMAGES, LABELS):
        for path in list((output / name).iterdir()):
            if path.name not in wanted:
                remove_image(path)


def _rest(
    folder: Path, output: Path, description: DatasetDescription, kept: Sequence[str], rules: MendRules
) -> list[Change]:
    """Bring over what lies beside the training cases: test images, splits, notes. Hidden files are not."""
    changes = []
    if description.num_training != len(kept):
        found = f"dataset.json claims {description.num_training} training cases"
        changes.append(Change("", DESCRIPTION_FILE, found, f"numTraining is {len(kept)}"))
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") or path.name.lower() in QUIET_NAMES & {"thumbs.db", "desktop.ini"}
        if hidden or path.name in (IMAGES, LABELS, DESCRIPTION_FILE, LOG_FILE):
            continue
        target = output / path.name
        if path.name == SPLITS_FILE:
            changes.extend(_splits(path, target, set(kept)))
        elif path.is_file() or path.is_dir():
            if target.is_symlink() or target.is_file():
                target.unlink()
            link_or_copy(path, target, copy=rules.copy)
    return changes


def _splits(source: Path, target: Path, kept: set[str]) -> list[Change]:
    """Bring over the splits without the cases that are not in the copy."""
    try:
        splits = read_splits(source)
    except SegflowError as error:
        return [Change("", SPLITS_FILE, str(error), "left out")]
    fewer = [
        Split(*(tuple(case for case in side if case in kept) for side in (split.train, split.val))) for split in splits
    ]
    write_splits(target, fewer)
    return [] if fewer == splits else [Change("", SPLITS_FILE, "it names cases that are left out", "removed from it")]


def _described(
    description: DatasetDescription, kept: Sequence[CaseFiles], targets: Mapping[str, CaseFiles], output: Path
) -> dict[str, Any]:
    """The copy's dataset.json. Cases are listed in it where the original lists them."""
    content = {**description.raw, "numTraining": len(kept)}
    if "dataset" in content:
        content["dataset"] = {
            case.case_id: {
                **content["dataset"][case.case_id],
                "images": _listed(targets[case.case_id], output),
                "label": str(label.relative_to(output)),
            }
            for case in kept
            if (label := targets[case.case_id].label) is not None
        }
    return content


def _listed(case: CaseFiles, output: Path) -> list[str | None]:
    """The images of a case in the form of dataset.json's list: a channel that is missing is null."""
    files = dict(zip(case.numbers, case.images, strict=True))
    channels = range(len(case.images) + len(case.missing))
    return [str(files[number].relative_to(output)) if number in files else None for number in channels]


def _write_log(file: Path, changes: Sequence[Change], left: Sequence[Problem]) -> None:
    """Write the log of all changes as CSV."""
    with written_whole(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("case", "file", "found", "done"))
        table.writerows((change.case, change.file, change.found, change.done) for change in changes)
        for problem in left:
            todo = f"left out. {problem.fix}" if problem.fix else "left out"
            table.writerow((problem.case or "", "", problem.message, todo))
        stream.flush()
        os.fsync(stream.fileno())
