"""Majority and STAPLE of label maps in memory, against their definitions and against SimpleITK."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.labels import Labels
from segflow.inference.staple import EQUAL, Reliability
from segflow.inference.votes import Votes, has_majority, majority, painted, whole_weights


def _members(seed: int, count: int, labels: int, wrong: float) -> list[np.ndarray]:
    """Maps (5, 7, 6) that differ from one truth at random."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((5, 7, 6), np.int16)
    truth[1:4, 1:6, 1:5] = 1
    truth[2:4, 2:5, 2:4] = labels - 1
    maps = []
    for _ in range(count):
        own = truth.copy()
        at = rng.random(own.shape) < wrong
        own[at] = rng.integers(0, labels, int(at.sum()))
        maps.append(own)
    return maps


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1, 1, 2], [0, 1, 1, 0]])
def test_the_majority_is_the_label_with_most_votes_and_of_equals_the_lowest(weights: list[int]) -> None:
    maps = _members(0, 4, 4, 0.6)
    votes, rows = Votes.of(maps)
    decided = majority(votes.labels, weights)[rows]
    for place in np.ndindex(maps[0].shape):
        counted: Counter[int] = Counter()
        for label_map, weight in zip(maps, weights, strict=True):
            counted[int(label_map[place])] += weight
        most = max(counted.values())
        assert decided[place] == min(label for label, n in counted.items() if n == most)
    order = [2, 0, 3, 1]  # of members, which makes no difference
    other, places = Votes.of([maps[k] for k in order])
    np.testing.assert_array_equal(majority(other.labels, [weights[k] for k in order])[places], decided)


def test_votes_are_counted_whatever_the_values_are() -> None:
    rng = np.random.default_rng(1)
    for low, high in ((0, 3), (-5, 2), (0, 60_000), (-(2**31), 2**31 - 1)):
        maps = [rng.integers(low, high, (4, 3, 5), np.int32) for _ in range(3)]
        votes, rows = Votes.of(maps)
        np.testing.assert_array_equal(votes.labels[rows], np.stack(maps, axis=-1))
        assert votes.counts.sum() == maps[0].size
        assert len(np.unique(votes.labels, axis=0)) == len(votes.labels)
        halves = Votes.together([Votes.of([m[part] for m in maps])[0] for part in (slice(2), slice(2, 4))])
        assert sorted(map(tuple, halves.labels)) == sorted(map(tuple, votes.labels))
        assert halves.counts.sum() == maps[0].size


def test_weights_count_as_they_are_typed() -> None:
    assert whole_weights([0.1, 0.2, 0.3]) == [1, 2, 3]
    votes = np.array([[1, 1, 0]])
    assert majority(votes, whole_weights([0.1, 0.2, 0.3])) == [0]  # a tie, although 0.1 + 0.2 > 0.3 in floats
    assert not has_majority(votes, whole_weights([0.1, 0.2, 0.3]))
    assert majority(votes, whole_weights([1e-30, 0.2, 1e30])) == [0]


def test_regions_need_more_than_half_and_are_painted_in_their_order() -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
    votes = np.array([[1, 2, 0], [2, 2, 0], [1, 0, 0], [2, 2, 2]])
    inside = [has_majority(np.isin(votes, region).astype(int), [1, 1, 1]) for region in labels.regions]
    np.testing.assert_array_equal(painted(inside, labels), [1, 2, 0, 2])
    half = np.array([[1, 0], [1, 1]])
    np.testing.assert_array_equal(has_majority(half, [1, 1]), [False, True])


@pytest.mark.parametrize("seed", range(12))
def test_staple_is_that_of_simpleitk(seed: int) -> None:
    """Where two labels are equally likely, ITK's rounding decides, and here the majority."""
    rng = np.random.default_rng(seed)
    labels, count = int(rng.integers(2, 5)), int(rng.integers(3, 6))
    maps = _members(seed, count, labels, float(rng.uniform(0.05, 0.5)))
    itk = sitk.MultiLabelSTAPLEImageFilter()
    itk.SetLabelForUndecidedPixels(99)
    expected = sitk.GetArrayFromImage(itk.Execute([sitk.GetImageFromArray(m.astype(np.uint8)) for m in maps]))
    votes, rows = Votes.of(maps)
    known = Reliability.estimate(votes)
    decided = known.decide(votes.labels)
    places = np.searchsorted(known.present, votes.labels)
    likely = np.sort(np.concatenate([part for _, part in known._posteriors(places)]))
    clear = (likely[:, -2] < likely[:, -1] * (1 - EQUAL))[rows]
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(decided[rows][clear], expected[clear])


def test_staple_trusts_the_better_members() -> None:
    truth = _members(0, 1, 2, 0.0)[0]
    good = [_members(seed, 1, 2, 0.02)[0] for seed in (1, 2)]
    poor = [_members(seed, 1, 2, 0.9)[0] for seed in (3, 4)]
    votes, rows = Votes.of([*poor, *good])
    known = Reliability.estimate(votes)
    wrong = (known.decide(votes.labels)[rows] != truth).sum()
    assert wrong < (majority(votes.labels, [1] * 4)[rows] != truth).sum()
    assert known.confusion[2][1, 1] > known.confusion[0][1, 1]


def test_what_two_members_cannot_tell_is_left_to_the_majority() -> None:
    a, b = np.array([[[0, 1, 1, 2]]]), np.array([[[0, 1, 2, 1]]])
    for first, second in ((a, b), (b, a)):
        votes, rows = Votes.of([first, second])
        np.testing.assert_array_equal(Reliability.estimate(votes).decide(votes.labels)[rows], [[[0, 1, 1, 1]]])
