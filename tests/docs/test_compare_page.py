"""The command lines of the page about comparisons are right."""

from __future__ import annotations

from pathlib import Path

from pages import run_page


def test_the_page_about_comparisons(workspace: Path) -> None:
    ran = run_page("guides/compare.md", workspace)
    assert "3d_fullres/low_rate" in ran.output("compare")
    folder = workspace / "outputs/Dataset001_Phantom/comparisons/3d_fullres-default_3d_fullres-low_rate"
    assert (folder / "comparison.csv").is_file()
