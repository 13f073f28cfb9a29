"""What a page says about a run in its header: where and when it was trained, by what, on what, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segflow.core.run_record import RunRecord
from segflow.core.wording import duration_text, some
from segflow.reporting.reported_run import ReportedRun
from segflow.reporting.training_curves import epochs_of, seconds_of

UNKNOWN = "–"
MOST_FEATURES = 8
MOST_LABELS = 15

Facts = dict[str, dict[str, str]]
"""Group → name → value, in words."""


def facts_of(run: ReportedRun) -> Facts:
    """The facts of a run. What is not recorded reads ``–``."""
    record = run.record
    return {
        "Run": _of_run(run),
        "Plan": _of_plan(record),
        "Training": _of_training(run),
        "Machine": _of_machine(record.machine),
    }


def _of_run(run: ReportedRun) -> dict[str, str]:
    record, labels = run.record, run.record.dataset.labels
    machines = [one.machine for one in run.records]
    begun = sorted(str(m.get("begun") or m.get("date")) for m in machines if m.get("begun") or m.get("date"))
    last = sorted(str(m["date"]) for m in machines if m.get("date"))
    return {
        "dataset": record.dataset.name,
        "configuration": record.configuration,
        "run name": run.folds[0].path.parent.name,
        "folds": ", ".join(fold.fold for fold in run.folds),
        "trained from": _date(begun[0]) if begun else UNKNOWN,
        "last start": _date(last[-1]) if last else UNKNOWN,
        "labels": some([labels.name_of(key) for key in labels.foreground_keys], MOST_LABELS),
        "channels": ", ".join(record.dataset.channels),
        "cases scored": str(len(run.summary.cases)),
        **({"weights": f"mean of {len(record.mean_of)} trainings, seen data for all"} if record.mean_of else {}),
    }


def _of_training(run: ReportedRun) -> dict[str, str]:
    record, settings = run.record, run.record.settings
    known = not record.from_nnunet
    trainer = settings.get("trainer") if known else None
    trainer = trainer if isinstance(trainer, Mapping) else {}
    epochs = [epochs_of(curves) for curves in run.curves]
    seconds = [seconds_of(curves) for curves in run.curves]
    total = sum(value for value in seconds if not math.isnan(value))
    return {
        "epochs": f"{_range(epochs)} of {trainer.get('max_epochs', UNKNOWN)}",
        "batches per epoch": str(trainer.get("limit_train_batches", UNKNOWN)),
        "duration": duration_text(total) + (f" for {len(epochs)} folds" if len(epochs) > 1 else "")
        if total
        else UNKNOWN,
        "peak memory": _peaks(run),
        "learning rate": _number(_within(settings, "optimizer", "lr")),
        "optimizer": part_in_words(settings.get("optimizer"), without=("lr",)),
        "schedule": part_in_words(settings.get("schedule")),
        "loss": part_in_words(settings.get("loss")),
        "augmentation": _augmentation(settings.get("augmentation")),
        "foreground patches": _number(_within(settings, "sampling", "foreground_fraction")),
        "seed": str(_within(settings, "training", "seed")),
        "trainer": UNKNOWN if known else str(settings.get("trainer")),
    }


def _of_machine(machine: Mapping[str, Any]) -> dict[str, str]:
    versions = machine.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    device = machine.get("device_name") or (machine.get("processor") if machine.get("device") == "cpu" else None)
    processes = machine.get("processes")
    return {
        "device": " · ".join(str(part) for part in (device, machine.get("device")) if part) or UNKNOWN,
        "processes": UNKNOWN if processes is None else str(processes),
        "precision": str(machine.get("precision", UNKNOWN)),
        "host": str(machine.get("host", UNKNOWN)),
        "system": str(machine.get("system", UNKNOWN)),
        "segflow": str(versions.get("segflow", UNKNOWN)),
        "torch": str(versions.get("torch") or machine.get("torch", UNKNOWN)),
        "CUDA, cuDNN": ", ".join(str(machine[name]) for name in ("cuda", "cudnn") if machine.get(name)) or UNKNOWN,
        "other versions": ", ".join(f"{name} {v}" for name, v in versions.items() if name not in ("segflow", "torch")),
    }


def _of_plan(record: RunRecord) -> dict[str, str]:
    plan = record.plan
    features = [str(number) for number in plan.topology.features]
    more = ["…", features[-1]] if len(features) > MOST_FEATURES else []
    return {
        "plans": record.plans.plans_name,
        "patch": f"{times(plan.patch_size)} voxels",
        "batch size": str(plan.batch_size),
        "spacing": " × ".join(f"{size:.3g}" for size in plan.spacing) + " mm",
        "network": plan.topology.network,
        "features": " ".join(features[: MOST_FEATURES - len(more)] + more),
        "normalization": ", ".join(dict.fromkeys(plan.normalization_schemes)),
        "previous stage": plan.previous_stage or UNKNOWN,
        "cases in a fold": str(len({*record.train_cases, *record.val_cases})),
    }


def part_in_words(part: Any, without: tuple[str, ...] = ()) -> str:
    """``SGD, momentum 0.99, nesterov``: the class of a part of the settings, and its plain options."""
    if not isinstance(part, Mapping) or "_target_" not in part:
        return UNKNOWN
    words = [str(part["_target_"]).rpartition(".")[2]]
    for name, value in part.items():
        if name.startswith("_") or name in without or value in (None, False, {}, []):
            continue
        words.append(name.replace("_", " ") + ("" if value is True else f" {in_words(value)}"))
    return ", ".join(words)


def in_words(value: Any) -> str:
    """A value of a setting as a person types it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_words, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {in_words(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def times(sizes: Any) -> str:
    """``40 × 56 × 40``."""
    return " × ".join(map(str, sizes))


def _augmentation(part: Any) -> str:
    steps = part.get("steps") if isinstance(part, Mapping) else None
    if not isinstance(steps, Mapping):
        return part_in_words(part)
    others = [name for name in ("spatial", "mirror", "turn", "cascade") if part.get(name)]
    return ", ".join([*others, *(str(name).replace("_", " ") for name, step in steps.items() if step)])


def _peaks(run: ReportedRun) -> str:
    """The most memory that a fold took: of its main process, and on a GPU."""
    own = [ending.get("peak_memory_gib") for ending in run.endings]
    process = [value for value in own if isinstance(value, int | float) and value > 0]
    gpu = [value for curves in run.curves for value in curves.get("memory/gpu_peak_gib", []) if not math.isnan(value)]
    found = {"main process": process, "GPU": gpu}
    return ", ".join(f"{max(values):.2f} GiB {name}" for name, values in found.items() if values) or UNKNOWN


def _within(settings: Mapping[str, Any], section: str, name: str) -> Any:
    values = settings.get(section)
    return values.get(name, UNKNOWN) if isinstance(values, Mapping) else UNKNOWN


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _date(text: str) -> str:
    """``2026-11-26T17:11:34+00:00`` → ``2026-11-26 17:11 UTC``."""
    day, _, clock = text.partition("T")
    return f"{day} {clock[:5]} UTC" if clock else day
