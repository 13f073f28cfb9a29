"""Patches per second of one core: reading, sampling and full augmentation, beside nnU-Net's loader with
batchgeneratorsv2; and the augmentation alone, on patches in memory.

nnU-Net's pipeline also halves the label map for each level of deep supervision, as it does by default; segflow leaves
that to the loss. Patches are drawn, so that the seconds vary from run to run; compare medians.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from inputs import default_augmentation
from measure import Machine, Measured, Meter, run_function
from record import OURS, REFERENCE, Options, Record, median_seconds, options

from segflow.core.labels import Labels

LABELS = {"background": 0, "organ": 1, "lesion": 2}
QUICKER = 3.0


class Task(NamedTuple):
    """One kind of patches.

    Attributes:
        patch: Voxels that the network sees.
        batch: Patches of a batch.
        levels: Outputs of deep supervision.
        shape: Voxels of a stored case.
        cases: How many are stored.
        patches: To draw in a run.
    """

    patch: tuple[int, int, int]
    batch: int
    levels: int
    shape: tuple[int, int, int]
    cases: int
    patches: int


TASKS = {
    "128": Task((128, 128, 128), 2, 5, (240, 320, 320), 4, 60),
    "40": Task((40, 56, 40), 9, 3, (36, 50, 35), 40, 900),
    "quick": Task((32, 32, 32), 2, 3, (50, 60, 60), 2, 8),
}


def make_case(shape: Sequence[int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 (1, Z, Y, X) and label int16 (Z, Y, X): smooth with noise, an ellipsoid with a lesion in it."""
    generator = np.random.default_rng(number)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    centre = generator.uniform(-0.3, 0.3, 3)
    distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    image = np.sin(5 * axes[0] + 3 * axes[1]) * np.cos(4 * axes[2]) + (distance < 0.2)
    image = image + 0.3 * generator.standard_normal(shape, np.float32)
    label = (distance < 0.2).astype(np.int16)
    label[distance < 0.02] = 2
    return image.astype(np.float32)[None], label


