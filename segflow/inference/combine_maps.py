"""One label map from those of several members, by majority or by STAPLE. Any program may have made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.evaluation.label_maps import SLAB_VOXELS, ArrayMap, LabelMap, slabs_of
from segflow.evaluation.label_pairs import LabelPair, check_grid, work_on_maps
from segflow.execution.jobs import Job
from segflow.execution.progress import Progress, silent
from segflow.inference.case_pipeline import PredictReport
from segflow.inference.ensemble_settings import MAJORITY, STAPLE, EnsembleSettings
from segflow.inference.member_maps import (
    MemberMaps,
    check_members,
    description_by_values,
    description_of,
)
from segflow.inference.staple import Reliability
from segflow.inference.votes import Votes, has_majority, majority, painted, whole_weights
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, choose_reader, voxels_of
from segflow.storage.label_map_files import inputs_beside
from segflow.storage.label_mapping import in_classes
from segflow.storage.label_values import refuse_unknown_values
from segflow.storage.open_volumes import label_sink, open_label_source, writes_in_boxes
from segflow.storage.predictions import Predictions, Wanted

WAY = "ensemble"
VERSION = 1  # raise it when the same label maps would give others
ARGUMENTS_FILE = "ensemble.json"
BYTES_IN_SLABS = 64
"""Memory per voxel of a slab in bytes, beside 2 for each member: codes of votes, their places, and the result."""
BYTES_OF_WHOLE = 4
"""Memory per voxel in bytes of each map that can only be read or written as a whole."""


def combine_maps(
    members: Sequence[Path],
    output: Path,
    settings: EnsembleSettings,
    *,
    labels: Path | None = None,
    processes: int | None = None,
    progress: Progress = silent,
) -> PredictReport:
    """Combine folders of label maps, and write one label map for each case.

    Members need the same file names but for the ending, and no probabilities. The output folder also gets the
    ``dataset.json`` that names the labels, and ``ensemble.json`` with the arguments.

    Args:
        members: Folders of label maps.
        output: Folder for the label maps.
        settings: ``method`` is ``majority`` or ``staple``; see `EnsembleSettings`.
        labels: A dataset.json, or its folder, that names the labels; None takes that of the members. If none has one,
            each value that occurs is a label.
        processes: Worker processes; None takes one per processor, or none for little work.
        progress: Called after each case.

    Returns:
        The result. A case that a member lacks fails, and so does one with maps on different grids or with values that
        are no labels; the others are done.

    Raises:
        SegflowError: Members or weights do not fit, or the output folder holds another ensemble or files that segflow
            did not write.
    """
    check_members(members, output)
    settings.check_weights(len(members))
    given = description_of(members, labels)
    folders = [MemberMaps.of(folder, given) for folder in members]
    description = given or description_by_values(folders, processes, progress)
    arguments: dict[str, Any] = {"method": settings.method, "members": [str(folder.resolve()) for folder in members]}
    if settings.method == MAJORITY:
        arguments["weights"] = settings.weights
    # Found values only name the labels: they are no reason to make label maps of other cases anew.
    decisive = arguments | {"labels": None if given is None else _meaning(given.labels)}
    images = in_classes(_writer(folders, description), description.labels)
    predictions = Predictions(output, description.label_ending)
    work = _Combination(folders, description.labels, images, predictions, settings.method, decisive, settings.weights)
    chosen = sorted(set().union(*(folder.files for folder in folders)))
    done = predictions.prepare(
        {case_id: Wanted(work.origin(case_id)) for case_id in chosen},
        what="label maps",
        maker="ensemble",
        documents=(DESCRIPTION_FILE, ARGUMENTS_FILE),
        resume=settings.resume,
    )
    predictions.write_document(ARGUMENTS_FILE, arguments, WAY)
    predictions.write_document(DESCRIPTION_FILE, description.to_json(), WAY)
    waiting = [case_id for case_id in chosen if case_id not in done]
    voxels = [work.voxels(case_id) for case_id in waiting]
    jobs = [work.job(case_id, count) for case_id, count in zip(waiting, voxels, strict=True)]
    combined = work_on_maps(_combine_case, jobs, voxels, processes, "ensemble", progress)
    return PredictReport(tuple(sorted(combined.values)), tuple(sorted(done)), dict(sorted(combined.failed.items())))


@dataclass(frozen=True, slots=True)
class _Combination:
    """The members, and how and where they are combined."""

    members: Sequence[MemberMaps]
    labels: Labels
    images: ImageIO
    predictions: Predictions
    method: str
    decisive: dict[str, Any]
    weights: Sequence[float] | None

    def origin(self, case_id: str) -> Origin:
        inputs = {f"label_map_{k}": m.files[case_id] for k, m in enumerate(self.members) if case_id in m.files}
        return Origin(WAY, VERSION, self.decisive, inputs | inputs_beside(inputs))

    def voxels(self, case_id: str) -> int:
        member = next(member for member in self.members if case_id in member.files)
        return voxels_of(member.files[case_id], member.reader)

    def job(self, case_id: str, voxels: int) -> Job:
        slab = (BYTES_IN_SLABS + 2 * len(self.members)) * min(voxels, SLAB_VOXELS)
        whole = sum(not _opens(member.files.get(case_id), member.reader) for member in self.members)
        whole += not writes_in_boxes(self.predictions.file(case_id), self.images)
        sizes = f"{len(self.members)} members of {voxels:,} voxels"
        own = [replace(m, files={case_id: m.files[case_id]} if case_id in m.files else {}) for m in self.members]
        return Job(case_id, (case_id, replace(self, members=own)), slab + BYTES_OF_WHOLE * whole * voxels, sizes)

    def file_of(self, member: MemberMaps, case_id: str) -> Path:
        """The label map of a member.

        Raises:
            SegflowError: The member lacks the case.
        """
        if case_id not in member.files:
            name = f"{case_id}{member.file_ending}"
            fix = "Label maps of one case have the same file name in all members."
            raise SegflowError(f"{member.folder} has no {name}", fix=fix)
        return member.files[case_id]

    def decide(self, votes: Votes, reliability: Sequence[Reliability | None]) -> np.ndarray:
        """The labels (U,) of combinations of votes."""
        weights = whole_weights(self.weights or [1] * len(self.members))
        if not self.labels.has_regions:
            return majority(votes.labels, weights) if reliability[0] is None else reliability[0].decide(votes.labels)
        inside = []
        for members, known in zip(self.labels.regions, reliability, strict=True):
            own = np.isin(votes.labels, members).astype(np.int64)
            inside.append(has_majority(own, weights) if known is None else known.decide(own) == 1)
        return painted(inside, self.labels)

    def reliability(self, maps: Sequence[LabelMap]) -> list[Reliability | None]:
        """What STAPLE estimates for the labels together, or for each region; None where the majority decides."""
        regions = self.labels.regions
        if self.method != STAPLE:
            return [None] * max(1, len(regions))
        votes = Votes.together([Votes.of(parts)[0] for _, parts in _slabs(maps)])
        self._refuse_unknown(votes)
        asked = [votes.within(region) for region in regions] or [votes]
        return [None if own.are_unanimous else Reliability.estimate(own) for own in asked]

    def _refuse_unknown(self, votes: Votes) -> None:
        known = set(self.labels.all_labels)
        if set(np.unique(votes.labels).tolist()) <= known:
            return
        for member, column in zip(self.members, votes.labels.T, strict=True):
            values = sorted(set(column.tolist()) - known)
            if self.labels.ignore_label in values:
                raise SegflowError(
                    f"the label map in {member.folder} holds the ignore label, which is no vote",
                    fix="Give these voxels a label, or leave the member out.",
                )
            try:
                refuse_unknown_values(values, self.labels, "")
            except SegflowError as error:
                raise error.changed(problem=f"the label map in {member.folder} holds other values", case=None) from None

    def write(self, case_id: str, maps: Sequence[LabelMap], geometry: Geometry, file: Path) -> None:
        """Decide all voxels of a case slab by slab."""
        reliability = self.reliability(maps)
        shape, highest = maps[0].shape, self.labels.highest_written
        with label_sink(file, shape, geometry, self.images, highest=highest) as sink:
            for box, parts in _slabs(maps):
                votes, rows = Votes.of(parts)
                self._refuse_unknown(votes)
                sink.write(box, self.decide(votes, reliability)[rows])


def _combine_case(case_id: str, work: _Combination) -> None:
    try:
        files = [work.file_of(member, case_id) for member in work.members]
        origin = work.origin(case_id)
        inputs = origin.stamp_inputs()
        with ExitStack() as stack:
            opened = [
                _opened(file, in_classes(member.reader, work.labels), stack)
                for file, member in zip(files, work.members, strict=True)
            ]
            (first, geometry), *others = opened
            for file, (other, own) in zip(files[1:], others, strict=True):
                pair = LabelPair(case_id, file, files[0])
                check_grid(pair, (other.shape, own), (first.shape, geometry))
            with work.predictions.written(case_id, origin, inputs) as place:
                maps = [label_map for label_map, _ in opened]
                work.write(case_id, maps, geometry, place / work.predictions.file(case_id).name)
    except SegflowError as error:
        raise error.of_case(case_id) from error


def _opened(file: Path, reader: ImageIO, stack: ExitStack) -> tuple[LabelMap, Geometry]:
    """A label map that is read box by box, or as a whole if its format has no boxes."""
    source = open_label_source(file, reader)
    if source is not None:
        stack.enter_context(source)
        return source, source.geometry
    array, geometry = reader.read_label(file)
    return ArrayMap(array), geometry


def _opens(file: Path | None, reader: ImageIO) -> bool:
    """Whether a label map is read box by box. One that is missing or damaged needs no memory."""
    if file is None:
        return True
    try:
        source = open_label_source(file, reader)
    except SegflowError:
        return True
    if source is None:
        return False
    source.close()
    return True


def _slabs(maps: Sequence[LabelMap]) -> Iterator[tuple[Box, list[np.ndarray]]]:
    for box in slabs_of(Box.whole(maps[0].shape)):
        yield box, [label_map.read(box) for label_map in maps]


def _meaning(labels: Labels) -> dict[str, Any]:
    return {"labels": labels.to_json(), "regions_class_order": labels.regions_class_order}


def _writer(members: Sequence[MemberMaps], description: DatasetDescription) -> ImageIO:
    """The reader that writes the result: that of a member with the same ending, which knows its files best."""
    ending = description.label_ending
    same = [member.reader for member in members if member.file_ending == ending]
    return same[0] if same else choose_reader(ending, None, description.reader)
