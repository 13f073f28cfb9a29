"""Training on the CPU: seconds per iteration with data loading and augmentation, the network's step alone, the gap
between epochs, peak memory, and what Lightning's loop costs.

Both sides run three short epochs with one validation batch each. The first warms up; of the others every iteration
but the first counts, from the end of one to the end of the next. Batches are made in the training process unless
``--workers`` says otherwise: on few cores that is quickest for both.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from core_distance import core_distance
from inputs import ACDC, HIPPOCAMPUS, link_dataset, share_plans
from measure import Measured, Meter, busy_process, run_function
from record import OURS, REFERENCE, Options, Record, options, peak_bytes

from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

TASKS = {
    "hippocampus": (HIPPOCAMPUS, "3d_fullres"),
    "acdc_3d": (ACDC, "3d_fullres"),
    "acdc_2d": (ACDC, "2d"),
}
PARTS = (*TASKS, "lightning", "busy")
EPOCHS = 3
QUICKER = 1.3
SLOWER = 1.5
"""How much longer an iteration may take beside one busy process."""
NEAR = 1.6
"""Cores are called near up to this multiple of the shortest distance that was seen."""
LIGHTNING_STEPS = 100


class Clock:
    """When the steps of a training began and ended; works for both sides.

    Args:
        distances: Measure after every step how far apart the cores are. It does not count as time.
    """

    def __init__(self, distances: bool = True) -> None:
        self._wants_distances = distances
        self.train_ends: list[list[float]] = []
        self.gaps: list[float] = []
        self.distances: list[list[float]] = []
        self._paused = 0.0
        self._left = 0.0
        self._gap = 0.0

    def epoch_starts(self) -> None:
        """All of the last epoch's bookkeeping is done; the first batch is not yet made."""
        if self.train_ends:
            self.gaps.append(self._gap + self._now() - self._left)
        self.train_ends.append([])
        self.distances.append([])

    def train_step_ends(self) -> None:
        """The optimizer has stepped."""
        self._left = self._now()
        self.train_ends[-1].append(self._left)
        distance = core_distance() if self._wants_distances else None
        if distance is not None:
            self.distances[-1].append(distance)
        self._paused += self._now() - self._left

    def validation_starts(self) -> None:
        """The first validation batch is not yet made."""
        self._gap = self._now() - self._left

    def validation_step_ends(self) -> None:
        """A validation batch is done."""
        self._left = self._now()

    def result(self) -> dict[str, Any]:
        """Seconds of the iterations that count and of the last gap, when everything was imported.

        ``distances`` has those before and after each of the iterations.
        """
        seconds = [end - start for ends in self.train_ends[1:] for start, end in itertools.pairwise(ends)]
        distances = [pair for found in self.distances[1:] for pair in itertools.pairwise(found)]
        return {"iterations": seconds, "gap": self.gaps[-1], "distances": distances}

    def _now(self) -> float:
        return time.monotonic() - self._paused


class LightningClock(pl.Callback):
    """Tells the clock what Lightning does. The last one made is `current`."""

    current: LightningClock

    def __init__(self, distances: bool = True) -> None:
        self.clock = Clock(distances)
        LightningClock.current = self

    def on_train_epoch_start(self, *_: Any) -> None:
        self.clock.epoch_starts()

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.train_step_ends()

    def on_validation_start(self, *_: Any) -> None:
        self.clock.validation_starts()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.clock.validation_step_ends()


def nnunet_trainer(
    prepared: Path, configuration: str, epochs: int, iterations: int, validation: int, *, device: str = "cpu"
) -> Any:
    """nnU-Net's own trainer with a short schedule."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    plans = {**read_json(prepared / "nnUNetPlans.json"), "continue_training": False}
    trainer = nnUNetTrainer(plans, configuration, 0, read_json(prepared / "dataset.json"), torch.device(device))
    trainer.num_epochs = epochs
    trainer.num_iterations_per_epoch = iterations
    trainer.num_val_iterations_per_epoch = validation
    return trainer


def nnunet_training(meter: Meter, prepared: str, configuration: str, iterations: int) -> dict[str, Any]:
    """Three epochs of nnU-Net's run_training, and then steps on one batch."""
    clock = Clock()
    trainer = nnunet_trainer(Path(prepared), configuration, EPOCHS, iterations, 1)
    step = trainer.train_step  # which does not tell the clock
    _tell(trainer, "on_train_epoch_start", after=clock.epoch_starts)
    _tell(trainer, "train_step", after=clock.train_step_ends)
    _tell(trainer, "on_validation_epoch_start", before=clock.validation_starts)
    _tell(trainer, "validation_step", after=clock.validation_step_ends)
    with meter.section("training"):
        trainer.run_training()
    batch = next(trainer.dataloader_train)
    trainer.network.train()
    step(batch)
    with meter.section("steps on one batch"):
        for _ in range(iterations):
            step(batch)
    return clock.result()


