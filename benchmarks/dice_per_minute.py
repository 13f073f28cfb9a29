"""Dice of whole held-out cases against the time of training: nnU-Net, segflow's default recipe and its experiment=fast.

Each budget is a training of its own, whose schedule ends with the budget. Fold 0, equal plans and arrays, one process
each on the same cores; the validation cases are predicted afterwards, outside the budget of each side, and patches are
not validated during it. ``nnunet``'s learning rate falls with every step, as over its thousand epochs.

A budget is a wall time on a quiet machine. With ``--by-rate`` it is as many iterations as a side makes in that time:
the seconds of an iteration are measured first, all sides in turn, within a minute or two, and only that must be quiet.
Each result says which of the two it is of.

What was found is kept in ``--work``: the same command goes on after an interruption. ``--only nuclei/fast/5/0`` runs
one piece, ``--only nuclei`` and ``--only 'nuclei/*/5'`` several. ``--recipe NAME SETTING …`` adds a side for a try.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from inputs import ACDC, HIPPOCAMPUS, link_dataset, share_plans
from measure import Measured, Meter, run_function
from record import OURS, REFERENCE, RESULTS, Options, Record, options
from training import composed, nnunet_prepare, nnunet_trainer, segflow_prepare, shrink_plan

from segflow.core.wording import counted
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

FAST = "fast"
EPOCHS = 1000
"""Nominal epochs, into which schedules divide a budget."""
VARIABLES = {"nnUNet_n_proc_DA": "0"}
UNEVEN = 3
"""First iterations, which do not count for the rate."""
RATE_TURNS = 3
"""How often each rate is measured."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A training to compare by.

    Attributes:
        dataset: Its folder's name.
        configuration: Of the plans.
        memory_gb: Memory to plan for, by which patches are small; None takes the planner's.
        batch_size: In place of the plans'.
    """

    dataset: str
    configuration: str
    memory_gb: float | None = None
    batch_size: int | None = None


SUBJECTS = {
    "hippocampus": Subject(HIPPOCAMPUS, "3d_fullres"),
    "acdc": Subject(ACDC, "2d", 0.1, 4),
    "nuclei": Subject("Dataset123_Nuclei", "2d", 0.1, 4),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What both sides train on.

    Attributes:
        theirs, ours: nnU-Net's and segflow's folder of arrays and plans.
        plan: The configuration's plan, as a start wrote it for both.
    """

    theirs: Path
    ours: Path
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """One training.

    Attributes:
        subject: Name in `SUBJECTS`.
        side: ``nnunet``, ``segflow``, ``fast``, or the name of a recipe.
        minutes: The budget; iterations with ``--iterations``.
        seed: Of weights, patches and augmentation.
    """

    subject: str
    side: str
    minutes: float
    seed: int

    @property
    def name(self) -> str:
        """As ``--only`` takes it."""
        return f"{self.subject}/{self.side}/{self.minutes:g}/{self.seed}"

    def is_wanted(self, patterns: Sequence[str]) -> bool:
        """Whether one of the patterns fits the name or its beginning; none fits all."""
        return not patterns or any(fnmatchcase(self.name, end) for text in patterns for end in (text, f"{text}/*"))


def pieces(subjects: Sequence[str], sides: Sequence[str], minutes: Sequence[float], seeds: int) -> list[Piece]:
    """All pieces, so ordered that the first ones already give short curves of all sides."""
    return [
        Piece(subject, side, budget, seed)
        for budget in sorted(minutes)
        for seed in range(seeds)
        for subject in subjects
        for side in sides
    ]


