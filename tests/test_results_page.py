"""The page of results is what benchmarks/report.py writes from the results, and nothing is left out of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def report(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(root / "benchmarks" / "report.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_page_readme_and_pictures_are_what_the_report_writes() -> None:
    done = report(ROOT, "--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_result_changes_the_page(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    shutil.copytree(ROOT / "docs" / "pictures", tmp_path / "docs" / "pictures")
    shutil.copy(ROOT / "docs" / "results.md", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    file = tmp_path / "benchmarks" / "results" / "accuracy.json"
    content = json.loads(file.read_text())
    content["machine"]["processor"] = "another"
    file.write_text(json.dumps(content))
    assert "README.md, results.md" in report(tmp_path, "--check").stderr
    assert report(tmp_path).returncode == 0
    assert report(tmp_path, "--check").returncode == 0
    assert "another" in (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_every_result_stands_in_the_page_with_machine_commit_date_and_command(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    machine = content["machine"]["gpu"] or content["machine"]["processor"]
    for text in (f"`{content['command']}`", machine, content["versions"]["segflow_commit"], content["started"]):
        assert text in PAGE
    rows = [[cell.strip() for cell in line.split("|")] for line in PAGE.splitlines()]
    told = {(row[1], row[3], row[4]) for row in rows if len(row) == 6}
    for check in content["checks"]:
        assert (check["what"], check["bar"], "pass" if check["passed"] else "FAIL") in told


def test_pictures_are_images() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("results_*.svg"))
    assert len(pictures) == 2 + ("dice_per_minute" in [file.stem for file in RESULTS])
    for file in pictures:
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        assert f"pictures/{file.name}" in PAGE
