"""The batches of a fold for Lightning."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytorch_lightning as pl
from torch.utils.data import Dataset

from segflow.core.errors import SegflowError
from segflow.execution.machine import free_shared_memory
from segflow.training.loader import EpochLoader, choose_workers, fit_workers

TRAIN_BATCHES = 250
VAL_BATCHES = 50
"""Training and validation batches of an epoch in nnU-Net (recipe 6.4)."""

PREFETCHED = 2
"""Batches that each worker prepares in advance; torch's default."""
HELD = 2
"""Batches that the training process holds: the current and the next."""
MEASURED = 8
"""Fewest batches whose making is measured."""


class EpochBatches(NamedTuple):
    """Number of batches of an epoch.

    Attributes:
        train: For training, at least 1.
        val: For validation; 0 if there is none.
    """

    train: int
    val: int


class PatchDataModule(pl.LightningDataModule):
    """Training and validation batches. Each depends only on (seed, epoch, index).

    Args:
        train, val: ``dataset[epoch, index]`` is a whole batch; ``val`` is None without validation.
        batches: Batches of an epoch.
        num_workers: Workers for training batches; -1 chooses. Validation gets half as many.
        batch_bytes: Size of a training and of a validation batch, to check the free shared memory.
        repeat_batch: Train on the first batch again and again.
    """

    def __init__(
        self,
        train: Dataset[Any],
        val: Dataset[Any] | None,
        *,
        batches: EpochBatches,
        num_workers: int = -1,
        batch_bytes: tuple[int, int] = (0, 0),
        repeat_batch: bool = False,
    ) -> None:
        super().__init__()
        self._train, self._val = train, val
        self._batches = batches
        self._num_workers = num_workers
        self._batch_bytes = batch_bytes
        self._workers: int | None = None
        self._repeat = repeat_batch
        self.train_loader: EpochLoader | None = None
        self.val_loader: EpochLoader | None = None

    @property
    def val_dataset(self) -> Dataset[Any] | None:
        """The validation patches."""
        return self._val

    @property
    def workers(self) -> int:
        """Number of workers for training batches; 0 until they are chosen."""
        return self._workers or 0

    def train_dataloader(self) -> EpochLoader:
        # When Lightning builds the first iterator of a resumed run, `current_epoch` is still one too low.
        self.train_loader = self._loader(self._train, "train", epochs_between=1)
        return self.train_loader

    def val_dataloader(self) -> EpochLoader | list[Any]:
        if self._val is None:
            return []
        self.val_loader = self._loader(self._val, "val", epochs_between=self._attached().check_val_every_n_epoch or 1)
        return self.val_loader

    def measure(self) -> tuple[float, int]:
        """Seconds in which the workers make a training batch when all of them are at work, and their number."""
        loader = self._loader(self._train, "train", epochs_between=1)
        workers = self._workers or 0
        try:
            return loader.batch_seconds((PREFETCHED + 1) * workers + 1, max(MEASURED, 2 * workers)), workers
        finally:
            loader.close()

    def serve(self, train: Dataset[Any], batch_bytes: int) -> None:
        """Give other training batches from now on, of another size."""
        self._train, self._workers = train, None
        self._batch_bytes = (batch_bytes, self._batch_bytes[1])

    def teardown(self, stage: str) -> None:
        for loader in (self.train_loader, self.val_loader):
            if loader is not None:
                loader.close()

    def _attached(self) -> pl.Trainer:
        """The trainer. Lightning attaches it before it asks for batches."""
        trainer: pl.Trainer | None = self.trainer
        if trainer is None:
            raise RuntimeError("no trainer is attached yet")
        return trainer

    def _loader(self, dataset: Dataset[Any], name: str, *, epochs_between: int) -> EpochLoader:
        trainer = self._attached()
        on_gpu = trainer.strategy.root_device.type != "cpu"
        workers = self._choose_workers(on_gpu)
        return EpochLoader(
            dataset,
            batches=getattr(self._batches, name),
            epoch=lambda: _completed_epochs(trainer) // epochs_between,
            workers=workers if name == "train" else _for_validation(workers),
            pin_memory=trainer.strategy.root_device.type == "cuda",
            repeat=self._repeat and name == "train",
        )

    def _choose_workers(self, on_gpu: bool) -> int:
        """Number of workers. It is chosen once for both loaders, whose workers run at the same time."""
        if self._workers is None:
            processes = max(1, self._attached().num_devices)
            workers = choose_workers(self._num_workers, on_gpu=on_gpu, processes=processes)
            self._workers = fit_workers(
                workers,
                lambda count: processes * self._bytes_in_flight(count),
                free_shared_memory(),
                wanted=self._num_workers,
            )
        return self._workers

    def _bytes_in_flight(self, workers: int) -> int:
        counts = (workers, _for_validation(workers) if self._val is not None else 0)
        return sum(
            size * (PREFETCHED * count + HELD) for size, count in zip(self._batch_bytes, counts, strict=True) if count
        )


def _completed_epochs(trainer: pl.Trainer) -> int:
    # Lightning declares a wider type than its fit loop uses.
    processed: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    return processed


def _for_validation(workers: int) -> int:
    return (workers + 1) // 2


def resolve_batches(limit: float | None, nominal: int, name: str) -> int:
    """Batches of an epoch from Lightning's ``limit_…_batches``: an int counts batches, a float is a share.

    Args:
        limit: Value of the setting; None takes all batches.
        nominal: Batches of a whole epoch.
        name: Name of the setting, for the message.

    Raises:
        SegflowError: It is negative, or a float above 1.
    """
    if limit is None:
        return nominal
    if isinstance(limit, int) and limit >= 0:
        return int(limit)
    if isinstance(limit, float) and 0 <= limit <= 1:
        return max(1, round(nominal * limit)) if limit > 0 else 0
    raise SegflowError(
        f"trainer.{name} cannot be used",
        found=limit,
        expected=f"a whole number of batches, or a share of {nominal} from 0.0 to 1.0",
    )
