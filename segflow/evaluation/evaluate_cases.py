"""Scores of a folder of predicted label maps against a folder of references (recipe 12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import LabelKey, Labels
from segflow.core.metrics import CaseMetrics, Summary
from segflow.core.own_part import OwnPart
from segflow.evaluation.evaluate_settings import EvaluateSettings, ScoreSettings
from segflow.evaluation.label_pairs import LabelPair, find_pairs, inputs_of, read_pair, work_on_maps
from segflow.evaluation.own_metrics import check_metrics, own_scores
from segflow.evaluation.score_case import score_case
from segflow.evaluation.summary import SUMMARY_FILE, write_summary
from segflow.evaluation.undeclared import Undeclared, undeclared_values, warn_of_undeclared
from segflow.execution.jobs import Job
from segflow.execution.progress import Progress, silent
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, reader_of, voxels_of
from segflow.storage.stamps import StampedFolder

BYTES_PER_VOXEL = 12
"""Memory per voxel in bytes: two label maps as read and as decoded, and the masks and cell codes of one label."""
OWN_BYTES_PER_VOXEL = 4
"""Further memory for a user's own metrics: two masks of one label, and the copies for each metric."""


def evaluate_cases(
    prediction: Path,
    reference: Path,
    labels: Labels,
    settings: EvaluateSettings | None = None,
    *,
    file_ending: str,
    reader: str | None = None,
    output: Path | None = None,
    metrics: Mapping[str, OwnPart] | None = None,
    progress: Progress = silent,
) -> Summary:
    """Score every case of a folder of predictions.

    A case that cannot be scored does not stop the others. It is listed with the reason in ``failed`` of the result.
    A warning names values that are not labels.

    Args:
        prediction: Folder of predicted label maps.
        reference: Folder of reference label maps, one of the same name for each prediction.
        labels: The label definition. Its foreground labels, or regions, are scored.
        settings: Which scores to compute, and how.
        file_ending: Ending of the label maps, with its dot.
        reader: Name of the reader; None chooses by ending.
        output: Folder to write ``summary.json`` and ``metrics.csv`` to; None writes nothing.
        metrics: Name → user's own metric, computed beside the shipped ones; see `own_metrics.CONTRACT`.
        progress: Called after each case.

    Raises:
        SegflowError: A folder is missing or empty, a user's own metric cannot be used, or no case could be scored.
    """
    settings, metrics = settings or EvaluateSettings(), metrics or {}
    check_metrics(metrics)
    stamped = None if output is None else StampedFolder(output)
    if stamped is not None:
        stamped.discard(SUMMARY_FILE)  # old scores belong to other label maps, or will be computed again
    pairs, failed = find_pairs(prediction, reference, file_ending, partial=settings.partial)
    own = {"metrics": {name: metric.description for name, metric in metrics.items()}} if metrics else {}
    origin = Origin("scores", 1, {**asdict(settings.scores), **own, "labels": labels.to_json()}, inputs_of(pairs))
    inputs = {} if stamped is None else origin.stamp_inputs(unreadable_too=True)
    images = reader_of((pair.reference for pair in pairs), file_ending, reader)
    voxels = [voxels_of(pair.prediction, images) for pair in pairs]
    bytes_per_voxel = BYTES_PER_VOXEL + (OWN_BYTES_PER_VOXEL if metrics else 0)
    jobs = [
        Job(pair.case_id, (pair, images, labels, settings.scores, metrics), bytes_per_voxel * count)
        for pair, count in zip(pairs, voxels, strict=True)
    ]
    evaluated = work_on_maps(_evaluate_case, jobs, voxels, settings.processes, "evaluate", progress)
    failed = dict(sorted((failed | evaluated.failed).items()))
    if not evaluated.values:
        raise CaseErrors("no case could be evaluated", [*failed.values()])
    warn_of_undeclared({case_id: undeclared for case_id, (_, undeclared) in evaluated.values.items()}, labels)
    summary = Summary.of_cases([scored for scored, _ in evaluated.values.values()], failed)
    if stamped is not None:
        with stamped.written(SUMMARY_FILE, origin, inputs) as place:
            write_summary(summary, labels, place)
    return summary


def _evaluate_case(
    pair: LabelPair, reader: ImageIO, labels: Labels, settings: ScoreSettings, metrics: Mapping[str, OwnPart]
) -> tuple[CaseMetrics, Undeclared]:
    reference, prediction, geometry = read_pair(pair, reader)
    scores: dict[LabelKey, dict[str, float]] = score_case(reference, prediction, geometry.spacing, labels, settings)
    try:
        own = own_scores(metrics, prediction, reference, geometry.spacing, labels)
    except SegflowError as error:
        raise error.of_case(pair.case_id) from error
    for key, values in own.items():
        scores[key].update(values)
    scored = CaseMetrics(pair.case_id, scores, str(pair.prediction), str(pair.reference))
    return scored, undeclared_values(reference, prediction, labels)
