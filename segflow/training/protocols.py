"""The exchangeable parts of a training, and their contracts for a user's own parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology
from segflow.sampling.patch_sampler import BoxSampler


class NetworkFactory(Protocol):
    """Builds a module: image (B, C, *patch) → logits (B, K, *patch) without a final activation.

    With ``deep_supervision`` the module may return a list: these logits first, then those of coarser levels.
    """

    def __call__(
        self, topology: NetworkTopology, in_channels: int, out_channels: int, deep_supervision: bool
    ) -> nn.Module: ...


class LossFactory(Protocol):
    """Builds a module: logits (B, K, …), target (B, 1, …) int → scalar."""

    def __call__(self, labels: Labels, batch_dice: bool) -> nn.Module: ...


class OptimizerFactory(Protocol):
    """Builds an optimizer over parameter groups. If it takes ``network``, it gets the network."""

    def __call__(self, parameters: Iterable[Mapping[str, Any]]) -> Optimizer: ...


class ScheduleFactory(Protocol):
    """Builds a schedule that is stepped once per epoch. If it takes ``total_epochs``, it gets the number of epochs."""

    def __call__(self, optimizer: Optimizer, **options: Any) -> LRScheduler: ...


class SamplerFactory(Protocol):
    """Builds a sampler, which chooses the boxes of patches."""

    def __call__(
        self, patch_size_loader: Sequence[int], patch_size_final: Sequence[int], *, labels: Labels
    ) -> BoxSampler: ...


class BatchTransform(Protocol):
    """Image (B, C, *loader_patch) float32, label (B, L, *loader_patch) int → network input and target."""

    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class AugmentationLike(BatchTransform, Protocol):
    """A batch transform with the patch size that it needs and the axes along which it mirrors."""

    loader_patch_size: tuple[int, ...]
    mirror_axes: tuple[int, ...]


class AugmentationFactory(Protocol):
    """Builds the augmentation of a configuration's patches. ``left_right_axis`` is a plan axis, or None if unknown."""

    def __call__(
        self,
        patch_size: Sequence[int],
        *,
        labels: Labels,
        use_mask_for_norm: Sequence[bool],
        previous_stage: bool,
        left_right_axis: int | None,
    ) -> AugmentationLike: ...


class VolumeScorer(Protocol):
    """Predicts whole preprocessed cases with a network in evaluation mode; case id → label name → Dice."""

    def __call__(self, network: nn.Module, case_ids: Sequence[str], /) -> Mapping[str, Mapping[str, float]]: ...


class EpochJudge(Protocol):
    """Told the number of an epoch, from 0, and its values under their TensorBoard tags. True ends the training there.

    So a search prunes a training that is not worth going on. The run keeps its checkpoint and is not finished.
    """

    def __call__(self, epoch: int, values: Mapping[str, float], /) -> bool | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingParts:
    """The exchangeable parts of a training, each a callable with its options bound.

    Attributes:
        network, loss, optimizer, schedule, sampler, augmentation: See the protocols.
        trainer: Builds Lightning's Trainer. Options that are bound to it (``functools.partial``) are read if segflow
            must decide something by them (precision, devices, strategy, limits, max_time).
        loggers: Each ``(save_dir=run folder)`` → Lightning logger.
        callbacks: Further Lightning callbacks.
        score_volumes: Scores whole cases during training; needed if ``training.volume_every`` is set.
        objective: Tag of the value that a search optimises, which must be logged; None if there is none.
        judge: Decides after each epoch whether the training is worth going on; None trains to the end.
        cases_after: Whole validation cases that are predicted after the training, for its forecast.
        chosen: What the user chose, for the tables of loggers: name → value, such as ``loss`` → ``dice_ce``.
    """

    network: NetworkFactory
    loss: LossFactory
    optimizer: OptimizerFactory
    schedule: ScheduleFactory
    sampler: SamplerFactory
    augmentation: AugmentationFactory
    trainer: Callable[..., pl.Trainer]
    loggers: Sequence[Callable[..., Logger]] = ()
    callbacks: Sequence[pl.Callback] = ()
    score_volumes: VolumeScorer | None = None
    objective: str | None = None
    judge: EpochJudge | None = None
    cases_after: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a training.

    Attributes:
        folder: The fold's folder.
        finished: Whether it reached its end. After STOP it did not, and the same command continues it.
        epochs: Epochs trained, including earlier starts.
        metrics: Last value of every curve, under its TensorBoard tag.
        trained: False if it was already finished and nothing was done.
        has_weights: False if the trainer's options disabled checkpoints, so that nothing can be predicted.
        pruned: Whether `TrainingParts.judge` ended it before its end.
    """

    folder: Path
    finished: bool
    epochs: int
    metrics: Mapping[str, float]
    trained: bool = True
    has_weights: bool = True
    pruned: bool = False
