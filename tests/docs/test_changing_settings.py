"""The page's table of groups names options that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guides" / "changing_settings.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`[a-z]+`(?:, `[a-z]+`)*) \| ([^|]*) \|", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize(("groups", "options"), ROWS)
def test_the_groups_have_the_options_that_the_page_names(groups: str, options: str) -> None:
    shipped = set()
    for group in re.findall(r"`(\w+)`", groups):
        assert (ROOT / "conf" / group).is_dir(), group
        shipped |= {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", options)) <= shipped


def test_the_table_is_found() -> None:
    assert len(ROWS) >= 8
