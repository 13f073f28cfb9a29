"""Batch norm with several processes on a CPU, where torch cannot synchronise it; on GPUs see tests/gpu."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
from training_toy import make_record

from segflow.core.errors import SegflowError
from segflow.network.build import build_network
from segflow.training.batch_norm import synchronise_batch_norm


def trainer(processes: int) -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", devices=processes, strategy="ddp", logger=False)


@pytest.mark.parametrize(
    ("norm", "processes", "choice", "told"),
    [("batch", 2, None, True), ("batch", 2, False, False), ("batch", 1, True, False), ("instance", 2, True, False)],
)
def test_each_process_has_its_own_statistics(
    norm: str, processes: int, choice: bool | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    topology = replace(make_record().plan.topology, norm=norm)
    network = build_network(topology, 1, 3)
    kinds = [type(module) for module in network.modules()]
    assert synchronise_batch_norm(network, trainer(processes), choice) is network
    assert [type(module) for module in network.modules()] == kinds
    assert ("each of 2 processes alone" in caplog.text) is told


def test_asking_for_more_is_refused() -> None:
    network = build_network(replace(make_record().plan.topology, norm="batch"), 1, 3)
    with pytest.raises(SegflowError, match=r"on a CPU; found trainer.sync_batchnorm=true"):
        synchronise_batch_norm(network, trainer(2), True)
