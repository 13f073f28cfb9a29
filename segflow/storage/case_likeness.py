"""Cases of a dataset that hold the same: duplicates, near-duplicates, volumes cut from others, label maps of others.

Thresholds follow from real data. Coarse pictures (`picture_of`) of different people correlate by at most 0.73 (200
crops round the hippocampus) and 0.57 (cine MR of 30 hearts), two phases of one heart by at least 0.94.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from segflow.storage.case_features import CaseFeatures
from segflow.storage.problems import Problem

ALIKE = 0.85
"""Correlation of two pictures from which on their cases are near-duplicates."""
ALIKE_OF_FEW = 0.95
"""The same in a dataset of few cases, whose usual likeness is not known."""
KNOWN_FROM = 8
"""Cases from which on the usual likeness is known."""
BEYOND = 8.0
"""Near-duplicates are more alike than other pairs by this many standard deviations: registered images are all alike."""
SHARED_SLICES = 2
"""Equal slices from which on two volumes are parts of each other. One may be equal by chance, if it is almost empty."""
MOST_HOLDERS = 20
"""Cases with the same slice that are compared with each other."""
SOME = 512
"""Cases by which the usual likeness is judged."""
AT_ONCE = 1024
"""Cases whose pictures are compared with as many others at once: 20 MB."""

SAME_SIDE = "keep both on one side of every split (fold.group_by)"


def duplicates_of(cases: Sequence[CaseFeatures]) -> dict[str, str]:
    """Case → earlier case with the same image and the same label map, sorted."""
    first: dict[tuple[str, str | None], str] = {}
    found = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        if case.image and len(case.slices):
            original = first.setdefault((case.image, case.label), case.case_id)
            if original != case.case_id:
                found[case.case_id] = original
    return found


def alike_problems(cases: Sequence[CaseFeatures], patients: Mapping[str, str]) -> list[Problem]:
    """Warnings about cases that hold the same.

    Args:
        cases: All cases that could be read.
        patients: Case → patient, where it is known. Images of one patient may be alike.
    """
    ordered = sorted(cases, key=lambda case: case.case_id)
    told: set[frozenset[str]] = set()
    problems = []
    for problem, pair in (
        *_equal(ordered),
        *_cut_from(ordered),
        *_near(ordered, patients),
        *_label_of_another(ordered),
    ):
        if frozenset(pair) not in told:
            told.add(frozenset(pair))
            problems.append(problem)
    return problems


Found = tuple[Problem, tuple[str, str]]


def _equal(cases: Sequence[CaseFeatures]) -> Iterator[Found]:
    groups: dict[str, list[CaseFeatures]] = defaultdict(list)
    for case in cases:
        if case.image and len(case.slices):
            groups[case.image].append(case)
    for first, *others in groups.values():
        for case in others:
            same = case.label == first.label
            text = f"the image is that of case '{first.case_id}'"
            fix = "Remove one of them; segflow doctor fix=true output=FOLDER leaves out the later one."
            if not same:
                fix = f"Find out which label map is right and remove the other case, or {SAME_SIDE}."
            label = "the label map is the same too" if same else "the label map is another"
            yield Problem(case.case_id, "warning", f"{text}, and {label}", fix), (first.case_id, case.case_id)


def _cut_from(cases: Sequence[CaseFeatures]) -> Iterator[Found]:
    """Pairs that share slices, voxel for voxel."""
    digests = np.concatenate([np.zeros(0, np.uint64), *(np.unique(case.slices) for case in cases)])
    owners = np.repeat(np.arange(len(cases)), [len(np.unique(case.slices)) for case in cases])
    order = np.argsort(digests, kind="stable")
    digests, owners = digests[order], owners[order]
    shared: Counter[tuple[int, int]] = Counter()
    starts = np.flatnonzero(np.diff(digests, prepend=digests[:1] + 1) != 0)
    lengths = np.diff(np.append(starts, len(digests)))
    for start, length in zip(starts[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
        holders = owners[start : start + min(length, MOST_HOLDERS)].tolist()
        shared.update(itertools.combinations(holders, 2))
    for (one, other), count in sorted(shared.items()):
        if count >= SHARED_SLICES:
            small, large = sorted((cases[one], cases[other]), key=lambda case: len(case.slices))
            text = f"{count} of its {len(small.slices)} slices are slices of case '{large.case_id}', voxel for voxel"
            fix = f"Is one cut from the other? Remove one, or {SAME_SIDE}."
            yield Problem(small.case_id, "warning", text, fix), (large.case_id, small.case_id)


def _near(cases: Sequence[CaseFeatures], patients: Mapping[str, str]) -> Iterator[Found]:
    """Pairs whose pictures correlate more than those of different people."""
    by_size: dict[int, list[CaseFeatures]] = defaultdict(list)
    for case in cases:
        if case.picture is not None and case.picture.any():
            by_size[case.picture.size].append(case)
    for group in by_size.values():
        least = _least_likeness(group)
        for one, other, likeness in _pairs(group, least):
            known = patients.get(one.case_id)
            if known is not None and known == patients.get(other.case_id):
                continue
            text = (
                f"the image is almost that of case '{one.case_id}': coarse pictures of both correlate by "
                f"{likeness:.2f}; expected less than {least:.2f} of different patients"
            )
            fix = f"Is it the same patient? Remove one, or {SAME_SIDE}."
            yield Problem(other.case_id, "warning", text, fix), (one.case_id, other.case_id)


def _pairs(group: Sequence[CaseFeatures], least: float) -> Iterator[tuple[CaseFeatures, CaseFeatures, float]]:
    """Pairs of cases whose pictures correlate by at least so much, the earlier case first."""
    for start in range(0, len(group), AT_ONCE):
        rows = _pictures(group[start : start + AT_ONCE])
        for first in range(start, len(group), AT_ONCE):
            likeness = rows @ _pictures(group[first : first + AT_ONCE]).T
            for row, column in np.argwhere(likeness >= least).tolist():
                if start + row < first + column:
                    yield group[start + row], group[first + column], float(likeness[row, column])


def _pictures(cases: Sequence[CaseFeatures]) -> np.ndarray:
    """float32 (cases, cells)."""
    return np.stack([case.picture for case in cases if case.picture is not None]).astype(np.float32)


def _least_likeness(cases: Sequence[CaseFeatures]) -> float:
    """Correlation from which on the pictures of two cases are near-duplicates."""
    if len(cases) < KNOWN_FROM:
        return ALIKE_OF_FEW
    some_of = _pictures(cases[:: max(1, len(cases) // SOME)])
    usual = np.arctanh(np.clip((some_of @ some_of.T)[np.triu_indices(len(some_of), 1)], -0.999, 0.999))
    middle = float(np.median(usual))
    spread = 1.4826 * float(np.median(np.abs(usual - middle)))
    return max(ALIKE, math.tanh(middle + BEYOND * spread))


def _label_of_another(cases: Sequence[CaseFeatures]) -> Iterator[Found]:
    """Pairs with one label map. A map that more cases share is a template, such as a region of interest."""
    groups: dict[str, list[CaseFeatures]] = defaultdict(list)
    for case in cases:
        if case.label is not None:
            groups[case.label].append(case)
    for same in groups.values():
        if len(same) == 2 and same[0].image != same[1].image:
            first, case = same
            text = f"the label map is that of case '{first.case_id}', voxel for voxel, but the image is another"
            fix = "Put the case's own label map in its place, or remove the case."
            yield Problem(case.case_id, "warning", text, fix), (first.case_id, case.case_id)
