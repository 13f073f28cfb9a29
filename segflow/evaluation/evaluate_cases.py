"""Scores of a folder of predicted label maps against a folder of references (recipe 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from segflow.core.case_part import WHOLE, part_of
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import LabelKey, Labels
from segflow.core.metrics import CaseMetrics, Summary
from segflow.core.own_part import OwnPart
from segflow.evaluation.evaluate_settings import EvaluateSettings, ScoreSettings
from segflow.evaluation.kept_scores import KeptScores, Scored
from segflow.evaluation.label_maps import ArrayMap, LabelMap
from segflow.evaluation.label_pairs import (
    LabelPair,
    find_pairs,
    inputs_of,
    open_pair,
    read_pair,
    work_on_maps,
    worker_count,
)
from segflow.evaluation.overlap import JointCounts
from segflow.evaluation.own_metrics import check_metrics, own_scores
from segflow.evaluation.score_case import score_maps, told_scores
from segflow.evaluation.summary import SUMMARY_FILE, write_summary
from segflow.evaluation.undeclared import undeclared_values, warn_of_undeclared
from segflow.execution.elsewhere import Elsewhere, failures
from segflow.execution.gathering import Gathered
from segflow.execution.jobs import Job
from segflow.execution.parallel import room_for_job
from segflow.execution.progress import Progress, silent
from segflow.storage.file_stamps import FileStamp, Origin
from segflow.storage.images import ImageIO, reader_of, voxels_of
from segflow.storage.label_mapping import in_classes
from segflow.storage.regular_files import stamped_files_stay_open
from segflow.storage.stamps import StampedFolder

BYTES_PER_VOXEL = 12
"""Memory per voxel in bytes: two label maps as read and as decoded, and the masks and cell codes of one label."""
SHARE_OF_SLABS = 0.75
"""Share of the memory for jobs that a case in slabs is taken to need. This process may grow meanwhile."""
OWN_BYTES_PER_VOXEL = 4
"""Further memory for a user's own metrics: two masks of one label, and the copies for each metric."""


