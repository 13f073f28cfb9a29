"""The commands of the pages that teach run, in order, and do what the pages say of them."""

from __future__ import annotations

import json
from pathlib import Path

from pages import PHANTOM, run_page


def test_the_first_page(raw_workspace: Path) -> None:
    run_page("index.md", raw_workspace)


def test_the_tutorial_goes_from_a_raw_dataset_to_a_model_in_one_file(raw_workspace: Path) -> None:
    ran = run_page("tutorial.md", raw_workspace)
    run = raw_workspace / "outputs" / PHANTOM / "nnUNetPlans" / "3d_fullres" / "default"
    assert "nothing is wrong" in ran.output("segflow doctor")
    assert [fold.name for fold in sorted(run.glob("fold_*"))] == ["fold_0", "fold_1"]
    assert "2d + 3d_fullres" in ran.output("segflow select")
    assert "Dice" in ran.output("segflow evaluate")
    assert (run / "report.html").is_file()
    images = {file.name.replace("_0000", "") for file in (raw_workspace / "data/raw" / PHANTOM / "imagesTs").iterdir()}
    for folder in ("predictions/final", "from_bundle"):
        assert {file.name for file in (raw_workspace / folder).glob("*.nii.gz")} == images


def test_how_the_configuration_is_composed(workspace: Path) -> None:
    ran = run_page("explained/configuration.md", workspace)
    assert "_target_: torch.optim.AdamW\n_partial_: true\nlr: 0.001" in ran.output("--package optimizer")
    assert "experiment: fine_tune" in ran.output("--info defaults-tree")
    assert "max_epochs: 300" in ran.output("trainer=thesis")


def test_how_planning_decides(workspace: Path) -> None:
    run_page("explained/planning.md", workspace)
    prepared = workspace / "data" / "preprocessed" / "Dataset001_Phantom"
    assert "for people: nothing reads this file" in (prepared / "plans11GB.md").read_text(encoding="utf-8")


def test_what_is_measured(workspace: Path) -> None:
    run_page("explained/measurement.md", workspace)
    scores = json.loads((workspace / "scores" / "summary.json").read_text())
    assert "hd95_mm" in scores["foreground_mean"]
