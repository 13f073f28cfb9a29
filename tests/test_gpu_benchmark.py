"""The benchmark of a GPU goes through all its pieces on a CPU, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("facts", "agreement", "steps", "passes", "prepare", "epoch", "waits", "data", "predict")


def start(work: Path, *arguments: str) -> str:
    script = ROOT / "benchmarks" / "gpu.py"
    words = ["--quick", "--device", "cpu", "--alone", "--work", str(work), *arguments]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def results(work: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work / "pieces.json").read_text())
    return found


def test_every_piece_runs_and_is_not_run_again(tmp_path: Path) -> None:
    first = start(tmp_path, "--only", *GROUPS, "--minutes", "0")  # time for one piece only
    assert list(results(tmp_path)) == ["facts"]
    assert "start it again" in first
    start(tmp_path, "--only", *GROUPS, "--output", str(tmp_path / "gpu.json"))
    found = results(tmp_path)
    assert not {name: one["error"] for name, one in found.items() if "error" in one}
    assert {name.partition(":")[0] for name in found} == set(GROUPS)
    content = json.loads((tmp_path / "gpu.json").read_text())
    exact = {v["what"]: v["segflow"] for v in content["values"] if "32-true" in v["what"] and "labels" in v["what"]}
    assert exact
    assert set(exact.values()) == {1.0}  # the CPU agrees with itself
    last = start(tmp_path, "--only", *GROUPS)
    assert " …" not in last  # nothing was begun


def test_a_piece_that_fails_is_noted_and_tried_once_more(tmp_path: Path) -> None:
    (tmp_path / "segflow_preprocessed").write_text("a file where a folder should be")
    for attempt in (1, 2):
        told = start(tmp_path, "--only", "prepare")
        (result,) = results(tmp_path).values()
        assert result["attempts"] == attempt
        assert "Not a directory" in result["error"]
        assert "prepare: hippocampus" in told
    assert " …" not in start(tmp_path, "--only", "prepare")
