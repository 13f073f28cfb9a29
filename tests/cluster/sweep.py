"""A sweep of two configurations and two folds on the phantom, whose jobs can be held within their training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATIONS, FOLDS = ("2d", "3d_fullres"), (0, 1)
JOBS = [(configuration, fold) for configuration in CONFIGURATIONS for fold in FOLDS]
RUNS = Path("outputs/Dataset001_Phantom/tinyPlans")
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
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "training.num_workers=0",
    "inference.mirroring=false",
]
SWEEP = ["-m", f"configuration={','.join(CONFIGURATIONS)}", f"fold={','.join(map(str, FOLDS))}", *SHORT]
LEAST = ["train", "-m", "fold=0,1", "dataset=phantom"]
"""A sweep that is told before it starts a job."""
HELD = "callbacks.held={_target_:held.Held}"
"""Writes down each epoch that begins. In the second one the job waits while there is a file with its name."""

CALLBACK = """
import time
from pathlib import Path

from pytorch_lightning.callbacks import Callback


class Held(Callback):
    def on_train_epoch_start(self, trainer, module):
        parts = Path(trainer.default_root_dir).parts
        name = f"{parts[-3]}-{parts[-1]}"
        with open(f"epochs/{name}", "a") as file:
            file.write(f"{trainer.current_epoch} ")
        while trainer.current_epoch == 1 and Path("hold", name).exists():
            time.sleep(0.05)
"""
PATHS = ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "nnUNet_raw", "nnUNet_preprocessed", "SEGFLOW_CONF")
PATIENCE = 300.0
"""Seconds after which something hangs, even on a busy machine."""


def prepare(folder: Path) -> Path:
    """Plan and preprocess the phantom in a folder."""
    for name in ("hold", "epochs"):
        (folder / name).mkdir()
    (folder / "held.py").write_text(CALLBACK)
    for arguments in (
        ["plan", *TINY],
        ["preprocess", "plans=tinyPlans", f"configurations=[{','.join(CONFIGURATIONS)}]"],
    ):
        result = segflow(folder, *arguments)
        assert result.returncode == 0, result.stderr
    return folder


def segflow(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``segflow ARGUMENTS`` in a folder. ``stdout`` also has what was written to stderr."""
    with started(folder, *arguments, **environment) as process:
        output, _ = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(arguments, process.returncode, output, output)


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``segflow ARGUMENTS`` while the block runs. Afterwards it is ended."""
    clean = {key: value for key, value in os.environ.items() if key not in PATHS}
    process = subprocess.Popen(
        [sys.executable, "-m", "segflow", *arguments],
        cwd=folder,
        env={**clean, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def name_of(configuration: str, fold: int) -> str:
    """Name of the job's files in ``hold`` and ``epochs``."""
    return f"{configuration}-fold_{fold}"


def hold(folder: Path, configuration: str, fold: int) -> Path:
    """A file that holds the job in its second epoch until it is removed."""
    file = folder / "hold" / name_of(configuration, fold)
    file.touch()
    return file


def epochs(folder: Path, configuration: str, fold: int) -> list[int]:
    """The epochs that the job has begun, in all its starts."""
    file = folder / "epochs" / name_of(configuration, fold)
    return [int(number) for number in file.read_text().split()] if file.exists() else []


def in_second_epoch(folder: Path, configuration: str, fold: int) -> bool:
    """Whether the job's first start is in its second epoch, and the checkpoint of the first one is written."""
    checkpoint = folder / RUNS / configuration / "default" / f"fold_{fold}" / "checkpoints" / "last.ckpt"
    return epochs(folder, configuration, fold) == [0, 1] and checkpoint.is_file()


def wait_until(fact: Callable[[], object], what: str, process: subprocess.Popen[str]) -> None:
    """Wait for a fact while a process runs.

    Raises:
        AssertionError: It does not come about, or the process ends before.
    """
    end = time.monotonic() + PATIENCE
    while not fact():
        if process.poll() is not None or time.monotonic() > end:
            process.terminate()
            raise AssertionError(f"no {what}:\n{process.communicate(timeout=60)[0]}")
        time.sleep(0.1)


def check_runs(folder: Path, *wanted: tuple[str, int]) -> None:
    """There are the complete folders of these runs, and nothing else."""
    runs = {folder / RUNS / configuration / "default" / f"fold_{fold}" for configuration, fold in wanted}
    assert set((folder / RUNS).glob("*/*/*")) == runs
    for run in runs:
        assert (run / "finished.json").is_file(), run
        assert (run / "checkpoints" / "final.ckpt").is_file(), run
        assert (run / "validation" / "summary.json").is_file(), run
    assert not list(folder.rglob(".writing*"))
    assert {path.name for path in (folder / "outputs").iterdir()} <= {RUNS.parts[1], ".jobs", "multirun.yaml"}
