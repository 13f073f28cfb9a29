"""The guide of the losses: its commands work, and its table names what is shipped."""

from __future__ import annotations

import csv
from pathlib import Path

import forked_commands
import pytest
from pages import CONF, DOCS, PHANTOM, ROOT, clean_environment, run_page

FOLD = Path("outputs") / PHANTOM / "nnUNetPlans" / "3d_fullres"


def test_a_blend_is_trained_and_its_terms_are_logged(workspace: Path) -> None:
    run_page("guides/losses.md", workspace)
    rows = list(csv.DictReader((workspace / FOLD / "mine" / "fold_0" / "metrics.csv").open()))
    assert float(rows[0]["loss_weight/dice_ce"]) == 1
    assert {"loss_weight/surface", "train/loss/dice_ce", "val/loss/dice_ce"} <= set(rows[0])


def test_every_shipped_loss_of_a_paper_stands_in_the_guide() -> None:
    text = (DOCS / "guides" / "losses.md").read_text(encoding="utf-8")
    nnunets = {"ce", "dice", "dice_ce_no_smooth", "dice_topk10", "topk10", "topk10_smoothed", "blend"}
    shipped = {file.stem for file in (ROOT / "conf" / "loss").glob("*.yaml")} - nnunets
    assert [name for name in sorted(shipped) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("loss", ["focal", "dice_ce_boundary", "dice_cldice"])
def test_losses_train_on_a_small_patch(workspace: Path, loss: str) -> None:
    words = ["train", "dataset=phantom", "fold=0", f"loss={loss}", f"run_name={loss}", "validation=false"]
    environment = {**clean_environment(), "SEGFLOW_CONF": str(CONF)}
    result = forked_commands.run(workspace, *words, environment=environment, seconds=200)
    assert result.returncode == 0, result.stderr
    assert (workspace / FOLD / loss / "fold_0" / "finished.json").is_file()
