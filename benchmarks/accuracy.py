"""Dice at an equal schedule: fold 0, 250 iterations (10 epochs of 25), several seeds, then validation of whole cases.

Each side preprocesses, trains and validates by itself, on the same cases, plans and folds. On two cores a run takes
half an hour (hippocampus) to two hours (ACDC); ``--memory 0.35 --one-view`` plans ACDC's patches for less
memory and validates without mirroring, in less than half an hour. The seeds of both sides take turns, or ``--at-once
2`` run at the same time, each on its share of the cores: its seconds are not what this benchmark is for. What a run
found is kept in ``--work``: the same command goes on after an interruption, and a larger ``--repeats`` adds seeds.
"""

from __future__ import annotations

import argparse
import csv
import queue
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from inputs import ACDC, HIPPOCAMPUS
from measure import Machine, Measured, Meter, Section, run_function
from record import OURS, REFERENCE, Options, Record, options
from training import composed, nnunet_trainer, prepare, shrink

from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

TASKS = {"hippocampus": HIPPOCAMPUS, "acdc": ACDC}
CONFIGURATION = "3d_fullres"
ALLOWED_LOSS = 0.005
VALIDATION_BATCHES = 5


def nnunet_fold(meter: Meter, prepared: str, epochs: int, iterations: int, one_view: bool, seed: int) -> dict[str, Any]:
    """nnU-Net's training and validation of fold 0: ``dice`` of each label and their mean, ``losses`` of the epochs."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    trainer = nnunet_trainer(Path(prepared), CONFIGURATION, epochs, iterations, VALIDATION_BATCHES)
    with meter.section("train"):
        trainer.run_training()
    if one_view:
        trainer.inference_allowed_mirroring_axes = None
    with meter.section("validate"):
        trainer.perform_actual_validation()
    losses = [float(trainer.logger.get_value("train_losses", epoch)) for epoch in range(epochs)]
    return {"dice": _dice(Path(trainer.output_folder) / "validation" / "summary.json"), "losses": losses}


def segflow_fold(
    meter: Meter, prepared: str, outputs: str, epochs: int, iterations: int, one_view: bool, seed: int
) -> dict[str, Any]:
    """The same with ``segflow train``, which validates at its end."""
    from segflow.apps import train

    settings = composed(
        prepared,
        outputs,
        f"configuration={CONFIGURATION}",
        f"trainer.max_epochs={epochs}",
        f"trainer.limit_train_batches={iterations}",
        f"trainer.limit_val_batches={VALIDATION_BATCHES}",
        f"training.seed={seed}",
        "validation=true",
        f"inference={'no_mirroring' if one_view else 'nnunet'}",
    )
    with meter.section("train and validate"):
        result = train.train(settings).result
    with (result.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    return {"dice": _dice(result.folder / "validation" / "summary.json"), "losses": losses}


def _dice(file: Path) -> dict[str, float]:
    summary = read_json(file)
    per_label = {label: float(metrics["Dice"]) for label, metrics in summary["mean"].items()}
    return {**per_label, "mean": float(summary["foreground_mean"]["Dice"])}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument("--epochs", type=int, default=10, help="default 10")
    parser.add_argument("--iterations", type=int, default=25, help="of an epoch (default 25)")
    parser.add_argument("--batch-size", type=int, default=None, help="in place of the plans'")
    parser.add_argument("--memory", type=float, default=None, help="GB of a GPU to plan for (default: the planner's)")
    parser.add_argument("--one-view", action="store_true", help="validate without mirroring")
    parser.add_argument("--at-once", type=int, default=1, help="runs at the same time, each on its share of the cores")


def main() -> None:
    """Train and validate; ``--repeats`` is the number of seeds."""
    variables = {"nnUNet_n_proc_DA": "0"}
    with options("accuracy", __doc__ or "", tuple(TASKS), add_options, repeats=3, variables=variables) as chosen:
        record = Record("accuracy", chosen)
        for part, name in TASKS.items():
            if part in (chosen.chosen or (list(TASKS)[:1] if chosen.quick else TASKS)):
                _task(record, chosen, name)
        record.finish()


def _task(record: Record, chosen: Options, name: str) -> None:
    memory = chosen.extra.memory
    settings = PlannerSettings() if memory is None else PlannerSettings(memory_target_gb=memory)
    theirs, ours = prepare(chosen, name, CONFIGURATION, 6 if chosen.quick else None, settings)
    epochs, iterations = (1, 2) if chosen.quick else (chosen.extra.epochs, chosen.extra.iterations)
    if chosen.quick:
        for folder in (theirs, ours):
            shrink(folder, CONFIGURATION)
    for folder in (theirs, ours):
        _set_batch_size(folder, chosen.extra.batch_size)
    schedule = {"epochs": epochs, "iterations": iterations, "one_view": chosen.extra.one_view}
    plan = read_json(ours / "nnUNetPlans.json")["configurations"][CONFIGURATION]
    batch = f"{plan['batch_size']} of {'×'.join(str(voxels) for voxels in plan['patch_size'])}"
    views = ", one view" if chosen.extra.one_view else ""
    what = f"{name}_{epochs}x{iterations}_{batch}{views}"
    kept = chosen.work / "accuracy" / what.replace(" ", "_").replace(",", "").replace("×", "x")

    def run(side: str, seed: int, machine: Machine) -> Measured:
        record.console.log(f"{name}: {side}, seed {seed}")
        if side == REFERENCE:
            call = partial(run_function, machine, nnunet_fold, prepared=theirs, seed=seed, **schedule)
        else:
            outputs = kept / f"outputs_{seed}"
            call = partial(run_function, machine, segflow_fold, prepared=ours, outputs=outputs, seed=seed, **schedule)
        return _once(kept / f"{side}_{seed}.json", call)

    turns = [(side, seed) for seed in range(chosen.repeats) for side in (REFERENCE, OURS)]
    found_in_turn = _at_once(run, turns, _shares(chosen.machine, chosen.extra.at_once))
    pair = tuple([found_in_turn[side, seed] for seed in range(chosen.repeats)] for side in (REFERENCE, OURS))
    record.add_rows(f"{name}, {epochs} × {iterations} iterations of {batch}{views}", *pair)
    runs = dict(zip((REFERENCE, OURS), pair, strict=True))
    for label in pair[0][0].value["dice"]:
        means = {side: _mean(found, label) for side, found in runs.items()}
        record.value(f"{name}: Dice, {'label ' if label != 'mean' else ''}{label}", unit="mean of seeds", **means)
    for seed in range(chosen.repeats):
        of_seed = {side: found[seed].value for side, found in runs.items()}
        dice = {side: value["dice"]["mean"] for side, value in of_seed.items()}
        record.value(f"{name}: Dice, mean of labels", unit=f"seed {seed}", **dice)
        last = {side: value["losses"][-1] for side, value in of_seed.items()}
        record.value(f"{name}: training loss of the last epoch", unit=f"seed {seed}", **last)
    epochs_of_both = zip(*([loss for run in found for loss in run.value["losses"]] for found in pair), strict=True)
    apart = statistics.fmean(abs(a - b) for a, b in epochs_of_both)
    record.value(f"{name}: difference of an epoch's training losses", unit="mean of epochs and seeds", both=apart)
    difference = _mean(runs[OURS], "mean") - _mean(runs[REFERENCE], "mean")
    record.check(f"{name}: Dice above nnU-Net's", difference, at_least=-ALLOWED_LOSS)


def _shares(machine: Machine, number: int) -> list[Machine]:
    """The machine's cores and threads dealt out to so many runs."""
    if not 1 <= number <= len(machine.cores):
        raise SystemExit(f"--at-once {number}: expected 1 to {len(machine.cores)}, the number of cores")
    threads = max(1, machine.threads // number)
    return [replace(machine, cores=machine.cores[share::number], threads=threads) for share in range(number)]


def _at_once(
    run: Callable[[str, int, Machine], Measured], turns: list[tuple[str, int]], machines: list[Machine]
) -> dict[tuple[str, int], Measured]:
    """Every turn's run, in order, each on the first machine that is free."""
    free: queue.SimpleQueue[Machine] = queue.SimpleQueue()
    for machine in machines:
        free.put(machine)

    def on_a_free_one(turn: tuple[str, int]) -> Measured:
        machine = free.get()
        try:
            return run(*turn, machine)
        finally:
            free.put(machine)

    with ThreadPoolExecutor(len(machines)) as pool:
        return dict(zip(turns, pool.map(on_a_free_one, turns), strict=True))


def _set_batch_size(folder: Path, batch_size: int | None) -> None:
    if batch_size is not None:
        plans = read_json(folder / "nnUNetPlans.json")
        plans["configurations"][CONFIGURATION]["batch_size"] = batch_size
        write_json(folder / "nnUNetPlans.json", plans)


def _once(file: Path, call: Callable[[], Measured]) -> Measured:
    """What an earlier start found, or the call's own result, which is kept."""
    if file.is_file():
        found = read_json(file)
        sections = {name: Section(**section) for name, section in found["sections"].items()}
        return Measured(sections, found["value"], found["foreign_cores"])
    measured = call()
    write_json(file, asdict(measured))
    return measured


def _mean(runs: list[Measured], label: str) -> float:
    return statistics.fmean(run.value["dice"][label] for run in runs)


if __name__ == "__main__":
    main()
