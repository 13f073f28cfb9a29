"""Pages about the method, large projects, results and TensorBoard: what they show is understood or runs."""

from __future__ import annotations

import re
from pathlib import Path

import pages
import pytest


@pytest.mark.parametrize("page", ["recipe.md", "results.md"])
def test_pages_without_commands(page: str, tmp_path: Path) -> None:
    assert not pages.run_page(page, tmp_path).commands


def test_the_plan_for_large_projects(workspace: Path) -> None:
    ran = pages.run_page("scale.md", workspace)
    assert re.search(r"\d", ran.output("sizes.py"))


def test_tensorboard(workspace: Path) -> None:
    pages.run_page("guides/tensorboard.md", workspace)
