"""Affine resampling against torch's grid_sample and a label vote written out voxel by voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from segflow.augmentation import resample as module
from segflow.augmentation.resample import resample, source_region
from segflow.augmentation.spatial import rotation_matrix


def blocks(shape, labels, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-1, labels, size=[n // 4 + 1 for n in shape])
    for axis in range(len(shape)):
        coarse = coarse.repeat(4, axis)
    return torch.from_numpy(coarse[tuple(slice(n) for n in shape)].astype(np.int16))[None]


def matrix_of(angles, scales):
    return (rotation_matrix(torch.tensor([angles], dtype=torch.float64)) * torch.tensor([[scales]]))[0]


CASES = {
    "rotated, scaled": ((20, 24, 28), (30, 41, 36), matrix_of([0.3, -0.2, 0.5], [1.1, 0.8, 1.3])),
    "reaches outside": ((20, 24, 28), (21, 24, 29), matrix_of([0.7, 0.4, -0.5], [1.4, 1.4, 1.4])),
    "scaled only": ((20, 24, 28), (30, 41, 36), matrix_of([0.0, 0.0, 0.0], [0.71, 0.71, 0.71])),
    "2D": ((40, 50), (60, 55), matrix_of([2.2], [0.9, 1.2])),
}


def run(case, label_channels=1, **options):
    patch, source, matrix = CASES[case]
    image = torch.randn((2, *source), generator=torch.Generator().manual_seed(0))
    label = torch.cat([blocks(source, 4, seed) for seed in range(label_channels)])
    out_image, out_label = torch.empty((2, *patch)), torch.empty((label_channels, *patch), dtype=torch.int16)
    resample(image, label, matrix, out_image, out_label, **options)
    return image, label, out_image, out_label


def reference(values, matrix, patch, mode="bilinear"):
    """grid_sample with zero padding; its coordinates are (x, y, z) and normalised by half the size."""
    dims = len(patch)
    steps = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in patch]
    grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1) @ matrix.T
    grid = grid / (torch.tensor(values.shape[-dims:]) / 2)
    return functional.grid_sample(values[None].double(), grid.flip(-1)[None], mode=mode, align_corners=False)[0]


@pytest.mark.parametrize("case", CASES)
def test_the_image_is_interpolated_linearly_with_zeros_outside(case):
    patch, _, matrix = CASES[case]
    image, _, out, _ = run(case)
    torch.testing.assert_close(out.double(), reference(image, matrix, patch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_label_of_most_weight_wins_and_outside_counts_as_minus_one(case):
    patch, _, matrix = CASES[case]
    _, label, _, out = run(case)
    values = torch.arange(-1, 4)
    shares = reference(torch.cat([label == v for v in values]), matrix, patch)
    shares[0] += 1 - shares.sum(0)  # what lies outside
    best, second = shares.topk(2, 0).values
    clear = best - second > 2e-3  # nearer ones are ties
    assert clear.float().mean() > 0.9
    assert torch.equal(values[shares.argmax(0)][clear], out[0][clear].long())


@pytest.mark.parametrize("case", CASES)
def test_nearest_takes_the_nearest_voxel_of_both(case):
    patch, _, matrix = CASES[case]
    image, label, out, out_label = run(case, image_nearest=True, label_nearest=True)
    torch.testing.assert_close(out.double(), reference(image, matrix, patch, "nearest"))
    assert torch.equal(out_label.double(), reference(label + 1, matrix, patch, "nearest") - 1)


def test_two_label_channels_are_resampled_each_by_itself():
    _, label, _, out = run("rotated, scaled", label_channels=2)
    assert not torch.equal(label[0], label[1])
    assert torch.equal(out[:1], run("rotated, scaled")[3])


def vote(label, position):
    """The rule of the recipe, for one position."""
    low = np.floor(position).astype(int)
    weights = {}
    for step in itertools.product((0, 1), repeat=len(position)):
        at = low + step
        weight = np.prod([abs(1 - s - (p - a)) for s, p, a in zip(step, position, low, strict=True)])
        inside = all(0 <= i < n for i, n in zip(at, label.shape, strict=True))
        value = int(label[tuple(at)]) if inside else -1
        weights[value] = weights.get(value, 0) + weight
    best = max(weights.values())
    tied = sorted(v for v, w in weights.items() if abs(w - best) < 2e-4)
    near = np.round(position).astype(int)
    inside = all(0 <= i < n for i, n in zip(near, label.shape, strict=True))
    nearest = int(label[tuple(near)]) if inside else -1
    return nearest if nearest in tied else tied[0]


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.0])
def test_ties_go_to_the_nearest_voxel_if_that_is_tied_else_to_the_lowest(scale):
    label = torch.randint(0, 3, (1, 9, 9), dtype=torch.int16, generator=torch.Generator().manual_seed(3))
    out = torch.empty((1, 8, 8), dtype=torch.int16)
    resample(torch.zeros(1, 9, 9), label, torch.eye(2) * scale, torch.empty(1, 8, 8), out)
    expected = [[vote(label[0].numpy(), (np.array([i, j]) - 3.5) * scale + 4) for j in range(8)] for i in range(8)]
    assert out[0].tolist() == expected


def test_labels_are_never_invented():
    label = blocks((21, 24, 29), 4) * 7
    out = torch.empty((1, 20, 24, 28), dtype=torch.int16)
    resample(torch.zeros((1, 21, 24, 29)), label, CASES["reaches outside"][2], torch.empty((1, 20, 24, 28)), out)
    assert set(out.unique().tolist()) <= set(label.unique().tolist()) | {-1}


@pytest.mark.parametrize("slab", [1, 1000, 10**6])
def test_the_slab_size_changes_nothing(slab, monkeypatch):
    expected = run("rotated, scaled")
    monkeypatch.setattr(module, "SLAB_VOXELS", slab)
    got = run("rotated, scaled")
    assert torch.equal(got[2], expected[2])
    assert torch.equal(got[3], expected[3])


@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_region_is_looked_at(case):
    patch, source, matrix = CASES[case]
    image, label, out, out_label = run(case)
    region = source_region(matrix, patch, source)
    spoilt, spoilt_label = torch.full_like(image, float("nan")), torch.full_like(label, 99)
    inside = (slice(None), *region.slices)
    spoilt[inside], spoilt_label[inside] = image[inside], label[inside]
    again, again_label = torch.empty_like(out), torch.empty_like(out_label)
    resample(spoilt, spoilt_label, matrix, again, again_label)
    assert torch.equal(again, out)
    assert torch.equal(again_label, out_label)
    if case == "scaled only":
        assert np.prod(region.shape) < 0.6 * np.prod(source)


@pytest.mark.parametrize("axis", [0, 1])
def test_volumes_of_more_than_2_to_the_24_voxels_are_indexed_exactly(axis):
    shape = [3, 3]
    shape[axis] = 2**22
    image = torch.zeros((1, *shape))
    ends = [1, 1]
    ends[axis] = 2**22 - 2
    image[(0, *ends)] = 5
    region_matrix = torch.eye(2)
    region_matrix[axis, axis] = (2**22 - 3) / 2  # three positions: both ends and the middle
    out, label = torch.empty((1, 3, 3)), torch.empty((1, 3, 3), dtype=torch.int16)
    resample(image, image.to(torch.int16), region_matrix, out, label)
    at = [1, 1]
    at[axis] = 2
    assert label[(0, *at)] == 5
    assert label.sum() == 5
