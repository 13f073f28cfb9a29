"""The cross-validated label maps of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segflow.core.labels import Labels
from segflow.evaluation.label_pairs import worker_count
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.inference.ensemble_cases import ensemble_origin
from segflow.inference.stored_probabilities import StoredProbabilities, bytes_to_decide, decide_case
from segflow.selection.crossval import CrossValidation
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, reader_by_name, voxels_of
from segflow.storage.label_map_files import remove_label_map
from segflow.storage.label_mapping import in_classes
from segflow.storage.predictions import Predictions, Wanted


def write_ensemble(
    runs: Sequence[CrossValidation], cases: Sequence[str], folder: Path, *, processes: int | None = None
) -> None:
    """Write the label maps of an ensemble. Each case is predicted by the folds that did not see it.

    Args:
        runs: Runs with probabilities of all cases.
        cases: Ids of the cases.
        folder: Folder for the label maps; others in it are removed.
        processes: Worker processes; None takes one per processor, or none for little work.

    Raises:
        SegflowError: A probability cannot be read, or a label map cannot be written.
    """
    record = runs[0].record
    reader = in_classes(reader_by_name(record.plans.reader), record.dataset.labels)
    ending = record.dataset.label_ending
    wanted_names = {f"{case_id}{ending}" for case_id in cases}
    for file in folder.glob(f"*{ending}"):
        if file.name not in wanted_names:
            remove_label_map(file)  # of an earlier selection
    patterns = [runs[0].folder / f"{case_id}{ending}" for case_id in cases]
    labels, predictions = record.dataset.labels, Predictions(folder, ending, own=True)
    members = {case_id: tuple(run.probabilities(case_id) for run in runs) for case_id in cases}
    wanted = {
        case_id: Wanted(ensemble_origin(members[case_id], case_id, pattern, labels))
        for case_id, pattern in zip(cases, patterns, strict=True)
    }
    done = predictions.prepare(wanted, what="label maps", maker="ensemble")
    voxels = [voxels_of(file, reader) for file in patterns]
    jobs = [
        Job(
            case_id,
            (case_id, members[case_id], labels, reader, predictions, wanted[case_id].origin),
            bytes_to_decide(len(runs), count),
            f"{len(runs)} members of {count:,} voxels",
        )
        for case_id, count in zip(cases, voxels, strict=True)
        if case_id not in done
    ]
    workers = worker_count(processes, voxels)
    written = gather(run_jobs(_write_case, jobs, processes=workers), len(jobs), "ensemble")
    written.all_values("the best ensemble's label maps cannot be written")
    predictions.describe(record)


def _write_case(
    case_id: str,
    members: Sequence[StoredProbabilities],
    labels: Labels,
    reader: ImageIO,
    predictions: Predictions,
    origin: Origin,
) -> None:
    inputs, pattern = origin.stamp_inputs(), origin.inputs["label_map"]
    label, geometry = reader.read_label(pattern)
    with predictions.written(case_id, origin, inputs) as place:
        reader.write_label(decide_case(members, case_id, labels, label.shape), geometry, place / pattern.name)
