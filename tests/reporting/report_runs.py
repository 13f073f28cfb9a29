"""Runs with made-up scores, curves and images, for pages."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tiny_models

from segflow.core.case import CaseFiles
from segflow.core.metrics import CaseMetrics, Summary
from segflow.reporting.reported_run import ReportedRun
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import Fold

NAN = float("nan")
DICE = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.1, "e": 0.8}
MACHINE = {
    "device": "cuda:0",
    "device_name": "NVIDIA A100",
    "host": "node7",
    "begun": "2026-11-25T08:00:00+00:00",
    "date": "2026-11-26T09:30:00+00:00",
    "versions": {"python": "3.11.7", "segflow": "0.1.0", "torch": "2.13.0"},
}


def write_image(file: Path, array: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
    return file


def summary(folder: Path, dice: Mapping[str, float] = DICE) -> tuple[Summary, dict[str, CaseFiles]]:
    """Scores and images of cases; one more case failed."""
    cases, images = [], {}
    for seed, (name, value) in enumerate(dice.items()):
        label = np.zeros((3, 9, 9), np.uint8)
        label[1, 2:6, 2:6] = 1
        image = np.random.default_rng(seed).normal(size=label.shape).astype(np.float32)
        prediction = write_image(folder / "pred" / f"{name}.nii.gz", label)
        reference = write_image(folder / "ref" / f"{name}.nii.gz", label)
        images[name] = CaseFiles(name, (write_image(folder / "img" / f"{name}_0000.nii.gz", image),))
        cases.append(CaseMetrics(name, scores(value), str(prediction), str(reference)))
    return Summary.of_cases(cases, {"f": "case 'f': there is no prediction <f>"}), images


def scores(dice: float) -> dict[Any, dict[str, float]]:
    """A good, a bad and an undefined label's scores."""
    return {
        1: {"Dice": dice, "hd95_mm": 10 * (1 - dice), "surface_dice": dice},
        2: {"Dice": NAN, "hd95_mm": float("inf") if dice < 0.2 else NAN, "surface_dice": NAN},
    }


def make_run(
    folder: Path, name: str = "default", folds: Sequence[int] = (0,), epochs: int = 20, **options: Any
) -> Path:
    """A run on disk with curves, settings and a machine."""
    run = tiny_models.make_run(folder, folds=folds, run_name=name, **options)
    for fold in folds:
        add_facts(Fold(run / f"fold_{fold}"), epochs)
    return run


def add_facts(fold: Fold, epochs: int) -> None:
    record = json.loads(fold.record_file.read_text())
    settings = {
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": 50},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.02, "nesterov": True},
        "loss": {"_target_": "segflow.loss.compound.DiceCrossEntropy", "_partial_": True, "dice_weight": 1.0},
    }
    fold.record_file.write_text(json.dumps({**record, "settings": settings, "machine": MACHINE}))
    fold.mark_finished({"peak_memory_gib": 1.5})
    shift = 0.02 * int(fold.fold)
    with fold.metrics_csv.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["epoch", "train/loss", "val/loss", "val/dice_mean", "val/dice/organ", "lr", "time/epoch"])
        for epoch in range(epochs):
            noise = 0.05 * (-1) ** epoch
            loss = 1 / (epoch + 1) + shift + noise
            table.writerow([epoch, loss, loss + 0.1 if epoch else "", 1 - loss / 2, 1 - loss / 2, 0.01, 60.0])


def reported(run: Path, folder: Path, **options: Any) -> tuple[ReportedRun, dict[str, CaseFiles]]:
    """A run as a page shows it, with made-up scores."""
    found, images = summary(folder, **options)
    known = ReportedRun.of(run.name, find_folds(run))
    folds = [fold.fold for fold in known.folds]
    fold_of = {case.case_id: folds[place % len(folds)] for place, case in enumerate(found.cases)}
    return replace(known, summary=found, fold_of=fold_of), images
