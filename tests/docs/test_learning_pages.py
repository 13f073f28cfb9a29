"""The commands of the first page and of the pages that explain run, in order, and do what the pages say of them."""

from __future__ import annotations

import json
from pathlib import Path

from pages import run_page


def test_the_first_page(raw_workspace: Path) -> None:
    run_page("index.md", raw_workspace)


def test_how_the_configuration_is_composed(workspace: Path) -> None:
    ran = run_page("explained/configuration.md", workspace)
    assert "_target_: torch.optim.AdamW\n_partial_: true\nlr: 0.001" in ran.output("--package optimizer")
    assert "experiment: fine_tune" in ran.output("--info defaults-tree")
    assert "max_epochs: 300" in ran.output("trainer=thesis")


def test_how_planning_decides(workspace: Path) -> None:
    ran = run_page("explained/planning.md", workspace)
    assert "s / iteration" in ran.output("estimate_time")
    prepared = workspace / "data" / "preprocessed" / "Dataset001_Phantom"
    assert "for people: nothing reads this file" in (prepared / "plans11GB.md").read_text(encoding="utf-8")
    assert "## Time of a training" in (prepared / "timed.md").read_text(encoding="utf-8")


def test_what_is_measured(workspace: Path) -> None:
    run_page("explained/measurement.md", workspace)
    scores = json.loads((workspace / "scores" / "summary.json").read_text())
    assert "hd95_mm" in scores["foreground_mean"]