def evaluate_cases(
    prediction: str | Path,
    reference: str | Path,
    labels: Labels,
    settings: EvaluateSettings | None = None,
    *,
    file_ending: str,
    reader: str | None = None,
    output: str | Path | None = None,
    metrics: Mapping[str, OwnPart] | None = None,
    progress: Progress = silent,
    elsewhere: Elsewhere | None = None,
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
        output: Folder to write ``summary.json`` and ``metrics.csv`` to; None writes nothing. For a part, only the
            scores of its cases are kept there; see `KeptScores`.
        metrics: Name → user's own metric, computed beside the shipped ones; see `own_metrics.CONTRACT`.
        progress: Called after each case.
        elsewhere: Has the cases scored by other processes, which keep the scores in ``output``. None scores them here.

    Raises:
        SegflowError: A folder is missing or empty, a user's own metric cannot be used, no case could be scored, or
            a part has no ``output``.
    """
    settings, metrics = settings or EvaluateSettings(), metrics or {}
    prediction, reference, output = Path(prediction), Path(reference), None if output is None else Path(output)
    check_metrics(metrics)
    own = {"metrics": {name: metric.description for name, metric in metrics.items()}} if metrics else {}
    decisive = {**_decisive(settings, labels), **own}
    kept = None if output is None else KeptScores(output, decisive)
    is_part = settings.part != WHOLE
    if is_part and kept is None:
        raise SegflowError("the scores of a part need an output folder", found=f"part={settings.part}")
    stamped = None if output is None or is_part else StampedFolder(output)
    if stamped is not None:
        stamped.discard(SUMMARY_FILE)  # old scores belong to other label maps, or will be computed again
    pairs, missing = find_pairs(prediction, reference, file_ending, partial=settings.partial)
    images = in_classes(reader_of((pair.reference for pair in pairs), file_ending, reader), labels)
    pairs, failed = part_of(pairs, settings.part), {} if is_part else missing  # the missing are told with the summary
    origin = Origin("scores", 1, decisive, inputs_of(pairs))
    inputs, voxels = ({}, {}) if stamped is None else _stamps_and_voxels(pairs, origin, images)
    work = _Work(images, labels, settings, metrics, kept, progress, voxels)
    evaluated = work.done(pairs, elsewhere)
    failed = dict(sorted((failed | evaluated.failed).items()))
    scored: dict[str, Scored] = evaluated.values
    if not scored and not is_part:
        raise CaseErrors("no case could be evaluated", [*failed.values()])
    summary = Summary.of_cases([metrics for metrics, _ in scored.values()], failed)
    if not is_part:
        warn_of_undeclared({case_id: undeclared for case_id, (_, undeclared) in scored.items()}, labels)
    if stamped is not None:
        with stamped.written(SUMMARY_FILE, origin, inputs) as place:
            write_summary(summary, labels, place)
        if kept is not None and not failed:
            kept.remove()
    return summary


def is_scored(
    prediction: Path, reference: Path, labels: Labels, settings: EvaluateSettings, *, file_ending: str, output: Path
) -> bool:
    """Whether a folder holds the scores that `evaluate_cases` would write there now, without a user's own metrics.

    Raises:
        SegflowError: A folder of label maps is missing or empty.
    """
    pairs, _ = find_pairs(prediction, reference, file_ending, partial=settings.partial)
    origin = Origin("scores", 1, _decisive(settings, labels), inputs_of(pairs))
    return StampedFolder(output).why_stale(SUMMARY_FILE, origin) is None


def _decisive(settings: EvaluateSettings, labels: Labels) -> dict[str, Any]:
    """What decides the scores beside the label maps."""
    partial = {} if labels.present is None else {"labels_present": labels.present.to_json()}
    return {**asdict(settings.scores), "labels": labels.to_json(), **partial}


def _stamps_and_voxels(
    pairs: Iterable[LabelPair], origin: Origin, reader: ImageIO
) -> tuple[dict[str, FileStamp], dict[str, int]]:
    """Stamps of all label maps, and case → voxels of its prediction, whose file is opened once for both."""
    inputs: dict[str, FileStamp] = {}
    voxels: dict[str, int] = {}
    for pair in pairs:
        with stamped_files_stay_open():
            inputs.update(replace(origin, inputs=inputs_of([pair])).stamp_inputs(unreadable_too=True))
            voxels[pair.case_id] = voxels_of(pair.prediction, reader)
    return inputs, voxels


@dataclass(frozen=True, slots=True)
class _Work:
    """How cases are scored.

    Attributes:
        reader: The reader of the label maps.
        labels, settings, metrics, progress: See `evaluate_cases`.
        kept: The scores that are kept; None without an output folder.
        voxels: Case → voxels of its prediction, where its header was read before.
    """

    reader: ImageIO
    labels: Labels
    settings: EvaluateSettings
    metrics: Mapping[str, OwnPart]
    kept: KeptScores | None
    progress: Progress
    voxels: Mapping[str, int]

    def done(self, pairs: Sequence[LabelPair], elsewhere: Elsewhere | None) -> Gathered:
        """The scores of all cases: those that are kept, and those that are computed now."""
        values = self._kept(pairs)
        waiting = [pair for pair in pairs if pair.case_id not in values]
        if elsewhere is None:
            computed = self._computed(waiting)
            return Gathered(values | computed.values, computed.failed)
        names = [pair.case_id for pair in waiting]
        told = elsewhere([pair.case_id for pair in pairs], names) if names else {}
        values |= self._kept(waiting)
        return Gathered(values, failures([name for name in names if name not in values], told))

    def _kept(self, pairs: Sequence[LabelPair]) -> dict[str, Scored]:
        found = {} if self.kept is None else {pair.case_id: self.kept.read(pair) for pair in pairs}
        return {case_id: scored for case_id, scored in found.items() if scored is not None}

    def _computed(self, pairs: Sequence[LabelPair]) -> Gathered:
        known = self.voxels
        voxels = [known[p.case_id] if p.case_id in known else voxels_of(p.prediction, self.reader) for p in pairs]
        processes = worker_count(self.settings.processes, voxels)
        room = room_for_job(processes)
        kept = None if self.settings.part == WHOLE else self.kept
        shared = (self.reader, self.labels, self.settings.scores, self.metrics, kept)
        jobs = [self._job(pair, count, room, shared) for pair, count in zip(pairs, voxels, strict=True)]
        return work_on_maps(_evaluate_case, jobs, voxels, processes, "evaluate", self.progress)

    def _job(self, pair: LabelPair, voxels: int, room: int, shared: tuple[Any, ...]) -> Job:
        """The job of a case: slab by slab if its label maps do not fit into memory."""
        wanted = (BYTES_PER_VOXEL + (OWN_BYTES_PER_VOXEL if self.metrics else 0)) * voxels
        # A user's own metrics get whole masks. What a case in slabs needs depends on its labels: little runs beside it.
        slabs = wanted > room and not self.metrics
        wanted = int(SHARE_OF_SLABS * max(room, 0)) if slabs else wanted
        return Job(pair.case_id, (pair, slabs, *shared), wanted, f"{voxels:,} voxels")


@stamped_files_stay_open()
def _evaluate_case(
    pair: LabelPair,
    slabs: bool,
    reader: ImageIO,
    labels: Labels,
    settings: ScoreSettings,
    metrics: Mapping[str, OwnPart],
    kept: KeptScores | None,
) -> Scored:
    inputs = {} if kept is None else kept.stamp(pair)
    if slabs:
        with open_pair(pair, reader) as (*maps, geometry):
            scores, counts = _scored(pair, maps, geometry, labels, settings)
    else:
        reference, prediction, geometry = read_pair(pair, reader)
        maps = [ArrayMap(reference), ArrayMap(prediction)]
        scores, counts = _scored(pair, maps, geometry, labels, settings)
        try:
            own = own_scores(metrics, prediction, reference, geometry.spacing, labels)
        except SegflowError as error:
            raise error.of_case(pair.case_id) from error
        for key, values in own.items():
            scores[key].update(values)
    scores = told_scores(scores, labels.absent_keys(pair.case_id))
    scored = CaseMetrics(pair.case_id, scores, str(pair.prediction), str(pair.reference))
    result = scored, undeclared_values(counts, labels)
    if kept is not None:
        kept.write(pair, result, inputs)
    return result


def _scored(
    pair: LabelPair, maps: Sequence[LabelMap], geometry: Geometry, labels: Labels, settings: ScoreSettings
) -> tuple[dict[LabelKey, dict[str, float]], JointCounts]:
    reference, prediction = maps
    try:
        return score_maps(reference, prediction, geometry.spacing, labels, settings)
    except SegflowError as error:
        raise error.of_case(pair.case_id) from error