def write_cases(meter: Meter, name: str, theirs: str, ours: str) -> None:
    """Store the same cases in both tools' formats."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    from segflow.core.geometry import Box, Geometry
    from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
    from segflow.preprocessing.foreground import draw_foreground_locations, location_keys
    from segflow.storage.preprocessed_store import PreprocessedStore

    task, store, spacing = TASKS[name], PreprocessedStore(Path(ours)), (1.0, 1.0, 1.0)
    Path(theirs).mkdir(parents=True, exist_ok=True)
    keys = location_keys(Labels.from_json(LABELS))
    with meter.section("write"):
        for number in range(task.cases):
            image, label = make_case(task.shape, number)
            spatial = SpatialRecord(
                Geometry(spacing), task.shape, (0, 1, 2), Box.whole(task.shape), spacing, spacing, task.shape
            )
            locations = draw_foreground_locations(label, keys)
            store.write(PreprocessedCase(f"case_{number}", image, label, spatial, locations), task.patch)
            seg = label[None]
            blocks, chunks = comp_blosc2_params(image.shape, task.patch, image.itemsize)
            seg_blocks, seg_chunks = comp_blosc2_params(seg.shape, task.patch, seg.itemsize)
            nnUNetDatasetBlosc2.save_case(
                image,
                seg,
                {"class_locations": DefaultPreprocessor._sample_foreground_locations(seg, [1, 2])},
                str(Path(theirs) / f"case_{number}"),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=seg_chunks,
                blocks_seg=seg_blocks,
            )


def nnunet_loader(meter: Meter, name: str, folder: str) -> dict[str, Any]:
    """nnU-Net's data loader and transforms, called in this thread."""
    import torch
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    task = TASKS[name]
    np.random.seed(0)
    torch.manual_seed(0)
    turn = (-30.0 / 360 * 2.0 * np.pi, 30.0 / 360 * 2.0 * np.pi)
    large = get_patch_size(np.array(task.patch), turn, turn, turn, (0.85, 1.25))
    scales = [[0.5**level] * 3 for level in range(task.levels)]
    transforms = nnUNetTrainer.get_training_transforms(
        np.array(task.patch), turn, scales, (0, 1, 2), False, use_mask_for_norm=[False], foreground_labels=[1, 2]
    )
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(folder),
        task.batch,
        large,
        task.patch,
        LabelManager(LABELS, None),
        oversample_foreground_percent=0.33,
        transforms=transforms,
    )
    next(loader)
    batches = -(-task.patches // task.batch)
    with meter.section("loader"):
        for _ in range(batches):
            next(loader)
    image, label = (torch.from_numpy(array) for array in make_case(large, 0))
    with meter.section("augmentation"), torch.no_grad():
        for _ in range(batches * task.batch):
            transforms(image=image.clone(), segmentation=label[None].clone())
    return {"patches": batches * task.batch, "from": [int(n) for n in large]}


def segflow_loader(meter: Meter, name: str, folder: str) -> dict[str, Any]:
    """segflow's dataset with its augmentation, called in this thread."""
    import torch

    from segflow.network.cpu.allocation import tune_cpu
    from segflow.sampling.patch_dataset import PatchDataset
    from segflow.sampling.patch_sampler import PatchSampler
    from segflow.storage.preprocessed_store import PreprocessedStore

    tune_cpu()  # as `segflow train` does
    task, labels = TASKS[name], Labels.from_json(LABELS)
    augmentation = default_augmentation()(task.patch, labels=labels, use_mask_for_norm=[False], previous_stage=False)
    large = augmentation.loader_patch_size
    store = PreprocessedStore(Path(folder))
    batches = -(-task.patches // task.batch)
    dataset = PatchDataset(
        store,
        store.case_ids(),
        batch_size=task.batch,
        sampler=PatchSampler(large, task.patch, labels=labels),
        seed=0,
        batches_per_epoch=batches,
        transform=augmentation,
    )
    dataset[1, 0]
    with meter.section("loader"):
        for index in range(batches):
            dataset[0, index]
    image, label = (torch.from_numpy(array) for array in make_case(large, 0))
    image, label = image[None].repeat(task.batch, 1, 1, 1, 1), label[None, None].repeat(task.batch, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    with meter.section("augmentation"):
        for _ in range(batches):
            augmentation(image, label, generator)
    return {"patches": batches * task.batch, "from": list(large)}


def main() -> None:
    """Run the chosen tasks on one core with one thread."""
    parts = [name for name in TASKS if name != "quick"]
    with options("loader", __doc__ or "", parts, repeats=5) as chosen:
        machine = Machine(chosen.machine.cores[:1], 1, chosen.machine.variables)
        record = Record("loader", chosen)
        for name in ["quick"] if chosen.quick else [part for part in parts if chosen.wants(part)]:
            _task(record, chosen, machine, name)
        record.note("One core, one thread; batches are made in the measured process itself.")
        record.finish()


def _task(record: Record, chosen: Options, machine: Machine, name: str) -> None:
    task = TASKS[name]
    theirs, ours = chosen.work / f"nnunet_{name}", chosen.work / f"segflow_{name}"
    run_function(machine, write_cases, name=name, theirs=theirs, ours=ours)
    what = "×".join(str(n) for n in task.patch)
    runs = record.compare(
        what,
        partial(run_function, machine, nnunet_loader, name=name, folder=theirs),
        partial(run_function, machine, segflow_loader, name=name, folder=ours),
    )
    large = [run[0].value["from"] for run in runs]
    if large[0] != large[1]:
        record.note(f"{what}: nnU-Net loads patches of {large[0]}, segflow of {large[1]}.")
    for section in ("loader", "augmentation"):
        rates = [_rate(side, section) for side in runs]
        record.value(f"{what}: {section}", unit="patches/s", **{REFERENCE: rates[0], OURS: rates[1]})
        record.check(f"{what}: {section}, times quicker", rates[1] / rates[0], at_least=QUICKER)


def _rate(runs: list[Measured], section: str) -> float:
    return float(runs[0].value["patches"]) / median_seconds(runs, section)


if __name__ == "__main__":
    main()
