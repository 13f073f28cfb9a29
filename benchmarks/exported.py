"""Agreement of exported models with segflow: ``python benchmarks/exported.py DATA [WORK] [--only NAME] [--steps N]``.

Each model is planned and trained on a part of a real dataset, exported as ONNX and as a MONAI bundle, and predicts
other images with segflow, with ``predict_onnx.py`` in isolated Python, and with ``python -m monai.bundle run``. Printed
is the share of voxels with equal labels. With ``--steps 0`` the weights are random: then all labels occur, and many
logits are nearly equal, so that rounding shows more than in a trained model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from PIL import Image

LIMIT = 0.9999


@dataclass(frozen=True)
class Model:
    """A model to train: dataset, cases, configuration and further settings of planning."""

    dataset: str
    cases: int
    configuration: str = "3d_fullres"
    plan: tuple[str, ...] = ()
    regions: bool = False
    held_out: int = 4


MODELS = {
    "hippocampus": Model("Dataset004_Hippocampus", 20),
    "hippocampus_residual": Model("Dataset004_Hippocampus", 20, plan=("planner=resenc",)),
    "hippocampus_regions": Model("Dataset004_Hippocampus", 20, regions=True),
    "hippocampus_2d": Model("Dataset004_Hippocampus", 20, "2d"),
    "acdc": Model("Dataset027_ACDC", 12, held_out=2),
    "nuclei": Model("Dataset123_Nuclei", 24, "2d"),
    "nuclei_residual": Model("Dataset123_Nuclei", 24, "2d", plan=("planner=resenc",)),
}


def segflow(home: Path, *arguments: str) -> None:
    """A command of segflow in a folder."""
    subprocess.run([sys.executable, "-m", "segflow", *arguments], cwd=home, check=True, stdout=subprocess.DEVNULL)


def make_dataset(model: Model, source: Path, home: Path) -> Path:
    """A raw dataset of some cases; the images of others go to a folder that is returned."""
    raw, images = home / "data" / "raw" / model.dataset, home / "images"
    description = json.loads((source / model.dataset / "dataset.json").read_text())
    if model.regions:
        _, second = [name for name in description["labels"] if name != "background"]
        description["labels"] = {"background": 0, "whole": [1, 2], second: 2}
        description["regions_class_order"] = [1, 2]
    for folder in (raw / "imagesTr", raw / "labelsTr", images):
        folder.mkdir(parents=True)
    ending = description["file_ending"]
    labels = sorted(file.name for file in (source / model.dataset / "labelsTr").glob(f"*{ending}"))
    for number, name in enumerate(labels[: model.cases + model.held_out]):
        inside = number < model.cases
        case = name.removesuffix(ending)
        for file in (source / model.dataset / "imagesTr").glob(f"{case}_0*{ending}"):
            shutil.copy(file, raw / "imagesTr" if inside else images)
        if inside:
            shutil.copy(source / model.dataset / "labelsTr" / name, raw / "labelsTr")
    (raw / "dataset.json").write_text(json.dumps({**description, "numTraining": model.cases}))
    return images


def train(model: Model, home: Path, steps: int) -> Path:
    """Train a fold for some steps, or give it random weights. Returns the run's folder."""
    dataset = f"dataset={model.dataset}"
    name = "exportedPlans"
    segflow(home, "plan", dataset, *model.plan, "planner.base_features=8", f"planner.plans_name={name}")
    segflow(home, "preprocess", dataset, f"plans={name}", f"configurations=[{model.configuration}]")
    short = ("trainer.max_epochs=1", f"trainer.limit_train_batches={max(steps, 1)}", "trainer.limit_val_batches=1")
    what = (dataset, f"plans={name}", f"configuration={model.configuration}", "fold=0", "validation=false")
    segflow(home, "train", *what, *short)
    run = home / "outputs" / model.dataset / name / model.configuration / "default"
    if not steps:
        randomize(run / "fold_0" / "checkpoints" / "final.ckpt")
    return run


def randomize(checkpoint: Path) -> None:
    """Add noise to all weights of a checkpoint."""
    torch.manual_seed(0)
    content = torch.load(checkpoint, weights_only=True)
    for value in content["state_dict"].values():
        value.add_(0.1 * torch.randn_like(value))
    torch.save(content, checkpoint)


def share_equal(folder: Path, other: Path) -> tuple[float, int]:
    """Share of voxels that are equal in two folders of label maps, and the number of foreground voxels."""
    equal = total = foreground = 0
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith((".nii.gz", ".png")))
    for name in names:
        one, two = (pixels(place / name) for place in (folder, other))
        equal += int((one == two).sum())
        total += one.size
        foreground += int((one > 0).sum())
    return equal / total, foreground


def pixels(file: Path) -> np.ndarray:
    """The values of a NIfTI or PNG."""
    return np.asarray(Image.open(file) if file.suffix == ".png" else nibabel.load(file).dataobj)


def measure(name: str, model: Model, source: Path, home: Path, steps: int) -> bool:
    """Train, export, predict thrice, and print the agreement."""
    images = make_dataset(model, source, home)
    run = train(model, home, steps)
    segflow(home, "predict", f"model={run}", f"input={images}", f"output={home / 'ours'}")
    good = True
    for kind in ("onnx", "monai"):
        segflow(home, "bundle", "action=export", f"model={run}", f"output={home / kind}", f"format={kind}")
        begin = time.monotonic()
        if kind == "onnx":
            command = [sys.executable, "-I", str(home / kind / "predict_onnx.py"), str(images), str(home / "by_onnx")]
        elif any(images.glob("*.png")):
            continue  # the bundle's transforms read NIfTI
        else:
            command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
            command += ["--dataset_dir", str(images), "--output_dir", str(home / "by_monai")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(command, cwd=home / kind, check=True, capture_output=True, env=environment)
        seconds = time.monotonic() - begin
        for file in (home / "by_monai").glob("*_0000.nii.gz"):
            file.rename(file.with_name(file.name.replace("_0000.nii.gz", ".nii.gz")))
        share, foreground = share_equal(home / "ours", home / f"by_{kind}")
        good &= share >= LIMIT and foreground > 0
        sys.stdout.write(f"{name:22s} {kind:6s} equal {share:.6f}, {foreground} foreground voxels, {seconds:.0f} s\n")
        sys.stdout.flush()
    return good


def main() -> int:
    """The command. Returns 1 if one model agrees too little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the raw datasets")
    parser.add_argument("work", type=Path, nargs="?", default=Path("exported"), help="a new folder to work in")
    parser.add_argument("--only", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=500, help="of training; 0 takes random weights")
    given = parser.parse_args()
    data, work = given.data.resolve(), given.work.resolve()
    results = [measure(name, MODELS[name], data, work / name, given.steps) for name in given.only]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
