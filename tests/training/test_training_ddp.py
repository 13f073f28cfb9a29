"""Two processes that share a batch learn what one does (gloo, CPU)."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import train_on_two_processes
from training_toy import Toy, make_record

from segflow.core.errors import SegflowError


@pytest.mark.parametrize("dice", ["batch_dice", "sample_dice"])
def test_the_loss_curve_of_two_processes_is_that_of_one(tmp_path: Path, dice: str):
    script = Path(train_on_two_processes.__file__)
    Toy(tmp_path)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path), dice], capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr[-3000:]
    train_on_two_processes.train(tmp_path, 1, dice == "batch_dice")
    one, two = (
        list(csv.DictReader((tmp_path / f"{processes}_processes" / "metrics.csv").open())) for processes in (1, 2)
    )
    assert len(one) == len(two) == train_on_two_processes.EPOCHS
    for tag in ("train/loss", "val/loss", "val/dice_mean"):
        assert [float(row[tag]) for row in two] == pytest.approx([float(row[tag]) for row in one], abs=1e-4), tag
    assert not list(tmp_path.glob("**/.writing*"))
    assert len(list(tmp_path.glob("2_processes/checkpoints/*.ckpt"))) == 3


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path):
    toy = Toy(tmp_path)
    with pytest.raises(SegflowError, match="fewer samples than"):
        toy.train(record=make_record(batch_size=1), trainer={"devices": 2, "strategy": "ddp"})
