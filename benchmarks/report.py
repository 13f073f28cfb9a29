"""Write the figures of results/*.json into README.md, between its markers, here and above, and into docs/results.md.

With ``--check`` nothing is written: it fails if a file is not what it would write.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from record import RESULTS, table_of_checks, table_of_rows, table_of_values
from results_page import PICTURES, pictures, results_page, summary_table

DOCS = RESULTS.parent.parent / "docs"
README = RESULTS.parent / "README.md"
FRONT = RESULTS.parent.parent / "README.md"
RECIPES = RESULTS.parent / "recipes.json"
MARKERS = "<!-- results:{name} -->", "<!-- end -->"


def render(content: dict[str, Any]) -> str:
    """Markdown of one benchmark's result."""
    machine, packages, load = content["machine"], content["versions"], content["load_average"]
    cores = len(machine["cores_used"])
    parts = [
        f"{content['started']} UTC, `{content['command']}`: {machine['processor']}, {cores} of "
        f"{machine['processors']} cores, {machine['threads']} threads, {machine['memory_gb']:g} GB, "
        f"{machine['gpu'] or 'no GPU'}; Python {machine['python']}, torch {packages['torch']}, nnunetv2 "
        f"{packages['nnunetv2']}, segflow {packages['segflow']} ({packages['segflow_commit']}); load average "
        f"{load['before'][0]:.1f} before, {load['after'][0]:.1f} after."
    ]
    for header, cells in (table_of_checks(content), table_of_rows(content), table_of_values(content)):
        if cells:
            parts.append(_table(header, cells))
    if content["notes"]:
        parts.append("\n".join(f"- {note}" for note in content["notes"]))
    return "\n\n".join(parts)


def update(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The README with the results in their places.

    Raises:
        SystemExit: It has no place for one of them.
    """
    for name, content in results.items():
        text = with_block(text, name, render(content))
    return text


def with_block(text: str, name: str, block: str) -> str:
    """A README with a text between the markers of a name."""
    start, end = MARKERS[0].format(name=name), MARKERS[1]
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no '{start}' … '{end}'")
    return pattern.sub(lambda _: f"{start}\n{block}\n{end}", text)


def _table(header: list[str], cells: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def written(results: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """Every file that comes from the results → its text."""
    drawn = {DOCS / PICTURES / name: svg for name, svg in pictures(results).items()}
    page = results_page(results, render, RESULTS.parent)
    front = with_block(FRONT.read_text(encoding="utf-8"), "glance", summary_table(results))
    own = update(README.read_text(encoding="utf-8"), results)
    tried = with_block(RECIPES.with_suffix(".md").read_text(encoding="utf-8"), "recipes", recipes_table())
    return {FRONT: front, README: own, RECIPES.with_suffix(".md"): tried, DOCS / "results.md": page, **drawn}


def recipes_table() -> str:
    """What was tried for the fast recipe: a row for each training."""
    rows = json.loads(RECIPES.read_text(encoding="utf-8"))
    header = ["subject", "settings", "seed", "iterations", "features", "cases", "Dice", "s per iteration"]
    keys = ("subject", "recipe", "seed", "iterations", "features", "cases", "dice", "seconds")
    return _table(header, [[str(row[key]) for key in keys] for row in rows])


def main() -> None:
    """Read every result, write README and page."""
    results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}
    quick = [name for name, content in results.items() if content["quick"]]
    if quick or not results:
        raise SystemExit(f"quick runs are no results: {', '.join(quick)}" if quick else f"nothing in {RESULTS}")
    files = written(results)
    if "--check" in sys.argv[1:]:
        old = [file.name for file, text in files.items() if not file.is_file() or file.read_text("utf-8") != text]
        raise SystemExit(f"not up to date: {', '.join(old)}. Run: python benchmarks/report.py" if old else 0)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{', '.join(file.name for file in files)}: {', '.join(results)}\n")


if __name__ == "__main__":
    main()
