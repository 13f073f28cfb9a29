"""Writes docs/reference/commands.md and a page for each command, from the sources of ``segflow COMMAND --help``.

``python scripts/write_reference.py`` writes the pages; with ``--check`` it says which of them are out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from pathlib import Path

from segflow.apps import _catalogue, _help, _shipped
from segflow.apps._purposes import COMMANDS

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list of values"}
"""Type of a default → what a value may be, in words, for arguments of other libraries."""
MADE = "<!-- Written by scripts/write_reference.py (make reference) from the code. Do not edit. -->"


def overview() -> str:
    """The page with all commands."""
    rows = [(f"[segflow {name}](commands/{name}.md)", _cell(purpose)) for name, purpose in COMMANDS.items()]
    return f"""# Commands

{MADE}

Each command has a page with its groups, their options, and its settings with meaning, type and default.
`segflow COMMAND --help` prints the same, and `segflow config find=rate` searches the settings of all commands.

{_table(("command", "does"), rows)}

## How a command line is read

* `KEY=VALUE` sets a setting, such as `trainer.max_epochs=100`. A typing error is refused, with the nearest name.
* `GROUP=OPTION` chooses an option, such as `optimizer=adamw`. An option is a file of values; the command line goes
  over it.
* `null` is no value, `true` and `false` are truth values, `[1,2]` is a list, `{{a: 1}}` is a mapping. Texts with
  special characters stand in quotes, around which the shell needs quotes of its own: `"input='a (b)'"`.
* `-m` runs one job for each combination of values with commas: `-m fold=0,1 optimizer.lr=0.01,0.001`.
* `--cfg job` prints the composed configuration and runs nothing. `--config-dir DIR` adds a folder with files of your
  own; see [how a configuration is composed](../explained/configuration.md).
* `--help` and `--version` say what they say everywhere.
"""


def page(command: str) -> str:
    """The page of a command."""
    folders = [_shipped.config_dir()]
    entries = _catalogue.settings(command, folders)
    groups = _catalogue.choices(command, folders)
    meanings = {"experiment": _help.PRESETS, "hydra.launcher": _help.LAUNCHERS}
    meanings |= {entry.key: entry.meaning for entry in entries}
    parts = [f"# segflow {command}", MADE, f"{_sentence(COMMANDS[command])}"]
    if examples := [line.strip() for line in _help._examples(folders[0] / f"{command}.yaml")]:
        parts.append("```text\n" + "\n".join(examples) + "\n```")
    if groups:
        parts += ["## Groups", "Choose an option with `GROUP=OPTION`."]
    for group, (key, default) in groups.items():
        options = _help.options_of(command, group, folders)
        if len(options) > 1:
            parts += [f"### Options of {group}", *_told(meanings.get(key, ""))]
            parts.append(_table(("option", "is"), list(_options(group, options, default, folders))))
    parts += ["## Settings", "Change a setting with `KEY=VALUE`."]
    parts += list(_settings(entries))
    return "\n\n".join(parts) + "\n"


def _options(
    group: str, options: Sequence[str], default: str | None, folders: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    for option in options:
        name = f"`{group}={option}`" + (" (default)" if option == default else "")
        yield name, _cell(_shipped.purpose(group.partition("@")[0], option, folders))


def _settings(entries: Sequence[_catalogue.Entry]) -> Iterator[str]:
    """Tables of settings, one for each section that has settings of its own."""
    rows: list[tuple[str, str, str, str]] = []
    title: list[str] = []
    for entry in entries:
        if entry.is_section:
            if rows:
                yield from (*title, _settings_table(rows))
            rows, title = [], [f"### {entry.key}", *_told(entry.meaning)]
        else:
            value = "" if entry.value is MISSING else f"`{_cell(_help.value_text(entry.value))}`"
            kind = entry.kind or KINDS.get(type(entry.value), "")
            rows.append((f"`{entry.key}`", value, _cell(kind), _meaning(entry.meaning)))
    if rows:
        yield from (*title, _settings_table(rows))


def _settings_table(rows: Sequence[tuple[str, str, str, str]]) -> str:
    return _table(("setting", "default", "type", "meaning"), rows)


def _told(meaning: str) -> list[str]:
    return [_meaning(meaning).replace("\\|", "|")] if meaning else []


def _meaning(text: str) -> str:
    """A meaning with single back-ticks, as Markdown wants them."""
    return _sentence(_cell(re.sub(r"\bNone\b", "null", text.replace("``", "`"))))


def _sentence(text: str) -> str:
    """A text that begins with a capital letter and ends with a full stop."""
    whole = text if text.endswith((".", "?", ")", "`")) or not text else f"{text}."
    return whole[:1].upper() + whole[1:]


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pages() -> dict[Path, str]:
    """File → its content, whatever this machine's own variables say."""
    for name in [name for name in os.environ if name.startswith(("SEGFLOW_", "nnUNet_"))]:
        del os.environ[name]
    made = {REFERENCE / "commands" / f"{command}.md": page(command) for command in COMMANDS}
    return {REFERENCE / "commands.md": overview(), **made}


def out_of_date() -> list[Path]:
    """Pages that differ from what the code says, and pages of commands that are gone."""
    wanted = pages()
    old = [file for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    return [*old, *(file for file in (REFERENCE / "commands").glob("*.md") if file not in wanted)]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    old = out_of_date()
    if parser.parse_args().check:
        sys.exit("\n".join([*(f"{file} is out of date" for file in old), "Type: make reference"]) if old else 0)
    wanted = pages()
    for file in old:
        if file in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(wanted[file], encoding="utf-8")
        else:
            file.unlink()
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
