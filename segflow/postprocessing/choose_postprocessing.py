"""Choice of the postprocessing that raises the cross-validated Dice (recipe 13.4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import LabelKey, Labels
from segflow.core.metrics import mean_of_defined
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep, PostprocessingTrial
from segflow.evaluation.label_pairs import LabelPair, find_pairs, inputs_of, worker_count
from segflow.evaluation.undeclared import warn_of_undeclared
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.postprocessing.held_case import HOLD_BYTES_PER_VOXEL, TRY_BYTES_PER_VOXEL, HeldCase, hold_case, try_steps
from segflow.postprocessing.postprocess_settings import PostprocessSettings
from segflow.storage.file_names import CHOICE_FILE
from segflow.storage.file_stamps import Origin
from segflow.storage.folder_files import is_image_path
from segflow.storage.images import ImageIO, reader_of, voxels_of
from segflow.storage.json_files import write_json
from segflow.storage.label_mapping import in_classes
from segflow.storage.stamps import StampedFolder

log = logging.getLogger(__name__)

Dice = Mapping[LabelKey, float]


def choose_postprocessing(
    prediction: Path,
    reference: Path,
    labels: Labels,
    settings: PostprocessSettings | None = None,
    *,
    file_ending: str,
    reader: str | None = None,
    output: Path | None = None,
    progress: Progress = silent,
) -> PostprocessingChoice:
    """Find the steps that raise the mean Dice of cross-validated predictions.

    The first candidate keeps the largest component of all foreground. It is accepted if the mean over the labels rises
    and no label's mean falls. With several labels or regions, the largest component of each follows, on top of the
    accepted steps. It is accepted if that label's mean Dice rises. Minimum sizes and holes follow by the same rule.
    Each file is read once.

    Args:
        prediction: Folder of the cross-validation's label maps; should hold all training cases.
        reference: Folder of the reference label maps.
        labels: The label definition.
        settings: What to try.
        file_ending: Ending of the label maps, with its dot.
        reader: Name of the reader; None chooses by ending.
        output: Folder to write ``postprocessing.json`` to; None writes nothing.
        progress: Called after each case is read.

    Raises:
        SegflowError: A folder is missing or empty, or a case cannot be read: the choice needs all of them.
    """
    settings = settings or PostprocessSettings()
    stamped = None if output is None else StampedFolder(output)
    if stamped is not None:
        stamped.discard(CHOICE_FILE)
    pairs, missing = find_pairs(prediction, reference, file_ending)
    problems = [text for case_id, text in missing.items() if not is_image_path(reference / (case_id + file_ending))]
    if unused := len(missing) - len(problems):
        total = len(pairs) + unused
        log.warning("postprocessing is chosen on %d of %d cases; it should see all training cases", len(pairs), total)
    origin = _origin(pairs, labels, settings)
    inputs = {} if stamped is None else origin.stamp_inputs(unreadable_too=True)
    images = in_classes(reader_of((pair.reference for pair in pairs), file_ending, reader), labels)
    cases, processes = _hold_cases(pairs, images, labels, settings, problems, progress)
    choice = _Search(cases, labels, settings, processes).run()
    if stamped is not None:
        with stamped.written(CHOICE_FILE, origin, inputs) as place:
            write_json(place / CHOICE_FILE, choice.to_json())
    return choice


def _origin(pairs: Sequence[LabelPair], labels: Labels, settings: PostprocessSettings) -> Origin:
    """Origin of a choice, for its stamp."""
    tried = asdict(settings)
    del tried["processes"]
    partial = {} if labels.present is None else {"labels_present": labels.present.to_json()}
    return Origin("choose", 1, {**tried, "labels": labels.to_json(), **partial}, inputs_of(pairs))


def _hold_cases(
    pairs: Sequence[LabelPair],
    images: ImageIO,
    labels: Labels,
    settings: PostprocessSettings,
    problems: Sequence[str],
    progress: Progress,
) -> tuple[list[HeldCase], int]:
    """The cases, sorted by id, and how many worker processes they are worth.

    Raises:
        CaseErrors: There were problems before, or a case cannot be read.
    """
    voxels = [voxels_of(pair.prediction, images) for pair in pairs]
    processes = worker_count(settings.processes, voxels)
    jobs = [
        Job(pair.case_id, (pair, images, labels), HOLD_BYTES_PER_VOXEL * n, f"{n:,} voxels")
        for pair, n in zip(pairs, voxels, strict=True)
    ]
    outcomes = run_jobs(hold_case, jobs, processes=processes)
    read = gather(outcomes, len(jobs), "postprocess", progress)
    if wrong := sorted([*problems, *read.failed.values()]):
        raise CaseErrors("postprocessing cannot be chosen", wrong)
    held: dict[str, HeldCase] = dict(sorted(read.values.items()))
    warn_of_undeclared({case_id: case.undeclared for case_id, case in held.items()}, labels)
    return [*held.values()], processes


class _Search:
    """The greedy search of recipe 13.4 over held cases."""

    def __init__(
        self, cases: Sequence[HeldCase], labels: Labels, settings: PostprocessSettings, processes: int
    ) -> None:
        self._cases = cases
        self._labels = labels
        self._keys = labels.foreground_keys
        self._settings = settings
        self._processes = processes
        self._dice: list[Dice] = [case.dice(case.overlaps) for case in cases]
        self._steps: list[PostprocessingStep] = []
        self._trials: list[PostprocessingTrial] = []

    def run(self) -> PostprocessingChoice:
        before = self._mean(self._dice)
        if self._settings.keep_largest:
            self._try_foreground()
            if len(self._keys) > 1:
                self._try_each([(key, [self._step("keep_largest", key)]) for key in self._keys])
        if self._settings.min_volumes_mm3:
            sizes = self._settings.min_volumes_mm3
            self._try_each(
                [(k, [self._step("remove_small", k, min_volume_mm3=mm3) for mm3 in sizes]) for k in self._keys]
            )
        if self._settings.fill_holes:
            for key in self._keys:  # two labels may enclose the same hole
                self._try_group([(key, [self._step("fill_holes", key, fill_with=self._paint(key))])])
        after = self._mean(self._dice)
        return PostprocessingChoice(tuple(self._steps), before, after, tuple(self._trials), len(self._cases))

    def _step(self, kind: str, key: LabelKey, **numbers: float) -> PostprocessingStep:
        return PostprocessingStep(kind, (key,) if isinstance(key, int) else key, **numbers)  # type: ignore[arg-type]

    def _paint(self, key: LabelKey) -> int:
        """The label to write for a voxel of this label or region."""
        if self._labels.has_regions:
            return (self._labels.regions_class_order or ())[self._keys.index(key)]
        return key if isinstance(key, int) else key[0]

    def _try_foreground(self) -> None:
        step = PostprocessingStep("keep_largest", self._labels.foreground_labels)
        (tried,) = self._dice_with([step])
        before, after = self._mean(self._dice), self._mean(tried)
        # A label that no case holds has no Dice. nnU-Net then accepts nothing; here only that label is left out.
        seen = [key for key in self._keys if not np.isnan(before[key])]
        rises = bool(seen) and np.mean([after[k] for k in seen]) > np.mean([before[k] for k in seen])
        accepted = bool(rises and not any(after[key] < before[key] for key in seen) and self._spares_cases(tried))
        self._note(step, accepted, before, after)
        if accepted:
            self._steps.append(step)
            self._dice = tried

    def _try_each(self, groups: list[tuple[LabelKey, list[PostprocessingStep]]]) -> None:
        """Try the candidates of each key. Plain labels do not overlap, so one pass over the cases is enough."""
        if self._labels.has_regions:
            for group in groups:
                self._try_group([group])
        else:
            self._try_group(groups)

    def _try_group(self, groups: list[tuple[LabelKey, list[PostprocessingStep]]]) -> None:
        results = iter(self._dice_with([step for _, steps in groups for step in steps]))
        for key, steps in groups:
            before = self._mean(self._dice)
            tried = [(step, next(results)) for step in steps]
            if len(groups) > 1:  # others' Dice in this pass ignores earlier keys
                tried = [(step, self._with_only(key, dice)) for step, dice in tried]
            means = [self._mean(dice) for _, dice in tried]
            fit = [
                i for i, (_, dice) in enumerate(tried) if means[i][key] > before[key] and self._spares_cases(dice, key)
            ]
            best = max(fit, key=lambda i: means[i][key], default=None)
            for i, (step, _) in enumerate(tried):
                self._note(step, i == best, before, means[i])
            if best is not None:
                self._steps.append(tried[best][0])
                self._dice = tried[best][1]

    def _with_only(self, key: LabelKey, tried: Sequence[Dice]) -> list[Dice]:
        return [{**dice, key: other[key]} for dice, other in zip(self._dice, tried, strict=True)]

    def _dice_with(self, candidates: Sequence[PostprocessingStep]) -> list[list[Dice]]:
        """For each candidate, the Dice of each case with it on top of the accepted steps."""
        ignore = self._labels.ignore_label
        tried = (tuple(self._steps), tuple(candidates), ignore)
        jobs = [
            Job(case.case_id, (case, *tried), TRY_BYTES_PER_VOXEL * case.voxels, f"{case.voxels:,} voxels of labels")
            for case in self._cases
        ]
        found: dict[str, list[Dice]] = {}
        for outcome in run_jobs(try_steps, jobs, processes=self._processes):
            if outcome.error is not None:
                raise SegflowError(outcome.error)
            found[outcome.name] = outcome.value
        return [[found[case.case_id][i] for case in self._cases] for i in range(len(candidates))]

    def _mean(self, dice: Sequence[Dice]) -> dict[LabelKey, float]:
        return {key: mean_of_defined([case[key] for case in dice]) for key in self._keys}

    def _spares_cases(self, tried: Sequence[Dice], key: LabelKey | None = None) -> bool:
        limit = self._settings.max_case_loss
        if limit is None:
            return True
        keys = self._keys if key is None else (key,)
        losses = [old[k] - new[k] for old, new in zip(self._dice, tried, strict=True) for k in keys]
        return not any(loss > limit for loss in losses)

    def _note(self, step: PostprocessingStep, accepted: bool, before: Dice, after: Dice) -> None:
        self._trials.append(PostprocessingTrial(step, accepted, before, after))
