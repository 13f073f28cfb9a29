"""The tutorial and its notebook run from a raw dataset to the end, the notebook without Jupyter."""

from __future__ import annotations

import json
from pathlib import Path

import forked_commands
from pages import CONF, DOCS, PHANTOM, clean_environment, run_page


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


def test_the_notebook_runs_cell_by_cell(raw_workspace: Path) -> None:
    cells = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    script = raw_workspace / "notebook.py"
    script.write_text("\n\n".join(code), encoding="utf-8")
    environment = {**clean_environment(), "SEGFLOW_CONF": str(CONF), "MPLBACKEND": "Agg"}
    ran = forked_commands.run(raw_workspace, environment=environment, script=script, seconds=300)
    assert ran.returncode == 0, f"{ran.stderr}\n{ran.stdout}"
    assert "3d_fullres: made, since the dataset is 3D" in ran.stdout
    assert "label 1: Dice" in ran.stdout
