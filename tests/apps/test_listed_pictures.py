"""JPEG pictures with PNG masks, listed where they lie, from ``segflow convert`` to scored predictions."""

from __future__ import annotations

import json
from pathlib import Path

from apps_commands import start
from PIL import Image

TINY = ["planner.base_features=4", "planner.max_features_2d=8"]
NAME = "Dataset042_Pictures"


def run(folder: Path, *arguments: str) -> str:
    result = start(folder, *arguments)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


def test_jpeg_pictures_with_png_masks(test_data: Path, tmp_path: Path) -> None:
    nuclei = test_data / "Dataset123_Nuclei"
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for mask in sorted((nuclei / "labelsTr").iterdir())[:6]:
        picture = Image.open(nuclei / "imagesTr" / f"{mask.stem}_0000.png").convert("RGB")
        picture.crop((0, 0, 96, 96)).save(tmp_path / "photos" / f"{mask.stem}.jpg")
        Image.open(mask).crop((0, 0, 96, 96)).save(tmp_path / "masks" / mask.name)
    patterns = ["images.RGB=photos/{case}.jpg", "label=masks/{case}.png", "channels=[R,G,B]"]
    run(tmp_path, "convert", *patterns, "dataset_id=42", "name=Pictures", "labels={background:0,nucleus:1}")
    raw = tmp_path / "data/raw" / NAME
    description = json.loads((raw / "dataset.json").read_text())
    assert (description["file_ending"], description["label_file_ending"]) == (".jpg", ".png")
    assert description["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    run(tmp_path, "plan", "dataset=42", *TINY, "processes=0")
    run(tmp_path, "preprocess", "dataset=42", "configurations=[2d]", "preprocessing.processes=0")
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
    run(
        tmp_path,
        "train",
        "dataset=42",
        "configuration=2d",
        "configuration.batch_size=2",
        *short,
        "inference.mirroring=false",
    )
    fold = tmp_path / "outputs" / NAME / "nnUNetPlans/2d/default/fold_0"
    assert json.loads((fold / "validation/summary.json").read_text())["metric_per_case"]
    assert {file.suffix for file in (fold / "validation").glob("nuc_*")} == {".png"}
