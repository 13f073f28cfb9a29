"""Run as a script, since Lightning starts the second process by running the script again."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from training_toy import Toy, make_record, plain_augmentation

EPOCHS, BATCHES = 5, 10


def train(folder: Path, processes: int, batch_dice: bool) -> None:
    """Train the toy, the global batch shared by some processes."""
    torch.set_num_threads(1)
    trainer = {
        "max_epochs": EPOCHS,
        "limit_train_batches": BATCHES,
        "devices": processes,
        "strategy": "ddp" if processes > 1 else "auto",
    }
    Toy(folder).train(
        f"{processes}_processes",
        record=make_record(batch_size=3, features=(4, 8, 8), batch_dice=batch_dice),
        trainer=trainer,
        augmentation=plain_augmentation,
        optimizer=functools.partial(torch.optim.SGD, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), 2, sys.argv[2] == "batch_dice")
