"""Batches: what they hold, and that nothing but (seed, epoch, index) decides about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_store import FakeCase, FakeStore, make_case
from torch.utils.data import DataLoader

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.sampling.batch import read_patch
from segflow.sampling.patch_dataset import PatchDataset, samples_of_rank
from segflow.sampling.patch_sampler import PatchSampler


def make_dataset(store=None, *, patch=(8, 10, 12), **options):
    store = store or FakeStore({name: make_case(seed=i) for i, name in enumerate("abcde")})
    options = {"batch_size": 5, "seed": 7, "batches_per_epoch": 4, **options}
    settings = options.pop("settings", {})
    return PatchDataset(store, list(store.cases), sampler=PatchSampler(patch, patch, **settings), **options)


def equal(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and list(a.case_ids) == list(b.case_ids)


def test_outside_of_the_case_is_zero_in_the_image_and_minus_one_in_the_label():
    case = make_case((5, 6, 7))
    image, label = np.full((1, 8, 8, 8), 9, np.float32), np.full((1, 8, 8, 8), 9, np.int16)
    read_patch(case, Box((-2, -1, 3), (6, 7, 11)), image=image, label=label)
    expected = np.zeros((8, 8, 8), np.float32)
    expected[2:7, 1:7, :4] = case.image[0, :, :, 3:]
    expected_label = np.full((8, 8, 8), -1, np.int16)
    expected_label[2:7, 1:7, :4] = case.label[:, :, 3:]
    np.testing.assert_array_equal(image[0], expected)
    np.testing.assert_array_equal(label[0], expected_label)


def test_a_box_wholly_outside_is_all_padding():
    case = make_case((5, 6, 7))
    image, label = np.empty((1, 2, 2, 2), np.float32), np.empty((1, 2, 2, 2), np.int16)
    read_patch(case, Box((9, 0, 0), (11, 2, 2)), image=image, label=label)
    assert not image.any()
    assert (label == -1).all()


def test_shapes_and_types_of_a_batch():
    batch = make_dataset()[0, 0]
    assert batch.image.shape == (5, 1, 8, 10, 12)
    assert batch.image.dtype == torch.float32
    assert batch.label.shape == (5, 1, 8, 10, 12)
    assert batch.label.dtype == torch.int16
    assert len(batch.case_ids) == 5


def test_a_2d_batch_has_no_slice_axis():
    batch = make_dataset(patch=(10, 12))[0, 0]
    assert batch.image.shape == (5, 1, 10, 12)
    assert batch.label.shape == (5, 1, 10, 12)


def test_the_share_of_foreground_reaches_the_batch():
    dataset = make_dataset(patch=(2, 2, 2), settings={"foreground_fraction": 0.6})
    for index in range(4):
        assert (dataset[0, index].label[2:] > 0).flatten(1).any(1).all()


def test_probabilistic_sampling_forces_the_fraction_on_average():
    settings = {"foreground_fraction": 0.4, "probabilistic": True}
    cases = {
        "a": FakeCase(np.zeros((1, 40, 40, 40), np.float32), np.zeros((40, 40, 40), np.int16), {1: [(20, 20, 20)]})
    }
    dataset = make_dataset(FakeStore(cases), patch=(4, 4, 4), settings=settings, batch_size=50)
    cases["a"].label[20, 20, 20] = 1
    hits = [(dataset[0, index].label > 0).flatten(1).any(1).float().mean().item() for index in range(40)]
    assert abs(np.mean(hits) - 0.4) < 0.04


def test_all_cases_are_drawn_alike():
    dataset = make_dataset(patch=(2, 2, 2), batch_size=100)
    ids = [case_id for index in range(40) for case_id in dataset[0, index].case_ids]
    assert all(abs(ids.count(name) / len(ids) - 0.2) < 0.03 for name in "abcde")


def test_a_batch_depends_on_seed_epoch_index_and_stream_only():
    batch = make_dataset()[2, 3]
    assert equal(batch, make_dataset()[2, 3])
    for other in (make_dataset()[2, 2], make_dataset()[1, 3], make_dataset(seed=8)[2, 3], make_dataset(stream=1)[2, 3]):
        assert not equal(batch, other)


def test_the_order_of_the_case_list_does_not_matter():
    store = FakeStore({name: make_case(seed=i) for i, name in enumerate("abcde")})
    turned = FakeStore(dict(reversed(store.cases.items())))
    assert equal(make_dataset(store)[0, 0], make_dataset(turned)[0, 0])


def noise(image, label, generator):
    return image + torch.randn(image.shape, generator=generator), label


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers):
    dataset = make_dataset(transform=noise)
    loader = DataLoader(dataset, sampler=[(1, index) for index in range(4)], batch_size=None, num_workers=workers)
    batches = list(loader)
    assert len(batches) == 4
    assert all(equal(batch, dataset[1, index]) for index, batch in enumerate(batches))


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_together_hold_the_batch_of_one(world_size):
    whole = make_dataset()[0, 1]
    parts = [make_dataset(rank=rank, world_size=world_size)[0, 1] for rank in range(world_size)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.label for part in parts]), whole.label)
    assert [case_id for part in parts for case_id in part.case_ids] == whole.case_ids


def test_uneven_batches_are_shared_as_in_the_recipe():
    assert [len(samples_of_rank(5, rank, 2)) for rank in (0, 1)] == [3, 2]
    with pytest.raises(SegflowError, match="fewer samples"):
        samples_of_rank(1, 0, 2)


def test_the_previous_stage_becomes_label_channel_one():
    store = FakeStore({name: make_case(seed=i) for i, name in enumerate("abc")})
    previous = FakeStore({name: FakeCase(case.image, case.label + 10) for name, case in store.cases.items()})
    batch = make_dataset(store, previous_stage=previous)[0, 0]
    assert batch.label.shape == (5, 2, 8, 10, 12)
    inside = batch.label[:, 0] >= 0
    assert torch.equal(batch.label[:, 1][inside], batch.label[:, 0][inside] + 10)
    assert (batch.label[:, 1][~inside] == -1).all()


def test_a_previous_stage_on_another_grid_is_named():
    store = FakeStore({"a": make_case((20, 24, 28))})
    previous = FakeStore({"a": make_case((10, 12, 14))})
    with pytest.raises(SegflowError, match=r"previous stage has another shape.*10, 12, 14.*20, 24, 28"):
        make_dataset(store, previous_stage=previous)[0, 0]


class LooksAtOneCorner:
    """A transform that says beforehand that it needs only the first two voxels along each axis."""

    def draw(self, samples, channels, generator):
        return {"offset": torch.rand(samples, generator=generator)}

    def regions(self, draws):
        return [Box((0, 0, 0), (2, 2, 2)) for _ in draws["offset"]]

    def apply(self, image, label, draws):
        shape = (-1, 1, 1, 1, 1)
        return image[:, :, :2, :2, :2] + draws["offset"].view(shape), label[:, :, :2, :2, :2]


def test_a_transform_that_plans_gets_its_region_read_and_nothing_else():
    store = FakeStore({"a": make_case()})
    batch = make_dataset(store, transform=LooksAtOneCorner(), batch_size=4)[0, 0]
    assert batch.image.shape == (4, 1, 2, 2, 2)
    assert store.cases["a"].voxels_read <= 4 * 8
    plain = make_dataset(FakeStore({"a": make_case()}), batch_size=4)[0, 0]
    assert torch.equal(batch.label, plain.label[:, :, :2, :2, :2])


def test_a_transform_that_plans_gives_each_rank_its_share_of_the_draws():
    whole = make_dataset(transform=LooksAtOneCorner())[0, 0]
    parts = [make_dataset(transform=LooksAtOneCorner(), rank=rank, world_size=2)[0, 0] for rank in (0, 1)]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)


def test_no_cases_is_an_error_before_the_first_batch():
    with pytest.raises(SegflowError, match="no case"):
        make_dataset(FakeStore({}))


def test_a_case_with_other_channels_is_named():
    store = FakeStore({"a": make_case(), "b": make_case(channels=2)})
    with pytest.raises(SegflowError, match=r"case .[ab].: .*channels"):
        [make_dataset(store)[0, index] for index in range(4)]