def _tell(trainer: Any, name: str, *, before: Any = None, after: Any = None) -> None:
    method = getattr(trainer, name)

    def told(*arguments: Any) -> Any:
        if before is not None:
            before()
        result = method(*arguments)
        if after is not None:
            after()
        return result

    setattr(trainer, name, told)


def composed(prepared: str, outputs: str, *overrides: str) -> Any:
    """The settings of ``segflow train`` with these overrides."""
    from segflow.apps import _edge

    folder = Path(prepared)
    places = (f"dataset.path={folder}", f"paths.preprocessed={folder.parent}", f"paths.outputs={outputs}")
    quiet = ("validation=false", "trainer.enable_progress_bar=false")
    if not any(override.startswith("trainer.accelerator=") for override in overrides):
        quiet = (*quiet, "trainer.accelerator=cpu")
    return _edge.compose("train", *places, *quiet, *overrides)


def segflow_training(
    meter: Meter, prepared: str, outputs: str, configuration: str, iterations: int, workers: int
) -> dict[str, Any]:
    """The same with ``segflow train``; the steps on one batch are a bare loop without Lightning."""
    from segflow.apps import train

    shutil.rmtree(outputs, ignore_errors=True)  # an earlier start's runs are finished
    settings = composed(
        prepared,
        outputs,
        f"configuration={configuration}",
        f"trainer.max_epochs={EPOCHS}",
        f"trainer.limit_train_batches={iterations}",
        "trainer.limit_val_batches=1",
        f"training.num_workers={workers}",
        "+callbacks.clock={_target_: training.LightningClock}",
    )
    with meter.section("training"):
        train.train(settings)
    clock = LightningClock.current.clock  # building the parts again makes another
    step = bare_step(settings)
    step()
    with meter.section("steps on one batch"):
        for _ in range(iterations):
            step()
    return clock.result()


