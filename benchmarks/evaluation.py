"""Scoring label maps: Dice of many small cases and of a few large ones with many labels, and distances of surfaces.

``hippocampus``: all cases against their own labels, shifted and eroded at random. ``large``: three maps of 512³ voxels
with 15 labels. ``metrics``: 200 hippocampus cases with all metrics, against nnU-Net's and those of the surface-distance
package by as many processes. ``surface``: HD95, mean surface distance and surface Dice of anisotropic
masks, against that package. The last two need it installed.
"""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from inputs import HIPPOCAMPUS
from measure import Measured, Meter, run_function
from record import Options, Record, median_seconds, options

PARTS = ("hippocampus", "large", "metrics", "surface")
QUICKER, QUICKER_ALL = 5.0, 10.0
TOLERANCE_MM = 2.0
LARGE_SHAPE, LARGE_LABELS, LARGE_CASES = (512, 512, 512), 15, 3
METRICS = ("Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref")


def nnunet_evaluation(meter: Meter, reference: str, prediction: str, labels: int, processes: int) -> dict[str, Any]:
    """nnU-Net's compute_metrics_on_folder."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    with meter.section("evaluate"):
        summary = compute_metrics_on_folder(
            reference,
            prediction,
            str(Path(prediction) / "nnunet.json"),
            SimpleITKIO(),
            ".nii.gz",
            list(range(1, labels + 1)),
            num_processes=processes,
        )
    return {str(label): {m: float(v) for m, v in metrics.items()} for label, metrics in summary["mean"].items()}


def segflow_evaluation(meter: Meter, reference: str, prediction: str, labels: int, processes: int) -> dict[str, Any]:
    """segflow's evaluate_cases, overlap only; as shipped, it chooses how many processes pay, up to one a core."""
    from segflow.core.labels import Labels
    from segflow.evaluation.evaluate_cases import EvaluateSettings, evaluate_cases
    from segflow.evaluation.score_case import ScoreSettings

    definition = Labels.from_json({"background": 0, **{f"label {n}": n for n in range(1, labels + 1)}})
    scores = ScoreSettings(surface=False, lesions=False, volume=False)
    with meter.section("evaluate"):
        summary = evaluate_cases(
            Path(prediction),
            Path(reference),
            definition,
            EvaluateSettings(scores=scores),
            file_ending=".nii.gz",
            output=Path(prediction) / "segflow",
        )
    return {str(label): dict(metrics) for label, metrics in summary.mean.items()}


def published_metrics(meter: Meter, reference: str, prediction: str, processes: int) -> dict[str, list[float]]:
    """nnU-Net's compute_metrics_on_folder, then surface-distance for each case and label in a pool like nnU-Net's."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from published import surfaces_of_files

    files = sorted(Path(prediction).glob("*.nii.gz"))
    with meter.section("evaluate"):
        summary = compute_metrics_on_folder(
            reference,
            prediction,
            str(Path(prediction) / "nnunet.json"),
            SimpleITKIO(),
            ".nii.gz",
            [1, 2],
            num_processes=processes,
        )
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            work = [(str(Path(reference) / file.name), str(file), (1, 2), TOLERANCE_MM) for file in files]
            surfaces = dict(zip((file.name for file in files), pool.map(surfaces_of_files, work), strict=True))
    dice = {Path(case["prediction_file"]).name: case["metrics"] for case in summary["metric_per_case"]}
    return {
        f"{name} {label}": [float(dice[name][label]["Dice"]), *surfaces[name][label]]
        for name in surfaces
        for label in (1, 2)
    }


def segflow_metrics(meter: Meter, reference: str, prediction: str, processes: int) -> dict[str, list[float]]:
    """segflow's evaluate_cases as shipped: overlap, volumes, surfaces and lesions."""
    from segflow.core.labels import Labels
    from segflow.evaluation.evaluate_cases import EvaluateSettings, evaluate_cases

    definition = Labels.from_json({"background": 0, "label 1": 1, "label 2": 2})
    with meter.section("evaluate"):
        summary = evaluate_cases(
            Path(prediction),
            Path(reference),
            definition,
            EvaluateSettings(),
            file_ending=".nii.gz",
            output=Path(prediction) / "segflow",
        )
    names = ("Dice", "hd95_mm", "mean_surface_distance_mm", "surface_dice")
    return {
        f"{case.case_id}.nii.gz {label}": [float(case.metrics[label][name]) for name in names]
        for case in summary.cases
        for label in (1, 2)
    }