class Share:
    """How much of a budget is used: of seconds, or of iterations.

    Args:
        seconds: The budget; None if iterations are given.
        iterations: The budget.
    """

    def __init__(self, seconds: float | None, iterations: int | None, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._iterations, self._clock = seconds, iterations, clock
        self._begun = clock()
        self.done = 0

    def step(self) -> None:
        """An iteration is done."""
        self.done += 1

    @property
    def used(self) -> float:
        """From 0 to 1, and beyond."""
        if self._iterations is not None:
            return self.done / self._iterations
        return (self._clock() - self._begun) / (self._seconds or 1.0)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._begun


class IterationBudget(pl.Callback):
    """Gives a run of segflow a budget of iterations in place of one of time, see `segflow.training.time_budget`."""

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        trainer.lr_scheduler_configs[0].scheduler.move_to(batch_idx / self._iterations)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        trainer.should_stop = True


class StepClock(pl.Callback):
    """When the steps of the last run ended."""

    ends: list[float]

    def __init__(self) -> None:
        StepClock.ends = []

    def on_train_batch_end(self, *_: Any) -> None:
        StepClock.ends.append(time.monotonic())


def nnunet_fold(
    meter: Meter,
    prepared: str,
    configuration: str,
    outputs: str,
    seconds: float | None,
    iterations: int | None,
    mirror: bool,
    seed: int,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """nnU-Net's training to the end of a budget, and its validation."""
    import os
    import random

    import numpy as np
    import torch

    os.environ.update(nnUNet_results=outputs)  # read when nnU-Net is imported
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    check_plan(prepared, configuration, plan)
    trainer = nnunet_trainer(Path(prepared), configuration, EPOCHS, 1, 1)
    trainer.on_train_start()
    trainer.network.train()
    with meter.section("train"):
        budget = Share(seconds, iterations)
        while budget.used < 1:
            trainer.lr_scheduler.step(EPOCHS * budget.used)
            trainer.train_step(next(trainer.dataloader_train))
            budget.step()
        trained = budget.seconds
    if not mirror:
        trainer.inference_allowed_mirroring_axes = None
    with meter.section("validate"):
        trainer.perform_actual_validation()
    dice = _dice(Path(trainer.output_folder) / "validation" / "summary.json")
    return {"dice": dice, "iterations": budget.done, "seconds": trained}


def segflow_fold(
    meter: Meter,
    prepared: str,
    configuration: str,
    outputs: str,
    seconds: float | None,
    iterations: int | None,
    mirror: bool,
    seed: int,
    plan: dict[str, Any],
    recipe: Sequence[str],
) -> dict[str, Any]:
    """The same with ``segflow train``."""
    from segflow.apps import train

    check_plan(prepared, configuration, plan)
    budget = (
        [f"trainer.max_time={seconds:g}s"]
        if iterations is None
        else [
            f"trainer.limit_train_batches={iterations}",
            f"+callbacks.budget={{_target_: dice_per_minute.IterationBudget, iterations: {iterations}}}",
        ]
    )
    settings = composed(
        prepared,
        outputs,
        *recipe,
        f"configuration={configuration}",
        f"training.seed={seed}",
        "trainer.limit_val_batches=0",
        "validation=true",
        f"inference={'nnunet' if mirror else 'no_mirroring'}",
        "+callbacks.clock={_target_: dice_per_minute.StepClock}",
        *budget,
    )
    with meter.section("train and validate"):
        folder = train.train(settings).result.folder
    trained = read_json(folder / "finished.json")["seconds"]
    dice = _dice(folder / "validation" / "summary.json")
    return {"dice": dice, "iterations": len(StepClock.ends), "seconds": trained}


def check_plan(prepared: str, configuration: str, plan: dict[str, Any]) -> None:
    """Refuse to train by other plans than a start wrote: one beside it may have changed them in between.

    Raises:
        RuntimeError: The configuration's plan in the file is another one.
    """
    file = Path(prepared) / "nnUNetPlans.json"
    if read_json(file)["configurations"][configuration] != plan:
        raise RuntimeError(f"{file} was changed after this start had written it. Are others preparing? Start again.")


def nnunet_rate(meter: Meter, prepared: str, configuration: str, iterations: int, plan: dict[str, Any]) -> float:
    """Seconds of an iteration of nnU-Net with its data."""
    check_plan(prepared, configuration, plan)
    trainer = nnunet_trainer(Path(prepared), configuration, EPOCHS, 1, 1)
    trainer.on_train_start()
    trainer.network.train()
    ends = []
    with meter.section("iterations"):
        for _ in range(UNEVEN + iterations):
            trainer.train_step(next(trainer.dataloader_train))
            ends.append(time.monotonic())
    return _rate(ends)


def segflow_rate(
    meter: Meter,
    prepared: str,
    outputs: str,
    configuration: str,
    iterations: int,
    plan: dict[str, Any],
    recipe: Sequence[str],
) -> float:
    """The same of ``segflow train``."""
    import shutil

    from segflow.apps import train

    check_plan(prepared, configuration, plan)
    shutil.rmtree(outputs, ignore_errors=True)
    settings = composed(
        prepared,
        outputs,
        *recipe,
        f"configuration={configuration}",
        f"trainer.limit_train_batches={UNEVEN + iterations}",
        "trainer.limit_val_batches=0",
        "+callbacks.clock={_target_: dice_per_minute.StepClock}",
        f"+callbacks.budget={{_target_: dice_per_minute.IterationBudget, iterations: {UNEVEN + iterations}}}",
    )
    with meter.section("iterations"):
        train.train(settings)
    return _rate(StepClock.ends)


def _rate(ends: Sequence[float]) -> float:
    counted = ends[UNEVEN - 1 :]
    return (counted[-1] - counted[0]) / (len(counted) - 1)


def _dice(file: Path) -> dict[str, float]:
    summary = read_json(file)
    per_label = {label: float(metrics["Dice"]) for label, metrics in summary["mean"].items()}
    return {**per_label, "mean": float(summary["foreground_mean"]["Dice"]), "cases": len(summary["metric_per_case"])}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[5, 10, 20, 40], help="budgets (default 5 10 20 40)"
    )
    parser.add_argument("--by-rate", action="store_true", help="budgets are iterations, from rates measured first")
    parser.add_argument("--iterations", type=int, nargs="+", help="budgets of so many iterations of every side")
    parser.add_argument("--rates-only", action="store_true", help="measure the rates, which are kept, and stop")
    parser.add_argument("--rate-iterations", type=int, default=10, help="iterations to measure a rate by (default 10)")
    parser.add_argument("--mirror", action="store_true", help="predict with mirroring")
    parser.add_argument("--features", type=int, default=None, help="feature maps of the first level, for quick tries")
    parser.add_argument("--sides", nargs="+", default=[REFERENCE, OURS, FAST], help="default: nnunet segflow fast")
    parser.add_argument(
        "--recipe", nargs="+", action="append", default=[], metavar=("NAME", "SETTING"), help="a side of its own"
    )


def main() -> None:
    """Run what is not done; ``--repeats`` is the number of seeds."""
    with options("dice_per_minute", __doc__ or "", None, add_options, repeats=2, variables=VARIABLES) as chosen:
        recipes = {OURS: [], FAST: ["experiment=fast"], **{name: settings for name, *settings in chosen.extra.recipe}}
        sides = [*dict.fromkeys([*chosen.extra.sides, *(name for name, *_ in chosen.extra.recipe)])]
        unknown = [side for side in sides if side != REFERENCE and side not in recipes]
        if unknown:
            raise SystemExit(f"--sides {' '.join(unknown)}: expected {REFERENCE}, {', '.join(recipes)}")
        minutes = [0.02] if chosen.quick else chosen.extra.iterations or chosen.extra.minutes
        subjects = ["nuclei"] if chosen.quick else list(SUBJECTS)
        todo = pieces(subjects, sides, minutes, chosen.repeats)
        wanted = [piece for piece in todo if piece.is_wanted(chosen.chosen)]
        if not wanted:
            raise SystemExit(f"--only {' '.join(chosen.chosen)} fits no piece; such as {todo[0].name}")
        if chosen.extra.rates_only and chosen.output == RESULTS / "dice_per_minute.json":
            chosen = replace(chosen, output=RESULTS / "dice_per_minute_rates.json")  # beside the curves
        record = Record("dice_per_minute", chosen)
        rates = run(record, chosen, wanted, recipes)
        if chosen.extra.rates_only:
            tell_rates(record, rates)
        else:
            tell(record, chosen, todo)
        record.finish()


def run(
    record: Record, chosen: Options, wanted: Sequence[Piece], recipes: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Run the pieces whose result is not yet kept. Returns subject → side → seconds of an iteration, if asked for."""
    reference = any(piece.side == REFERENCE for piece in wanted)
    subjects = dict.fromkeys(piece.subject for piece in wanted)
    prepared = {subject: _prepared(chosen, subject, reference=reference) for subject in subjects}
    rates: dict[str, dict[str, float]] = {}
    if (chosen.extra.by_rate and not chosen.extra.iterations) or chosen.extra.rates_only:
        for subject, both in prepared.items():
            sides = [*dict.fromkeys(piece.side for piece in wanted if piece.subject == subject)]
            rates[subject] = _rates(record, chosen, subject, both, {side: recipes.get(side, ()) for side in sides})
    if chosen.extra.rates_only:
        return rates
    for number, piece in enumerate(wanted):
        file = _file(chosen, piece)
        if file.is_file():
            continue
        rate = rates.get(piece.subject, {}).get(piece.side)
        budget = _budget(piece, rate, in_iterations=bool(chosen.extra.iterations))
        record.console.log(f"{piece.name} ({number + 1} of {len(wanted)}), {budget}")
        call: dict[str, Any] = {
            **budget,
            "configuration": SUBJECTS[piece.subject].configuration,
            "outputs": file.parent / "runs" / file.stem,
            "mirror": chosen.extra.mirror,
            "seed": piece.seed,
        }
        both = prepared[piece.subject]
        call["plan"] = both.plan
        if piece.side == REFERENCE:
            measured = run_function(chosen.machine, nnunet_fold, prepared=both.theirs, **call)
        else:
            measured = run_function(
                chosen.machine, segflow_fold, prepared=both.ours, recipe=recipes[piece.side], **call
            )
        found = {**measured.value, "rate": rate, "settings": list(recipes.get(piece.side, ()))}
        write_json(file, {**found, "foreign_cores": measured.foreign_cores})
    return rates


def _budget(piece: Piece, rate: float | None, *, in_iterations: bool) -> dict[str, Any]:
    """The budget of a piece: its seconds, or its iterations if they are given, or follow from the rate."""
    if in_iterations:
        return {"seconds": None, "iterations": int(piece.minutes)}
    if rate is not None:
        return {"seconds": None, "iterations": max(1, round(60 * piece.minutes / rate))}
    return {"seconds": 60 * piece.minutes, "iterations": None}


def _mode(chosen: Options) -> tuple[str, str]:
    """What budgets are: the unit, and a sentence's words."""
    if chosen.extra.iterations:
        return "iterations", "iterations, the same number of every side"
    return "min", "iterations at the measured rate" if chosen.extra.by_rate else "wall time"


def _prepared(chosen: Options, name: str, *, reference: bool) -> Prepared:
    """The arrays of both sides, made once, and their plan; nnU-Net's arrays only if ``reference`` asks for them."""
    markers = [chosen.work / "dice_per_minute" / f"prepared_{name}{end}.json" for end in ("_both", "")]
    marker = next((one for one in markers[: 1 if reference else 2] if one.is_file()), None)
    if marker is None:
        marker = markers[0 if reference else 1]
        _prepare(chosen, SUBJECTS[name], marker, reference=reference)
    kept = read_json(marker)
    theirs, ours = (Path(folder) for folder in kept["folders"])
    return Prepared(theirs, ours, _set_plans(chosen, SUBJECTS[name], (theirs, ours), kept["plans"]))


def _prepare(chosen: Options, subject: Subject, marker: Path, *, reference: bool) -> None:
    source = chosen.data / subject.dataset
    changes: dict[str, Any] = {} if subject.memory_gb is None else {"memory_target_gb": subject.memory_gb}
    raw = link_dataset(source, chosen.work / "nnUNet_raw", 10 if chosen.quick else None)
    theirs, ours = share_plans(source, raw, chosen.work, PlannerSettings(**changes))
    call = {"configuration": subject.configuration, "processes": len(chosen.machine.cores)}
    if reference:
        run_function(chosen.machine, nnunet_prepare, identifier=int(subject.dataset[7:10]), **call)
    run_function(chosen.machine, segflow_prepare, raw=raw, prepared=ours, **call)
    write_json(marker, {"folders": [str(theirs), str(ours)], "plans": read_json(ours / "nnUNetPlans.json")})


def _set_plans(chosen: Options, subject: Subject, folders: tuple[Path, Path], plans: dict[str, Any]) -> dict[str, Any]:
    """Give both sides the plans with the batch size and the features of this start; the configuration's plan."""
    plan: dict[str, Any] = plans["configurations"][subject.configuration]
    plan["batch_size"] = subject.batch_size or plan["batch_size"]
    first = 4 if chosen.quick else chosen.extra.features
    if first:
        own = plan["architecture"]["arch_kwargs"]["features_per_stage"]
        plan["architecture"]["arch_kwargs"]["features_per_stage"] = [first * count // own[0] for count in own]
    if chosen.quick:
        shrink_plan(plan)
    for folder in folders:
        write_json(folder / "nnUNetPlans.json", plans)
    return plan


def _rates(
    record: Record, chosen: Options, subject: str, prepared: Prepared, sides: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Seconds of an iteration of each side.

    Sides are measured in turn, and the quickest turn counts: the cores of a virtual machine may be half as quick while
    others use theirs. If rates are kept from before, one of their sides is measured again beside the new ones, which
    are then kept in proportion to it.
    """
    file = chosen.work / "dice_per_minute" / f"rates_{subject}{_what(chosen)}.json"
    kept: dict[str, float] = read_json(file) if file.is_file() else {}
    new = [side for side in sides if side not in kept]
    if not new:
        return kept
    again = [side for side in (REFERENCE, *sides) if side in kept][:1]
    found: dict[str, list[float]] = {side: [] for side in (*again, *new)}
    for turn in range(1 if chosen.quick else RATE_TURNS):
        for side, rates in found.items():
            measured = _rate_of(chosen, subject, prepared, side, sides.get(side, ()))
            rates.append(measured.value)
            what = f"{subject}/{side}, turn {turn + 1}: {measured.value:.4f} s an iteration"
            record.console.log(f"{what}, {measured.foreign_cores} cores busy elsewhere")
    factor = kept[again[0]] / min(found[again[0]]) if again else 1.0
    kept |= {side: factor * min(found[side]) for side in new}
    write_json(file, kept)
    return kept


def _rate_of(chosen: Options, subject: str, prepared: Prepared, side: str, recipe: Sequence[str]) -> Measured:
    call: dict[str, Any] = {
        "configuration": SUBJECTS[subject].configuration,
        "plan": prepared.plan,
        "iterations": 2 if chosen.quick else chosen.extra.rate_iterations,
    }
    if side == REFERENCE:
        return run_function(chosen.machine, nnunet_rate, prepared=prepared.theirs, **call)
    outputs = chosen.work / "dice_per_minute" / f"rate_runs_{chosen.machine.cores[0]}"
    return run_function(chosen.machine, segflow_rate, prepared=prepared.ours, outputs=outputs, recipe=recipe, **call)


def _what(chosen: Options) -> str:
    """What else tells results apart."""
    parts = [
        "quick" if chosen.quick else "",
        f"features{chosen.extra.features}" if chosen.extra.features else "",
    ]
    return "".join(f"_{part}" for part in parts if part)


def _file(chosen: Options, piece: Piece) -> Path:
    mode = "iterations" if chosen.extra.iterations else "rate" if chosen.extra.by_rate else "time"
    folder = chosen.work / "dice_per_minute" / f"{piece.subject}_{mode}{_what(chosen)}{'_mirror' * chosen.extra.mirror}"
    return folder / f"{piece.side}_{piece.minutes:g}_{piece.seed}.json"


def tell(record: Record, chosen: Options, todo: Sequence[Piece]) -> None:
    """Note all that is known so far."""
    found = {piece: read_json(_file(chosen, piece)) for piece in todo if _file(chosen, piece).is_file()}
    unit, mode = _mode(chosen)
    for subject, side, minutes in dict.fromkeys((piece.subject, piece.side, piece.minutes) for piece in found):
        others = {piece.side for piece in found if (piece.subject, piece.minutes) == (subject, minutes)} - {REFERENCE}
        if side == REFERENCE and others:
            continue  # it stands beside each of them
        names = {REFERENCE: REFERENCE} | ({} if side == REFERENCE else {OURS: side})
        row = {key: _of_seeds(found, subject, name, minutes, "dice", "mean") for key, name in names.items()}
        seeds = [counted(count, "seed") for count in dict.fromkeys(len(values) for values in row.values() if values)]
        means = {key: statistics.fmean(values) for key, values in row.items() if values}
        what = f"{subject}: Dice of whole cases after {minutes:g} {unit}, {_recipe_name(side)}"
        record.value(what, unit=f"mean of {' and '.join(seeds)}, {mode}", **means)
        each = {key: " ".join(f"{value:.4f}" for value in values) for key, values in row.items() if values}
        record.value(f"{what}: each seed", **each)
        steps = {
            key: statistics.fmean(_of_seeds(found, subject, name, minutes, "iterations"))
            for key, name in names.items()
            if row[key]
        }
        record.value(f"{what}: iterations", **steps)
    rates: dict[str, dict[str, float]] = {}
    for piece, one in found.items():
        if one.get("rate"):
            rates.setdefault(piece.subject, {})[piece.side] = one["rate"]
    tell_rates(record, rates)
    for what, above in _bars(found) if unit == "min" else ():
        record.check(what, above, at_least=0.0)
    missing = [piece.name for piece in todo if piece not in found]
    if missing:
        record.note(f"Not run: {len(missing)} of {len(todo)} pieces, such as --only {missing[0]}.")
    if found:
        cases = {piece.subject: int(one["dice"]["cases"]) for piece, one in found.items()}
        record.note(f"Validation cases of fold 0: {', '.join(f'{name} {count}' for name, count in cases.items())}.")
    views = "with" if chosen.extra.mirror else "without"
    record.note(f"Budgets are {mode}; prediction is outside the budget, {views} mirroring, on both sides.")


def tell_rates(record: Record, rates: Mapping[str, Mapping[str, float]]) -> None:
    """Note subject → side → seconds of an iteration, from which budgets of iterations follow."""
    for subject, sides in rates.items():
        theirs = {side: rate for side, rate in sides.items() if side == REFERENCE}
        for side, rate in sides.items():
            if side != REFERENCE:
                what = f"{subject}: an iteration, as measured, {_recipe_name(side)}"
                record.value(what, unit="s", **theirs, **{OURS: rate})


def _bars(found: Mapping[Piece, Any]) -> Iterator[tuple[str, float]]:
    """At equal time, and a third of the time: Dice of experiment=fast above nnU-Net's."""
    budgets = sorted({(piece.subject, piece.minutes) for piece in found})
    for subject, minutes in budgets:
        theirs = _of_seeds(found, subject, REFERENCE, minutes, "dice", "mean")
        ours = _of_seeds(found, subject, FAST, minutes, "dice", "mean")
        if theirs and ours:
            above = statistics.fmean(ours) - statistics.fmean(theirs)
            yield f"{subject}: Dice of fast above nnU-Net's, {minutes:g} min both", above
        for short in (own for name, own in budgets if name == subject and own <= minutes / 3 < own * 1.5):
            ours = _of_seeds(found, subject, FAST, short, "dice", "mean")
            if theirs and ours:
                above = statistics.fmean(ours) - statistics.fmean(theirs)
                yield f"{subject}: Dice of fast in {short:g} min above nnU-Net's in {minutes:g} min", above


def _of_seeds(found: Mapping[Piece, Any], subject: str, side: str, minutes: float, *keys: str) -> list[float]:
    values = []
    for piece, one in found.items():
        if (piece.subject, piece.side, piece.minutes) == (subject, side, minutes):
            value = one
            for key in keys:
                value = value[key]
            values.append(float(value))
    return values


def _recipe_name(side: str) -> str:
    return {REFERENCE: "nnU-Net", OURS: "default recipe", FAST: "experiment=fast"}.get(side, side)


if __name__ == "__main__":
    main()
