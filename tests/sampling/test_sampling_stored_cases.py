"""Patches from cases on disk, in worker processes, through the whole augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import shipped_parts
import torch
from torch.utils.data import DataLoader

from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.sampling.patch_dataset import PatchDataset
from segflow.sampling.patch_sampler import PatchSampler
from segflow.storage.preprocessed_store import PreprocessedStore

PATCH = (16, 20, 18)
LABELS = Labels({"background": 0, "a": 1, "b": 2})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = PreprocessedStore(tmp_path_factory.mktemp("arrays"))
    for index, shape in enumerate([(40, 44, 36), (14, 50, 30), (60, 22, 70)]):
        rng = np.random.default_rng(index)
        label = np.zeros(shape, np.int16)
        label[3:9, 4:12, 5:15] = 1
        label[-3:, -4:, -5:] = 2
        spacing = (1.0, 1.0, 1.0)
        spatial = SpatialRecord(Geometry(spacing), shape, (0, 1, 2), Box.whole(shape), spacing, spacing, shape)
        locations = {key: np.argwhere(label == key).astype(np.int32) for key in (1, 2)}
        image = rng.normal(size=(2, *shape)).astype(np.float32)
        store.write(PreprocessedCase(f"case_{index}", image, label, spatial, locations), PATCH)
    return store


def make(store, **options):
    augmentation = shipped_parts.augmentation("nnunet", "spatial.rotation_probability=0.5")(
        PATCH,
        labels=LABELS,
        use_mask_for_norm=[True, False],
        previous_stage=options.get("previous_stage") is not None,
    )
    sampler = PatchSampler(augmentation.loader_patch_size, PATCH)
    return PatchDataset(
        store,
        store.case_ids(),
        batch_size=5,
        sampler=sampler,
        seed=1,
        batches_per_epoch=4,
        transform=options.pop("transform", augmentation),
        **options,
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_gives_the_same_augmented_batches(store, workers):
    expected = [make(store)[3, index] for index in range(4)]
    loader = DataLoader(make(store), sampler=[(3, index) for index in range(4)], batch_size=None, num_workers=workers)
    for batch, wanted in zip(loader, expected, strict=True):
        assert batch.image.shape == (5, 2, *PATCH)
        assert torch.equal(batch.image, wanted.image)
        assert torch.equal(batch.label, wanted.label)


def test_reading_only_what_the_augmentation_looks_at_changes_nothing(store):
    planned = make(store)
    augmentation = planned.transform
    whole = make(store, transform=lambda image, label, generator: augmentation(image, label, generator))
    for index in range(4):
        assert torch.equal(planned[0, index].image, whole[0, index].image)
        assert torch.equal(planned[0, index].label, whole[0, index].label)


def test_two_ranks_give_the_batch_of_one_augmentation_included(store):
    whole = make(store, previous_stage=store)[0, 0]
    parts = [make(store, previous_stage=store, rank=rank, world_size=2)[0, 0] for rank in (0, 1)]
    assert whole.image.shape == (5, 4, *PATCH)
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert torch.equal(torch.cat([part.label for part in parts]), whole.label)


def test_forced_patches_hold_foreground_after_augmentation(store):
    dataset = make(store)
    held = [(dataset[0, index].label[-2:] > 0).flatten(1).any(1) for index in range(4)]
    assert torch.cat(held).float().mean() > 0.8