def published_surface(meter: Meter, masks: str) -> list[dict[str, float]]:
    """The surface-distance package on pairs of masks."""
    import surface_distance

    result = []
    for file in sorted(Path(masks).glob("*.npz")):
        pair = np.load(file)
        with meter.section("surface"):
            found = surface_distance.compute_surface_distances(pair["reference"], pair["prediction"], pair["spacing"])
            there, back = surface_distance.compute_average_surface_distance(found)
            result.append(
                {
                    "hd95": float(surface_distance.compute_robust_hausdorff(found, 95)),
                    "mean": float(there + back) / 2,
                    "dice": float(surface_distance.compute_surface_dice_at_tolerance(found, 2.0)),
                }
            )
    return result


def segflow_surface(meter: Meter, masks: str) -> list[dict[str, float]]:
    """segflow on the same pairs."""
    from segflow.evaluation.surface import surface_distances

    result = []
    for file in sorted(Path(masks).glob("*.npz")):
        pair = np.load(file)
        with meter.section("surface"):
            found = surface_distances(pair["reference"], pair["prediction"], pair["spacing"].tolist())
            result.append({"hd95": found.percentile_mm(95), "mean": found.mean_mm(), "dice": found.dice(2.0)})
    return result


def main() -> None:
    """Run the chosen parts."""
    with options("evaluation", __doc__ or "", PARTS) as chosen:
        record = Record("evaluation", chosen)
        if chosen.wants("hippocampus"):
            reference, prediction = _hippocampus(chosen)
            _overlap(record, chosen, f"{len(list(reference.iterdir()))} hippocampus cases", reference, prediction, 2)
        if chosen.wants("large"):
            shape = (64, 64, 64) if chosen.quick else LARGE_SHAPE
            reference, prediction = _large(chosen, shape)
            size = "×".join(str(n) for n in shape)
            _overlap(record, chosen, f"{LARGE_CASES} maps of {size}", reference, prediction, LARGE_LABELS)
        if chosen.wants("metrics"):
            _metrics(record, chosen)
        if chosen.wants("surface"):
            _surface(record, chosen)
        record.finish()


def _overlap(
    record: Record, chosen: Options, what: str, reference: Path, prediction: Path, labels: int
) -> tuple[list[Measured], list[Measured]]:
    call = {
        "reference": reference,
        "prediction": prediction,
        "labels": labels,
        "processes": len(chosen.machine.cores),
    }
    theirs, ours = record.compare(
        what,
        partial(run_function, chosen.machine, nnunet_evaluation, **call),
        partial(run_function, chosen.machine, segflow_evaluation, **call),
    )
    record.check(f"{what}: times quicker", median_seconds(theirs) / median_seconds(ours), at_least=QUICKER)
    expected, found = theirs[0].value, ours[0].value
    apart = max(abs(expected[label][m] - found[label][m]) for label in expected for m in METRICS)
    record.check(f"{what}: largest difference of a mean score", apart, at_most=1e-9)
    return theirs, ours


