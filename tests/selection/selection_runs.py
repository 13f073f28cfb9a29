"""Runs as training leaves them, with validation cases of a chosen quality and no network behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tiny_models
from most_likely import labels_from_probabilities
from scipy import ndimage

from segflow.core.labels import key_text
from segflow.storage.file_stamps import Origin, stamp_file
from segflow.storage.folds import Fold
from segflow.storage.json_files import write_json
from segflow.storage.predictions import Predictions

SHAPE = (8, 16, 14)
CASES = ("c0", "c1", "c2", "c3", "c4", "c5")


def write_map(file: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def read_map(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def reference_map(case_id: str) -> np.ndarray:
    """Two shells of a ball."""
    z, y, x = np.indices(SHAPE)
    shift = int(case_id[1:]) % 3
    distance = np.sqrt((2 * (z - 4)) ** 2 + (y - 7 - shift) ** 2 + (x - 6) ** 2)
    return np.digitize(-distance, [-5.0, -2.5]).astype(np.uint8)


def write_references(folder: Path, cases: tuple[str, ...] = CASES) -> Path:
    for case_id in cases:
        write_map(folder / f"{case_id}.nii.gz", reference_map(case_id))
    return folder


def probabilities_of(case_id: str, seed: int, noise: float) -> np.ndarray:
    """Softmax of the reference with smooth errors: float32 (3, Z, Y, X)."""
    generator = np.random.default_rng(1000 * seed + int(case_id[1:]))
    logits = np.stack([reference_map(case_id) == k for k in range(3)]).astype(np.float64)
    logits += noise * ndimage.gaussian_filter(generator.normal(size=logits.shape), (0, 1, 1, 1)) / 0.17
    values = np.exp(3 * logits)
    return (values / values.sum(0)).astype(np.float32)


def write_run(
    outputs: Path,
    configuration: str,
    *,
    noise: float,
    seed: int,
    folds: int = 2,
    cases: tuple[str, ...] = CASES,
    keep_probabilities: bool = True,
    run_name: str = "default",
) -> Path:
    run = outputs / tiny_models.DATASET / "nnUNetPlans" / configuration / run_name
    for fold in range(folds):
        own = cases[fold::folds]
        record = tiny_models.record(configuration, fold, val_cases=own)
        folder = Fold(run / f"fold_{fold}")
        folder.write_record(record)
        labels = record.dataset.labels
        for case_id in own:
            values = probabilities_of(case_id, seed, noise)
            write_map(folder.validation / f"{case_id}.nii.gz", labels_from_probabilities(values, labels))
            for k, channel in enumerate(values if keep_probabilities else ()):
                write_map(folder.validation / "probabilities" / f"{case_id}_{k:04d}.nii.gz", channel)
        if keep_probabilities:
            names = {f"{k:04d}": [labels.name_of(key), key_text(key)] for k, key in enumerate(labels.all_labels)}
            write_json(folder.validation / "probabilities" / "outputs.json", names)
    return run


def stamp_validation(run: Path, settings: dict[str, object], folds: tuple[int, ...] = (0, 1)) -> None:
    """Stamps of validation maps, as if predicted with these settings from weights that are there."""
    for fold in folds:
        folder = Fold(run / f"fold_{fold}")
        weights = folder.checkpoint("final")
        weights.parent.mkdir(exist_ok=True)
        weights.write_bytes(f"weights {fold}".encode())
        record = folder.read_record()
        predictions = Predictions(folder.validation, record.dataset.file_ending)
        for case_id in record.val_cases:
            content = predictions.file(case_id).read_bytes()
            origin = Origin("validation", 1, {**settings, "weights": stamp_file(weights)["digest"]})
            with predictions.written(case_id, origin) as place:
                (place / predictions.file(case_id).name).write_bytes(content)
