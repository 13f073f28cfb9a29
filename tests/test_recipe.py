"""docs/recipe.md has every section that the code cites."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
CITING = [
    file
    for folder in ("segflow", "conf", "tests", "benchmarks")
    for suffix in ("py", "yaml", "md")
    for file in (ROOT / folder).rglob(f"*.{suffix}")
] + [ROOT / "README.md"]

NUMBER = r"\d+(?:\.\d+)?"
CITATION = re.compile(rf"recipe(?:'s)?\s+\(?({NUMBER}(?:(?:,| to| and|;)\s+{NUMBER})*)", re.IGNORECASE)
VECTOR = re.compile(r"recipe[^.\n]*\b(B\d+)\b", re.IGNORECASE)


def _citations(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Cited number → the files that cite it."""
    found: dict[str, list[str]] = {}
    for file in CITING:
        for match in pattern.finditer(file.read_text(encoding="utf-8")):
            for number in re.findall(r"B?\d+(?:\.\d+)?", match[1]):
                found.setdefault(number, []).append(str(file.relative_to(ROOT)))
    return found


def test_every_cited_section_is_a_heading() -> None:
    headings = set(re.findall(rf"^#+ ({NUMBER})\.? ", RECIPE, re.MULTILINE))
    cited = _citations(CITATION)
    assert len(cited) > 30
    assert {number: files for number, files in cited.items() if number not in headings} == {}


def test_every_cited_vector_is_there() -> None:
    vectors = set(re.findall(r"^\* \*\*(B\d+)\*\*", RECIPE, re.MULTILINE))
    assert {number: files for number, files in _citations(VECTOR).items() if number not in vectors} == {}
