"""Running commands as a user does, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import forked_commands

PATHS = (
    *("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "SEGFLOW_SCRATCH", "SEGFLOW_CONF"),
    *("nnUNet_raw", "nnUNet_preprocessed"),
)
TINY = [
    "dataset=phantom",
    "planner.base_features=4",
    "planner.max_features_3d=16",
    "planner.max_features_2d=16",
    "planner.plans_name=tinyPlans",
]
SHORT = [
    "plans=tinyPlans",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "inference.mirroring=false",
]


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``segflow ARGUMENTS`` in a folder, without the paths that the tester's own environment sets."""
    clean = {key: value for key, value in os.environ.items() if key not in PATHS}
    return forked_commands.run(folder, *arguments, environment={**clean, **environment})
