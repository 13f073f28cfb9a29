"""The command lines of the page about reports are right."""

from __future__ import annotations

from pathlib import Path

from pages import run_page


def test_the_page_about_reports(workspace: Path) -> None:
    run_page("guides/report.md", workspace)
