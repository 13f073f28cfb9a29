"""What the benchmarks work on: real datasets in nnU-Net's layout, a CT phantom of a given size, and common plans."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from segflow.core.split_cases import SplitSettings, make_splits
from segflow.core.splits import splits_to_json
from segflow.planning.plan_dataset import plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

HIPPOCAMPUS, ACDC, CT_117 = "Dataset004_Hippocampus", "Dataset027_ACDC", "Dataset141_TotalSegCT"
LITS_SHAPE, LITS_SPACING = (450, 512, 512), (1.0, 0.77, 0.77)
QUICK_SHAPE = (60, 64, 64)


def link_dataset(source: Path, raw_root: Path, cases: int | None = None) -> Path:
    """A raw dataset of the first cases of another one, by symbolic links.

    Args:
        source: A dataset in nnU-Net's layout.
        raw_root: The new dataset's folder is made in here, under the same name.
        cases: How many; None takes all.

    Raises:
        SystemExit: There is no such dataset.
    """
    if not source.is_dir():
        raise SystemExit(f"there is no {source}: set --data or SEGFLOW_TEST_DATA to the folder of datasets")
    description = read_json(source / "dataset.json")
    ending = description["file_ending"]
    labels = sorted((source / "labelsTr").glob(f"*{ending}"))[:cases]
    target = raw_root / source.name
    shutil.rmtree(target, ignore_errors=True)
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    for label in labels:
        (target / "labelsTr" / label.name).symlink_to(label.resolve())
        for image in (source / "imagesTr").glob(f"{label.name.removesuffix(ending)}_????{ending}"):
            (target / "imagesTr" / image.name).symlink_to(image.resolve())
    write_json(target / "dataset.json", {**description, "numTraining": len(labels)})
    return target


def share_plans(source: Path, raw: Path, work: Path, settings: PlannerSettings | None = None) -> tuple[Path, Path]:
    """Give both sides the same plans, fingerprint and splits.

    Args:
        source: The dataset that is planned for.
        raw: The same dataset, perhaps of a few cases: plans for those alone would have small batches.
        work: Where ``nnUNet_preprocessed`` and ``segflow_preprocessed`` are.
        settings: Of the planner; None takes the defaults.

    Returns:
        nnU-Net's and segflow's folder of the preprocessed dataset.
    """
    planned = work / "plans" / source.name
    plan_dataset(source, planned, settings or PlannerSettings())
    ending = read_json(raw / "dataset.json")["file_ending"]
    case_ids = [file.name.removesuffix(ending) for file in (raw / "labelsTr").iterdir()]
    file = planned / "splits_final.json"
    splits = read_json(file) if file.is_file() else []  # there are none of few cases
    if splits and {case for split in splits for case in (*split["train"], *split["val"])} != set(case_ids):
        splits = splits_to_json(make_splits(case_ids, SplitSettings()))
    targets = (work / "nnUNet_preprocessed" / source.name, work / "segflow_preprocessed" / source.name)
    for target in targets:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(raw / "dataset.json", target / "dataset.json")
        for name in ("nnUNetPlans.json", "dataset_fingerprint.json"):
            shutil.copyfile(planned / name, target / name)
        if splits:
            write_json(target / "splits_final.json", splits)
    return targets


def write_phantom(raw_root: Path, shape: Sequence[int], spacing: Sequence[float], *, seed: int = 0) -> Path:
    """A CT dataset of one case: body, liver and tumours on a smooth background, noise, no voxel alike.

    Args:
        raw_root: The dataset's folder is made in here.
        shape: Voxels along z, y, x.
        spacing: mm along z, y, x.
        seed: Of everything in it.
    """
    folder = raw_root / "Dataset901_PhantomCT"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    image, label = _phantom(shape, seed)
    for array, file in ((image, "imagesTr/phantom_0000.nii.gz"), (label, "labelsTr/phantom.nii.gz")):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(tuple(reversed([float(s) for s in spacing])))
        sitk.WriteImage(volume, str(folder / file), useCompression=True, compressionLevel=1)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def lits_fingerprint(file: Path) -> Path:
    """A fingerprint like that of the liver tumour challenge: 131 cases, 0.77 × 0.77 × 1.5 mm in the median."""
    channel = {
        "max": 5420.0,
        "mean": 99.5,
        "median": 101.0,
        "min": -983.0,
        "percentile_00_5": -15.0,
        "percentile_99_5": 197.0,
        "std": 37.1,
    }
    write_json(
        file,
        {
            "foreground_intensity_properties_per_channel": {"0": channel},
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": [[300, 512, 512]] * 131,
            "spacings": [[1.5, 0.77, 0.77]] * 131,
        },
    )
    return file


def _phantom(shape: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int16 image (Z, Y, X) in HU and uint8 label, made slice by slice."""
    generator = np.random.default_rng(seed)
    depth, height, width = shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    waves = generator.uniform(2, 9, (6, 3))
    phases = generator.uniform(0, 2 * np.pi, 6)
    centres = generator.uniform(-0.25, 0.25, (8, 3)) + (0, 0.05, -0.35)
    radii = generator.uniform(0.04, 0.1, 8)
    image = np.empty(shape, np.int16)
    label = np.zeros(shape, np.uint8)
    for index, z in enumerate(np.linspace(-1, 1, depth)):
        smooth = sum(np.sin(a * z + b * y + c * x + phase) for (a, b, c), phase in zip(waves, phases, strict=True))
        body = (y / 0.75) ** 2 + (x / 0.9) ** 2 < 1
        liver = (z / 0.6) ** 2 + ((y - 0.05) / 0.45) ** 2 + ((x + 0.35) / 0.4) ** 2 < 1
        tumour = np.zeros_like(liver)
        for (cz, cy, cx), radius in zip(centres, radii, strict=True):
            tumour |= (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        tumour &= liver
        values = np.where(body, 20 + 25 * smooth, -1000.0)
        values = np.where(liver & body, 110 + 4 * smooth, values) - 45.0 * tumour
        image[index] = np.rint(values + generator.normal(0, 12, values.shape)).clip(-1024, 3071)
        label[index] = liver & body
        label[index][tumour & body] = 2
    return image, label


def default_augmentation() -> Any:
    """segflow's default augmentation, as ``segflow train`` builds it; to be called with a patch size."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from segflow.apps import _shipped

    with initialize_config_dir(version_base="1.3", config_dir=str(_shipped.config_dir())):
        return instantiate(compose(overrides=["+augmentation=nnunet"]).augmentation, _convert_="all")
