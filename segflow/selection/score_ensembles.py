"""Scores of ensembles of runs. Each probability is read only once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import CaseMetrics, Summary
from segflow.evaluation.evaluate_settings import overlap_only
from segflow.evaluation.label_pairs import work_on_maps
from segflow.evaluation.score_case import score_case, told_scores
from segflow.execution.jobs import Job
from segflow.execution.progress import Progress, silent
from segflow.inference.stored_probabilities import StoredProbabilities, StreamedDecision, weighted_mean
from segflow.selection.crossval import CrossValidation
from segflow.storage.images import ImageIO, reader_by_name, voxels_of
from segflow.storage.label_mapping import in_classes

Members = tuple[int, ...]
"""Indices of the runs that predict together."""


def ensembles_of(count: int, max_members: int) -> list[Members]:
    """All ensembles of 2 to ``max_members`` out of ``count`` runs, smaller ones first."""
    return [group for size in range(2, max_members + 1) for group in combinations(range(count), size)]


def score_ensembles(
    runs: Sequence[CrossValidation],
    ensembles: Sequence[Members],
    cases: Sequence[str],
    reference: Path,
    *,
    processes: int | None = None,
    progress: Progress = silent,
) -> list[Summary]:
    """Score ensembles on their members' validation cases without writing a label map.

    Args:
        runs: Runs with probabilities of all cases.
        ensembles: Members of each ensemble.
        cases: Ids of the cases.
        reference: Folder of the reference label maps.
        processes: Worker processes; None takes one per processor, or none for little work.
        progress: Called after each case.

    Returns:
        One summary per ensemble.

    Raises:
        SegflowError: A probability or a reference cannot be read.
    """
    record = runs[0].record
    reader = in_classes(reader_by_name(record.plans.reader), record.dataset.labels)
    files = {case_id: reference / f"{case_id}{record.dataset.label_ending}" for case_id in cases}
    voxels = [voxels_of(file, reader) for file in files.values()]
    per_voxel = 8 * len(runs) + 6 * len(ensembles) + 16  # probabilities as read, decisions, the reference
    jobs = [
        Job(
            case_id,
            (
                case_id,
                tuple(run.probabilities(case_id) for run in runs),
                tuple(ensembles),
                file,
                record.dataset.labels,
                reader,
            ),
            per_voxel * count,
            f"{len(runs)} members of {count:,} voxels",
        )
        for (case_id, file), count in zip(files.items(), voxels, strict=True)
    ]
    values = [count * len(runs) * record.dataset.labels.num_outputs for count in voxels]
    scored = work_on_maps(_score_case, jobs, values, processes, "ensemble", progress)
    found = scored.all_values("the ensembles cannot be scored")
    return [Summary.of_cases([case[k] for case in found.values()]) for k in range(len(ensembles))]


def _score_case(
    case_id: str,
    runs: Sequence[StoredProbabilities],
    ensembles: Sequence[Members],
    reference_file: Path,
    labels: Labels,
    reader: ImageIO,
) -> list[CaseMetrics]:
    """Scores of one case for each ensemble."""
    try:
        reference, geometry = reader.read_label(reference_file)
        decisions = [StreamedDecision(labels, reference.shape) for _ in ensembles]
        for output in range(runs[0].outputs):
            values = [run.read(case_id, output) for run in runs]
            if values[0].shape != reference.shape:
                raise SegflowError(
                    f"the probabilities in {runs[0].folder} have another shape than the reference (z, y, x)",
                    found=values[0].shape,
                    expected=reference.shape,
                )
            for members, decision in zip(ensembles, decisions, strict=True):
                decision.add(weighted_mean([values[k] for k in members]))
    except SegflowError as error:
        raise error.of_case(case_id) from error
    return [
        CaseMetrics(
            case_id,
            told_scores(
                score_case(reference, decision.label_map, geometry.spacing, labels, overlap_only()),
                labels.absent_keys(case_id),
            ),
            "",
            str(reference_file),
        )
        for decision in decisions
    ]
