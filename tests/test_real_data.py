"""The main job on real hippocampus cases, from the decathlon's layout to scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

NAME = "Dataset004_Hippocampus"


def segflow(folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "SEGFLOW_"))}
    command = [sys.executable, "-m", "segflow.apps.main", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


def test_ten_hippocampi_go_from_the_decathlon_to_scores(test_data: Path, tmp_path: Path) -> None:
    segflow(tmp_path, "convert", f"source={test_data / 'Task04_Hippocampus'}")
    raw = tmp_path / "data" / "raw" / NAME
    description = json.loads((raw / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "Anterior": 1, "Posterior": 2}
    table = segflow(tmp_path, "plan", f"dataset={NAME}", "planner.base_features=8")
    assert "40 × 56 × 40" in table
    segflow(tmp_path, "preprocess", f"dataset={NAME}", "configurations=[3d_fullres]")
    scores = segflow(
        tmp_path,
        "train",
        f"dataset={NAME}",
        "configuration=3d_fullres",
        "fold=0",
        "trainer.max_epochs=4",
        "trainer.limit_train_batches=10",
        "trainer.limit_val_batches=2",
        "inference.mirroring=false",
    )
    assert "Anterior" in scores
    assert "Posterior" in scores
    run = tmp_path / "outputs" / NAME / "nnUNetPlans" / "3d_fullres" / "default" / "fold_0"
    history = (run / "metrics.csv").read_text().splitlines()
    columns = history[0].split(",")
    losses = [float(line.split(",")[columns.index("train/loss")]) for line in history[1:]]
    assert losses[-1] < losses[0]
    summary = json.loads((run / "validation" / "summary.json").read_text())
    assert summary["foreground_mean"]["n_ref"] > 0
    for file in (run / "validation").glob("hippocampus_*.nii.gz"):
        image = sitk.ReadImage(str(raw / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz")))
        label = sitk.ReadImage(str(file))
        assert label.GetSize() == image.GetSize()
        assert np.allclose(label.GetOrigin(), image.GetOrigin())
        assert np.allclose(label.GetDirection(), image.GetDirection())
        assert set(np.unique(sitk.GetArrayFromImage(label))) <= {0, 1, 2}
