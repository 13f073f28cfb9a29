"""The notebook is stored without outputs, and its links lead to files."""

from __future__ import annotations

import json
import re

from pages import DOCS

CELLS = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]


def test_it_is_stored_without_outputs() -> None:
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert len(code) >= 6
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]


def test_its_links_lead_to_files() -> None:
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    assert not [link for link in links if not (DOCS / link).is_file()]
