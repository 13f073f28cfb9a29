"""The site of the documents builds, strictly, and no link within it is broken. Nothing is asked of the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest

CHECK = pages.ROOT / "scripts" / "check_site.py"


def test_the_site_builds_without_a_warning_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the group docs is not installed")
    shutil.copytree(pages.DOCS, tmp_path / "docs")
    shutil.copy(pages.ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    environment = {**os.environ, "PYTHONPATH": str(pages.ROOT), "NO_COLOR": "1"}
    built = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "build" / "site"
    checked = subprocess.run([sys.executable, CHECK, site], capture_output=True, text=True, check=False, timeout=100)
    assert checked.returncode == 0, checked.stdout
    text = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in ("segflow.plan", "segflow.train", "segflow.evaluate", "segflow.inference.predictor.Predictor.predict"):
        assert f'id="{name}"' in text, f"the page of the Python API lacks {name}"
    assert "Mean foreground Dice" in text or "mean foreground Dice" in text  # docstrings arrive


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("other/", ""),
        ("other/#here", ""),
        ("#there", ""),
        ("https://example.org/nowhere", ""),
        ("nowhere/", "index.html: nowhere/\n"),
        ("other/#nowhere", "index.html: other/#nowhere (no such place on the page)\n"),
    ],
)
def test_broken_links_are_named(link: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text('<h1 id="here">Here</h1>', encoding="utf-8")
    (tmp_path / "index.html").write_text(f'<h1 id="there">There</h1><a href="{link}">x</a>', encoding="utf-8")
    checked = subprocess.run([sys.executable, CHECK, tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout) == (1 if told else 0, told)
