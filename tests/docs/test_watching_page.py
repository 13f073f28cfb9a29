"""The page about watching: its command lines are understood, and it shows lines as segflow writes them."""

from __future__ import annotations

from pathlib import Path

import pages


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    pages.run_page("guides/watching.md", tmp_path)