def _metrics(record: Record, chosen: Options) -> None:
    if importlib.util.find_spec("surface_distance") is None:
        record.note("The surface-distance package is not installed; all metrics were not compared.")
        return
    reference, prediction = _hippocampus(chosen)
    call = {"reference": reference, "prediction": prediction, "processes": len(chosen.machine.cores)}
    what = f"{len(list(reference.iterdir()))} hippocampus cases, all metrics"
    theirs, ours = record.compare(
        f"{what} (surface-distance beside nnU-Net)",
        partial(run_function, chosen.machine, published_metrics, **call),
        partial(run_function, chosen.machine, segflow_metrics, **call),
    )
    record.check(f"{what}: times quicker", median_seconds(theirs) / median_seconds(ours), at_least=QUICKER_ALL)
    expected, found = theirs[0].value, ours[0].value
    apart = max(abs(a - b) for case in expected for a, b in zip(expected[case], found[case], strict=True))
    record.check(f"{what}: largest difference of a score", apart, at_most=1e-6)


def _hippocampus(chosen: Options) -> tuple[Path, Path]:
    """The labels, and the same moved by a voxel and with some voxels lost."""
    reference, prediction = (chosen.work / "hippocampus" / name for name in ("reference", "prediction"))
    generator = np.random.default_rng(0)
    for folder in (reference, prediction):
        folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((chosen.data / HIPPOCAMPUS / "labelsTr").glob("*.nii.gz"))[: 6 if chosen.quick else None]:
        image = sitk.ReadImage(str(file))
        label = sitk.GetArrayFromImage(image)
        (reference / file.name).unlink(missing_ok=True)
        (reference / file.name).symlink_to(file.resolve())
        moved = np.roll(label, generator.integers(-1, 2, 3), (0, 1, 2))
        moved[generator.random(moved.shape) < 0.05] = 0
        _write(moved, prediction / file.name, image)
    return reference, prediction


def _large(chosen: Options, shape: tuple[int, int, int]) -> tuple[Path, Path]:
    """Maps of ellipsoids, and the same moved by two voxels."""
    reference, prediction = (chosen.work / "large" / name for name in ("reference", "prediction"))
    generator = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    for number in range(LARGE_CASES):
        label = np.zeros(shape, np.uint8)
        for value in range(1, LARGE_LABELS + 1):
            centre, radii = generator.uniform(-0.7, 0.7, 3), generator.uniform(0.1, 0.35, 3)
            label[sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1] = value
        for array, folder in ((label, reference), (np.roll(label, 2, (0, 1, 2)), prediction)):
            folder.mkdir(parents=True, exist_ok=True)
            _write(array, folder / f"case_{number}.nii.gz")
    return reference, prediction


def _surface(record: Record, chosen: Options) -> None:
    masks = chosen.work / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    shape = (20, 40, 40) if chosen.quick else (60, 160, 160)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    spacings = ((1.0, 1.0, 1.0), (5.0, 1.5, 1.5), (2.0, 0.77, 0.77), (0.5, 1.0, 2.0))
    for number, spacing in enumerate(spacings):
        pair = []
        for shift in (0.0, 0.1):
            radii, centre = generator.uniform(0.3, 0.6, 3), generator.uniform(-0.2, 0.2, 3) + shift
            pair.append(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1)
        np.savez(masks / f"{number}.npz", reference=pair[0], prediction=pair[1], spacing=np.array(spacing))
    what = f"{len(spacings)} pairs of masks, surfaces"
    ours = partial(run_function, chosen.machine, segflow_surface, masks=masks)
    if importlib.util.find_spec("surface_distance") is None:
        record.alone(what, ours)
        record.note("The surface-distance package is not installed; its values were not compared.")
        return
    expected, found = record.compare(
        f"{what} (surface-distance in place of nnU-Net)",
        partial(run_function, chosen.machine, published_surface, masks=masks),
        ours,
    )
    pairs = zip(expected[0].value, found[0].value, strict=True)
    apart = max(abs(theirs[name] - own[name]) for theirs, own in pairs for name in theirs)
    record.check(f"{what}: largest difference from surface-distance", apart, at_most=1e-6)
    if math.isnan(apart):
        record.note("A surface metric is not a number.")


def _write(label: np.ndarray, file: Path, like: sitk.Image | None = None) -> None:
    image = sitk.GetImageFromArray(label)
    if like is not None:
        image.CopyInformation(like)
    sitk.WriteImage(image, str(file))


if __name__ == "__main__":
    main()
