"""The notebook runs from top to bottom, without Jupyter, and is stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import forked_commands
from pages import CONF, clean_environment

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_its_cells_run_in_order(raw_workspace: Path) -> None:
    code = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
    script = raw_workspace / "notebook.py"
    script.write_text("\n\n".join(code), encoding="utf-8")
    environment = {**clean_environment(), "SEGFLOW_CONF": str(CONF), "MPLBACKEND": "Agg"}
    ran = forked_commands.run(raw_workspace, environment=environment, script=script, seconds=300)
    assert ran.returncode == 0, f"{ran.stderr}\n{ran.stdout}"
    assert "3d_fullres: made, since the dataset is 3D" in ran.stdout
    assert "label 1: Dice" in ran.stdout


def test_it_is_stored_without_outputs() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) >= 6
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]
