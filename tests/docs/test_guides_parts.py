"""The guides about parts of one's own: each file and command of them works as it stands in the page."""

from __future__ import annotations

import json
from pathlib import Path

from pages import PHANTOM, run_page

RUNS = Path("outputs") / PHANTOM / "nnUNetPlans" / "3d_fullres"


def test_a_network_of_ones_own(workspace: Path) -> None:
    run_page("guides/own_network.md", workspace)
    assert list((workspace / "monai").glob("*.nii.gz"))


def test_networks_that_segflow_ships(workspace: Path) -> None:
    run_page("guides/networks.md", workspace)
    assert list((workspace / "pocket").glob("*.nii.gz"))
    assert (workspace / "pocket.segflow").is_file()


def test_a_loss_of_ones_own(workspace: Path) -> None:
    run_page("guides/own_loss.md", workspace)
    fold = workspace / RUNS / "focal" / "fold_0"
    assert (fold / "finished.json").is_file()
    assert "my_losses.Focal" in (fold / "run.json").read_text(), "not the shipped loss of that name"


def test_a_step_of_augmentation_of_ones_own(workspace: Path) -> None:
    run_page("guides/own_augmentation.md", workspace)
    assert (workspace / RUNS / "stripes" / "fold_0" / "finished.json").is_file()


def test_a_reader_normalisation_planner_and_metric_of_ones_own(workspace: Path) -> None:
    run_page("guides/own_data_parts.md", workspace)
    plans = json.loads((workspace / "data" / "preprocessed" / PHANTOM / "smallPlans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [8, 16, 16]
    assert "bias_ml" in (workspace / "predictions" / "summary.json").read_text()


def test_averages_of_weights_and_muon(workspace: Path) -> None:
    run_page("guides/weights.md", workspace)
    assert (workspace / RUNS / "ema" / "fold_0" / "finished.json").is_file()
    assert list((workspace / "predictions").glob("*.nii.gz"))
