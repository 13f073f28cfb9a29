"""Batches of patches, which depend only on (seed, epoch, index).

A worker process makes whole batches and keeps no random state, so neither the number of workers nor a restart changes a
batch. Each sample of a batch has its own random stream, so the number of devices that share a batch does not change it
either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.sampling.batch import PatchBatch, read_patch
from segflow.sampling.channel_presence import ChannelPresence
from segflow.sampling.patch_sampler import BoxSampler
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.stored_case import StoredCase

_CHANNELS = 1
"""Number that separates the choice of a sample's channels from that of its box."""

Transform = Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
Draws = Mapping[str, torch.Tensor]


class PlannedTransform(Protocol):
    """A transform whose random choices can be made before the patch is read, such as that of `augmentation`."""

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """All random choices for a batch. Every tensor has the samples along axis 0."""
        ...

    def regions(self, draws: Draws) -> list[Box]:
        """The part of each sample's loader patch that the transform will use."""
        ...

    def apply(self, image: torch.Tensor, label: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform image (B, C, *loader patch) and label (B, 1 or 2, *loader patch) into those of the batch."""
        ...


class PatchDataset(Dataset[PatchBatch]):
    """A map from (epoch, index) to a whole batch.

    Use it with ``DataLoader(dataset, sampler=[(epoch, 0), (epoch, 1), …], batch_size=None)``.

    Args:
        store: Store of the cases.
        case_ids: Cases to draw from, uniformly and with replacement.
        batch_size: Samples of the global batch.
        sampler: Chooses the boxes.
        seed: Seed of the run.
        batches_per_epoch: Length of the dataset.
        previous_stage: Store of the previous stage's labels on the same grid; they become label channel 1.
        transform: Applied to the batch within the worker. With a `PlannedTransform` the dataset
            reads only the voxels that it will use.
        stream: Number that separates datasets with the same seed, such as training (0) and validation (1).
        labels_present: Case → whether its label map tells of each foreground label or region; None if all do.
        channels_present: Chooses which channels of a sample are there; None if all of them always are.
        distances: Makes distance maps (B, F, *patch) of the labels as the transform leaves them; None makes none.
        rank: Index of this process among those that share the batch.
        world_size: Number of processes that share the batch.

    Raises:
        SegflowError: There is no case, the batch has fewer samples than processes, or the seed is negative.
    """

    def __init__(
        self,
        store: PreprocessedStore,
        case_ids: Sequence[str],
        *,
        batch_size: int,
        sampler: BoxSampler,
        seed: int,
        batches_per_epoch: int,
        previous_stage: PreprocessedStore | None = None,
        transform: Transform | None = None,
        stream: int = 0,
        labels_present: Mapping[str, Sequence[bool]] | None = None,
        channels_present: ChannelPresence | None = None,
        distances: Callable[[torch.Tensor], torch.Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not case_ids:
            raise SegflowError(
                "there is no case to draw patches from",
                fix="Check the fold's split, and that `segflow preprocess` finished.",
            )
        if seed < 0:
            raise SegflowError("the seed must not be negative", found=seed)
        self.store = store
        self.case_ids = tuple(sorted(case_ids))
        self.batch_size = batch_size
        self.sampler = sampler
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.previous_stage = previous_stage
        self.transform = transform
        self.stream = stream
        self.labels_present = labels_present
        self.channels_present = channels_present
        self.distances = distances
        self.samples = samples_of_rank(batch_size, rank, world_size)

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __getitem__(self, key: tuple[int, int]) -> PatchBatch:
        """The batch of an (epoch, index), with the samples of this rank only."""
        epoch, index = key
        root = (self.seed, self.stream, epoch, index)
        shared = np.random.default_rng(np.random.SeedSequence(root))
        chosen = shared.integers(len(self.case_ids), size=self.batch_size)
        forced = self.sampler.forced(self.batch_size, shared)
        torch_generator = torch.Generator().manual_seed(int(shared.integers(2**63)))

        case_ids = [self.case_ids[chosen[sample]] for sample in self.samples]
        cases = [self.store.open(case_id) for case_id in case_ids]
        boxes = [
            self.sampler(case, np.random.default_rng(np.random.SeedSequence((*root, sample))), forced[sample])
            for case, sample in zip(cases, self.samples, strict=True)
        ]
        there = self._there(cases, [(*root, sample, _CHANNELS) for sample in self.samples])
        channels = cases[0].channels
        if not hasattr(self.transform, "draw"):
            image, label = self._read(cases, boxes, case_ids, channels)
            if self.transform is not None:
                image, label = self.transform(image, label, torch_generator)
            return self._batch(image, label, case_ids, there)
        transform: PlannedTransform = self.transform  # type: ignore[assignment]
        everyone = transform.draw(self.batch_size, channels, torch_generator)
        draws = {name: values[self.samples.start : self.samples.stop] for name, values in everyone.items()}
        image, label = self._read(cases, boxes, case_ids, channels, transform.regions(draws))
        image, label = transform.apply(image, label, draws)
        return self._batch(image, label, case_ids, there)

    def fixed(self, case_ids: Sequence[str]) -> PatchBatch:
        """A patch with foreground of each case. It depends on the case and the sampler only.

        Args:
            case_ids: The cases, as many as fit into memory.
        """
        cases = [self.store.open(case_id) for case_id in case_ids]
        boxes = [self.sampler(case, np.random.default_rng(0), True) for case in cases]
        image, label = self._read(cases, boxes, case_ids, cases[0].channels)
        if self.transform is not None:
            image, label = self.transform(image, label, torch.Generator().manual_seed(0))
        return self._batch(image, label, list(case_ids), self._there(cases, [(0,)] * len(cases)))

    def _there(self, cases: Sequence[StoredCase], seeds: Sequence[tuple[int, ...]]) -> torch.Tensor | None:
        """Which channels of each sample are there, bool (B, C); None if all of them always are."""
        choose = self.channels_present
        if choose is None:
            return None
        generators = (np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds)
        return torch.from_numpy(np.stack([choose(*both) for both in zip(cases, generators, strict=True)]))

    def _batch(
        self, image: torch.Tensor, label: torch.Tensor, case_ids: list[str], there: torch.Tensor | None
    ) -> PatchBatch:
        known = self.labels_present
        present = None if known is None else torch.tensor([known[case_id] for case_id in case_ids], dtype=torch.bool)
        maps = None if self.distances is None else self.distances(label)
        return PatchBatch(image, label, case_ids, labels_present=present, channels_present=there, distances=maps)

    def _read(
        self,
        cases: Sequence[StoredCase],
        boxes: Sequence[Box],
        case_ids: Sequence[str],
        channels: int,
        regions: Sequence[Box] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the patches, or only a region of each.

        The rest stays uninitialised, since it is not used, and untouched memory costs nothing.
        """
        shape = self.sampler.patch_size
        label_channels = 1 if self.previous_stage is None else 2
        image = np.empty((len(cases), channels, *shape), np.float32)
        label = np.empty((len(cases), label_channels, *shape), np.int16)
        for sample, (case, box, case_id) in enumerate(zip(cases, boxes, case_ids, strict=True)):
            if case.channels != channels:
                raise SegflowError(
                    "a case has other channels than the rest", case=case_id, found=case.channels, expected=channels
                )
            where = Box.whole(shape)
            if regions is not None:
                where = _with_slice_axis(regions[sample]) if self.sampler.is_2d else regions[sample]
            of_sample: tuple[Any, ...] = (sample, slice(None), *where.slices)
            read_patch(
                case,
                Box(
                    tuple(a + o for a, o in zip(box.start, where.start, strict=True)),
                    tuple(a + o for a, o in zip(box.start, where.stop, strict=True)),
                ),
                image=image[of_sample],
                label=label[of_sample],
                previous_stage=None if self.previous_stage is None else self.previous_stage.open(case_id),
            )
        if self.sampler.is_2d:
            image, label = image[:, :, 0], label[:, :, 0]
        return torch.from_numpy(image), torch.from_numpy(label)


def samples_of_rank(batch_size: int, rank: int, world_size: int) -> range:
    """The samples of the global batch that one process computes. Shares are equal, or one larger on the first ranks.

    Raises:
        SegflowError: There are more processes than samples.
    """
    if batch_size < world_size:
        raise SegflowError(
            "the batch has fewer samples than there are processes to share it",
            found=f"batch size {batch_size}, {world_size} processes",
            fix="Set configuration.batch_size, or train on fewer devices.",
        )
    share, rest = divmod(batch_size, world_size)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))


def _with_slice_axis(box: Box) -> Box:
    return Box((0, *box.start), (1, *box.stop))
