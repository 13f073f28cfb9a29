"""Modules that nobody uses are not loaded, and those that somebody uses are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(script: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(folder)})


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """``outer`` imports ``inner`` and asks whether it has an old name, which it has not."""
    (tmp_path / "inner.py").write_text("value = 3")
    (tmp_path / "outer.py").write_text("import inner\nhas_old = hasattr(inner, 'old')\ndef get(): return inner.value")
    return tmp_path


def test_a_module_that_is_used_while_it_is_imported_is_loaded_then(modules: Path) -> None:
    (modules / "user.py").write_text("import inner\nfrom inner import value\nagain = inner.value")
    script = """
import sys
from segflow.execution.late_modules import loaded_when_used

with loaded_when_used("inner"):
    import user
assert user.value == user.again == 3
assert "inner" in sys.modules and type(sys.modules["inner"]) is type(sys)
"""
    run(script, modules)


def test_what_is_known_of_it_does_not_load_it(modules: Path) -> None:
    script = """
import inspect, sys
from segflow.execution.late_modules import loaded_when_used

with loaded_when_used("inner", old=None):
    import outer
    inspect.getmodule(sys._getframe())  # asks every module for its file
assert "inner" not in sys.modules
assert outer.has_old
assert outer.get() == 3
import inner
assert not hasattr(inner, "old")
"""
    run(script, modules)


def test_lightning_comes_without_signal_processing(tmp_path: Path) -> None:
    script = """
import sys
from segflow.apps import _training

assert "torchmetrics" in sys.modules
assert "scipy.signal" not in sys.modules
import scipy.signal

assert scipy.signal.windows.hamming(3).size == 3
"""
    run(script, tmp_path)
