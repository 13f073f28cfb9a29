"""Scores of whole validation cases during training, kept apart from the pseudo-Dice of patches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from segflow.core.metrics import mean_of_defined
from segflow.training.monitor import EpochReport
from segflow.training.protocols import VolumeScorer
from segflow.training.ranks import team

TAG = "val_volume/dice/"


class VolumeValidation(Callback):
    """Predicts a few whole validation cases every few epochs, and in the last one.

    The scores appear as ``val_volume/dice/<label name>`` and ``val_volume/dice_mean``. They decide nothing;
    ``best.ckpt`` follows the pseudo-Dice.

    Args:
        score: Predicts and scores cases with the present network.
        case_ids: Validation cases of the fold, of which the first are taken.
        every: Epochs between scores.
        count: Largest number of cases.
        report: Reports the scores with the values of the epoch.
    """

    def __init__(
        self, score: VolumeScorer, case_ids: Sequence[str], *, every: int, count: int, report: EpochReport
    ) -> None:
        self._score = score
        self._case_ids = tuple(sorted(case_ids))[:count]
        self._every = every
        self._report = report

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if (epoch + 1) % self._every and epoch + 1 != trainer.max_epochs:
            return
        begun = time.perf_counter()
        scores = self._score_together(pl_module.network, epoch)
        names = dict.fromkeys(name for case_id in self._case_ids for name in scores[case_id])
        dice = {name: mean_of_defined([scores[case_id][name] for case_id in self._case_ids]) for name in names}
        row = {f"{TAG}{name}": value for name, value in dice.items()}
        row["val_volume/dice_mean"] = mean_of_defined(list(dice.values()))
        self._report.add(row | {"time/volume_validation": time.perf_counter() - begun})

    def _score_together(self, network: nn.Module, epoch: int) -> dict[str, Mapping[str, float]]:
        """Score the share of this process, and wait for those of the others, however long they take."""
        ours = team()
        mine = self._case_ids[ours.rank :: ours.world_size]
        ours.announce(f"volumes/{epoch}/{ours.rank}", self._score(network, mine) if mine else {})
        scores: dict[str, Mapping[str, float]] = {}
        for rank in range(ours.world_size):
            scores |= ours.hear(f"volumes/{epoch}/{rank}")
        return scores