def bare_step(settings: Any) -> Any:
    """A training step without Lightning on a batch that stays the same."""
    import torch

    from segflow.apps._inputs import read_inputs
    from segflow.apps._training import training_parts
    from segflow.loss.deep_supervision import DeepSupervisionLoss
    from segflow.network.cpu.accelerate import accelerate
    from segflow.network.cpu.samples import logits_side_by_side
    from segflow.training.parameters import parameter_groups

    parts, record = training_parts(settings), read_inputs(settings).record
    plan, labels = record.plan, record.dataset.labels
    network = accelerate(parts.network(plan.topology, record.in_channels, labels.num_outputs, True))
    loss = DeepSupervisionLoss(parts.loss(labels, plan.batch_dice), plan.topology.strides)
    optimizer = parts.optimizer(parameter_groups(network, {})[0])
    shape = (plan.batch_size, record.in_channels, *plan.patch_size)
    image = torch.randn(shape)
    label = torch.randint(0, labels.num_outputs, (plan.batch_size, 1, *plan.patch_size), dtype=torch.int16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(logits_side_by_side(network, image), label).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()

    return step


def lightning_and_bare(meter: Meter, prepared: str, outputs: str, steps: int) -> dict[str, float]:
    """Milliseconds that a step takes in Lightning's loop and in a bare one, on patches so small that it shows."""
    from segflow.apps import train

    shutil.rmtree(outputs, ignore_errors=True)  # an earlier start's runs are finished
    settings = composed(
        prepared,
        outputs,
        "configuration.patch_size=[16,16,16]",
        "configuration.batch_size=2",
        "trainer.max_epochs=2",
        f"trainer.limit_train_batches={steps}",
        "trainer.limit_val_batches=0",
        "training.repeat_batch=true",
        "+callbacks.clock={_target_: training.LightningClock, distances: false}",
    )
    with meter.section("Lightning"):
        train.train(settings)
    (ends,) = LightningClock.current.clock.train_ends[1:]
    looped = [stop - start for start, stop in itertools.pairwise(ends)]
    step = bare_step(settings)
    for _ in range(5):
        step()
    bare = []
    with meter.section("bare"):
        for _ in range(steps):
            start = time.monotonic()
            step()
            bare.append(time.monotonic() - start)
    return {"lightning": 1e3 * statistics.median(looped), "bare": 1e3 * statistics.median(bare)}


def nnunet_prepare(meter: Meter, identifier: int, configuration: str, processes: int) -> None:
    """nnU-Net's arrays of the cases."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    with meter.section("preprocess"):
        preprocess_dataset(identifier, configurations=[configuration], num_processes=[processes])


def segflow_prepare(meter: Meter, raw: str, prepared: str, configuration: str, processes: int) -> None:
    """segflow's arrays of the same cases."""
    from segflow.core.plans import Plans
    from segflow.preprocessing.preprocess_dataset import PreprocessSettings, preprocess_dataset

    folder = Path(prepared)
    plans = Plans.from_json(read_json(folder / "nnUNetPlans.json"))
    settings = PreprocessSettings(processes=processes)
    with meter.section("preprocess"):
        preprocess_dataset(Path(raw), plans, [configuration], folder, settings)


def prepare(
    chosen: Options, name: str, configuration: str, cases: int | None, settings: PlannerSettings | None = None
) -> tuple[Path, Path]:
    """Folders of both sides' arrays of a dataset's first cases, with the same plans and splits.

    Args:
        chosen: Of this run.
        name: Of the dataset.
        configuration: To preprocess.
        cases: How many; the plans are those of all.
        settings: Of the planner; None takes the defaults.

    Returns:
        nnU-Net's and segflow's preprocessed folder of the dataset.
    """
    source = chosen.data / name
    raw = link_dataset(source, chosen.work / "nnUNet_raw", cases)
    theirs, ours = share_plans(source, raw, chosen.work, settings)
    processes = len(chosen.machine.cores)
    call = {"configuration": configuration, "processes": processes}
    run_function(chosen.machine, nnunet_prepare, identifier=int(name[7:10]), **call)
    run_function(chosen.machine, segflow_prepare, raw=raw, prepared=ours, **call)
    return theirs, ours


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument("--iterations", type=int, default=None, help="that count, of each run (default 6)")
    parser.add_argument("--cases", type=int, default=20, help="of each dataset (default 20); plans are of all")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches (default 0)")


def main() -> None:
    """Run the chosen parts."""
    with options("training", __doc__ or "", PARTS, add_options) as chosen:
        chosen.machine.variables["nnUNet_n_proc_DA"] = str(chosen.extra.workers)  # type: ignore[index]
        record = Record("training", chosen)
        # A quick run shows one task, unless others are asked for.
        tasks = [part for part in TASKS if part in (chosen.chosen or (list(TASKS)[:1] if chosen.quick else TASKS))]
        for part in tasks:
            _training(record, chosen, part)
        if chosen.wants("lightning"):
            _lightning(record, chosen)
        if chosen.wants("busy"):
            _busy(record, chosen)
        record.note(f"Processes that make batches: {chosen.extra.workers} on both sides (0: the training process).")
        record.finish()


def _training(record: Record, chosen: Options, part: str) -> None:
    name, configuration = TASKS[part]
    *runs, iterations = _compared(record, chosen, part, f"{name} {configuration}")
    _judge(record, f"{name} {configuration}", *runs, iterations=iterations)


def _busy(record: Record, chosen: Options) -> None:
    """How much longer an iteration takes beside a process that computes all the time."""
    name = " ".join(TASKS["hippocampus"])
    quiet = _compared(record, chosen, "hippocampus", f"{name}, quiet")
    with busy_process(chosen.machine):
        busy = _compared(record, chosen, "hippocampus", f"{name}, beside a busy process")
    theirs, ours = (_iteration(there) / _iteration(here) for here, there in zip(quiet[:2], busy[:2], strict=True))
    record.value(f"{name}: iteration, times slower beside a busy process", nnunet=theirs, segflow=ours)
    record.check(f"{name}: iteration, times slower beside a busy process", ours, at_most=SLOWER)


def _compared(record: Record, chosen: Options, part: str, what: str) -> tuple[list[Measured], list[Measured], int]:
    """The runs of both sides, and the iterations of an epoch."""
    name, configuration = TASKS[part]
    theirs, ours = prepare(chosen, name, configuration, 6 if chosen.quick else chosen.extra.cases)
    counted = chosen.extra.iterations or (2 if chosen.quick else 6)
    iterations = -(-counted // (EPOCHS - 1)) + 1
    if chosen.quick:
        for folder in (theirs, ours):
            shrink(folder, configuration)
    turn = iter(range(chosen.repeats))
    call = {"configuration": configuration, "iterations": iterations}
    pair = record.compare(
        what,
        partial(run_function, chosen.machine, nnunet_training, prepared=theirs, **call),
        lambda: run_function(
            chosen.machine,
            segflow_training,
            prepared=ours,
            outputs=chosen.work / f"outputs_{part}_{next(turn)}",
            workers=chosen.extra.workers,
            **call,
        ),
    )
    return *pair, iterations


def _iteration(runs: list[Measured]) -> float:
    """Seconds of an iteration."""
    return statistics.median(value for run in runs for value in run.value["iterations"])


def _judge(record: Record, what: str, theirs: list[Measured], ours: list[Measured], *, iterations: int) -> None:
    def alone(runs: list[Measured]) -> float:
        return statistics.median(run.sections["steps on one batch"].seconds for run in runs) / iterations

    def gap(runs: list[Measured]) -> float:
        return statistics.median(run.value["gap"] for run in runs)

    for name, measure in (("iteration", _iteration), ("step on one batch", alone), ("gap between epochs", gap)):
        record.value(f"{what}: {name}", unit="s", **{REFERENCE: measure(theirs), OURS: measure(ours)})
    _by_distance(record, what, {REFERENCE: theirs, OURS: ours})
    record.check(f"{what}: iterations, times quicker", _iteration(theirs) / _iteration(ours), at_least=QUICKER)
    record.check(f"{what}: gap between epochs, s", gap(ours), at_most=0.5)
    memory = peak_bytes(ours, "training") / peak_bytes(theirs, "training")
    record.check(f"{what}: share of nnU-Net's memory", memory, at_most=1.0)


def _by_distance(record: Record, what: str, sides: dict[str, list[Measured]]) -> None:
    """How far apart the cores were, and the iterations for which they stayed near, or far."""
    found = {
        side: [each for run in runs for each in zip(run.value["distances"], run.value["iterations"], strict=False)]
        for side, runs in sides.items()
    }
    if not all(found.values()):
        return  # there was one core
    distances = {side: [distance for pair, _ in iterations for distance in pair] for side, iterations in found.items()}
    spans = {side: f"{min(values):.0f} to {max(values):.0f}" for side, values in distances.items()}
    record.value(f"{what}: from core to core", unit="ns", **spans)
    nearest = min(map(min, distances.values()))
    for name, belongs in (
        ("near", lambda pair: max(pair) < NEAR * nearest),
        ("far apart", lambda pair: min(pair) >= NEAR * nearest),
    ):
        chosen = {side: [s for pair, s in iterations if belongs(pair)] for side, iterations in found.items()}
        medians = {side: statistics.median(seconds) if seconds else None for side, seconds in chosen.items()}
        counts = " and ".join(str(len(seconds)) for seconds in chosen.values())
        record.value(f"{what}: iteration, cores {name}", unit=f"s, median of {counts}", **medians)


def _lightning(record: Record, chosen: Options) -> None:
    """What the loop adds to a step, as a share of a real one: nearly all of a real step is the network."""
    _, ours = prepare(chosen, HIPPOCAMPUS, "3d_fullres", 6)
    steps = 20 if chosen.quick else LIGHTNING_STEPS
    found = [
        run_function(
            chosen.machine,
            lightning_and_bare,
            prepared=ours,
            outputs=chosen.work / f"outputs_lightning_{turn}",
            steps=steps,
        )
        for turn in range(chosen.repeats)
    ]
    record.add_rows("steps of 2 patches of 16³", [], found)
    looped, bare = (statistics.median(run.value[key] for run in found) for key in ("lightning", "bare"))
    record.value("a step of 2 patches of 16³ in Lightning's loop", segflow=looped, unit="ms")
    record.value("the same step in a bare loop", segflow=bare, unit="ms")
    for value in [v for v in record.values if v["what"].endswith(": step on one batch")]:
        share = max(0.0, looped - bare) / (1e3 * value[OURS])
        record.check(f"{value['what'].split(':')[0]}: share of a step that the loop adds", share, at_most=0.02)


def shrink(folder: Path, configuration: str) -> None:
    """A small batch, for a run that only shows that everything works."""
    plans = read_json(folder / "nnUNetPlans.json")
    shrink_plan(plans["configurations"][configuration])
    write_json(folder / "nnUNetPlans.json", plans)


def shrink_plan(plan: dict[str, Any]) -> None:
    """The same for the plan of a configuration as it is in JSON."""
    strides = plan["architecture"]["arch_kwargs"]["strides"]
    plan.update(batch_size=2, patch_size=[2 * math.prod(axis) for axis in zip(*strides, strict=True)])


if __name__ == "__main__":
    main()
