"""Pictures of the same few validation patches in TensorBoard: image, reference, prediction."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger

from segflow.core.labels import LabelKey, Labels
from segflow.network.device_copies import sent
from segflow.sampling.batch import PatchBatch

logger = logging.getLogger(__name__)

TAG = "val/patches"

COLORS = np.array(
    [[228, 26, 28], [55, 126, 184], [77, 175, 74], [255, 127, 0], [152, 78, 163], [255, 255, 51], [247, 129, 191]],
    np.float32,
) / np.float32(255)
OPACITY = 0.55
GAP = 2
"""Width of the white gap between panels, in pixels."""


class PatchPictures(Callback):
    """Logs a picture every few epochs, and in the last one.

    The patches are those of the first validation batch. Their Dice is not a score of the run.

    Args:
        labels: The label definition.
        every: Epochs between pictures.
        count: Largest number of patches.
    """

    def __init__(self, labels: Labels, *, every: int, count: int) -> None:
        self._labels = labels
        self._every = every
        self._count = count
        self._batch: PatchBatch | None = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        wanted = epoch % self._every == 0 or epoch + 1 == trainer.max_epochs
        boards = [board for board in trainer.loggers if isinstance(board, TensorBoardLogger)]
        if not (wanted and boards and trainer.is_global_zero):
            return
        if self._batch is None:
            first = trainer.datamodule.val_dataset[0, 0]  # type: ignore[attr-defined]
            self._batch = PatchBatch(first.image[: self._count], first.label[: self._count], first.case_ids)
        with trainer.precision_plugin.val_step_context():
            logits = pl_module(sent(self._batch.image, pl_module.device))[0]
        image, label, found = self._batch.image, self._batch.label, logits.float().cpu()
        picture = draw_patches(image.numpy(), label.numpy(), found.numpy(), self._labels)
        for board in boards:
            board.experiment.add_image(TAG, picture, epoch, dataformats="HWC")


def draw_patches(image: np.ndarray, label: np.ndarray, logits: np.ndarray, labels: Labels) -> np.ndarray:
    """Draw a row for each patch: its first channel alone, with the reference, and with the prediction.

    Args:
        image: (B, C, *patch).
        label: (B, 1, *patch), the reference.
        logits: (B, K, *patch).
        labels: The label definition.

    Returns:
        float32 (height, width, 3) from 0 to 1. A 3D patch shows its slice with the most foreground.
    """
    rows = []
    for sample in range(len(image)):
        grey, reference, values = image[sample, 0], label[sample, 0], logits[sample]
        if grey.ndim == 3:
            at = _fullest_slice(reference)
            grey, reference, values = grey[at], reference[at], values[:, at]
        wanted = [np.isin(reference, key) for key in labels.foreground_keys]
        low, high = np.percentile(grey, [0.5, 99.5])
        plain = np.repeat(np.clip((grey - low) / max(high - low, 1e-6), 0, 1)[..., None], 3, axis=-1)
        panels = [plain, _paint(plain, wanted), _paint(plain, _predicted(values, labels))]
        rows.append(np.concatenate([_with_gap(panel) for panel in panels], axis=1))
    return np.concatenate(rows, axis=0).astype(np.float32)


def _fullest_slice(reference: np.ndarray) -> int:
    foreground = (reference > 0).sum(axis=(1, 2))
    return int(foreground.argmax()) if foreground.any() else len(reference) // 2


def _predicted(logits: np.ndarray, labels: Labels) -> list[np.ndarray]:
    if labels.has_regions:
        return [channel > 0 for channel in logits]
    chosen = np.asarray(labels.all_labels)[logits.argmax(axis=0)]
    keys: tuple[LabelKey, ...] = labels.foreground_keys
    return [chosen == key for key in keys]


def _paint(plain: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    painted = plain.copy()
    for index, mask in enumerate(masks):  # a later region lies within an earlier one, so it goes on top
        painted[mask] = (1 - OPACITY) * plain[mask] + OPACITY * COLORS[index % len(COLORS)]
    return painted


def _with_gap(panel: np.ndarray) -> np.ndarray:
    return np.pad(panel, ((0, GAP), (0, GAP), (0, 0)), constant_values=1.0)
