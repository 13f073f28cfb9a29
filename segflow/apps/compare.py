"""``segflow compare``: scores of several runs → whether they differ, and by how much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, within_memory
from segflow.core.errors import SegflowError
from segflow.evaluation.compare_settings import CompareSettings

if TYPE_CHECKING:
    from segflow.apps._compared import Compared
    from segflow.core.comparison import Comparison

JSON_FILE, TABLE_FILE = "comparison.json", "comparison.csv"
PICTURES = ("comparison.png", "comparison.svg")
FOLDER = "comparisons"
LONGEST_NAME = 100

USE = "Give runs=[RUN_A,RUN_B], or 'seeds={a:[A1,A2],b:[B1,B2]}'"


@dataclass(kw_only=True)
class Compare(Command):
    """Settings of ``segflow compare``.

    Attributes:
        runs: What to compare: folders of runs or folds, folders with summary.json, model folders of nnU-Net, or CSV
            files. Runs that differ only by their seed are compared as one setting.
        seeds: Name of a setting → what was scored of each of its seeds, where that is not known from the runs:
            ``{base: [A1, A2], new: [B1, B2]}``.
        output: Folder for comparison.json, comparison.csv and pictures; null takes a folder named after what is
            compared in ``comparisons`` of the dataset's folder in ``paths.outputs``.
        all_scores: Compute HD95, surface Dice and the other scores of ``segflow evaluate`` for validation cases, once;
            false takes those that are there.
        comparison: Metrics and tests.
    """

    SECTION: ClassVar = "comparison"
    PLACES: ClassVar[tuple[str, ...]] = ("output", "runs", "seeds")

    runs: list[Path] | None = None
    seeds: dict[str, list[Path]] | None = None
    output: Path | None = None
    all_scores: bool = False
    comparison: CompareSettings = field(default_factory=CompareSettings)


@within_memory
def run(settings: Compare) -> None:
    """Compare, print verdicts and tables, and write files."""
    found, output, missing = _compared(settings)
    from segflow.core.metrics import HEADINGS
    from segflow.evaluation.comparison_words import left_out, mean_rows, pair_rows, rank_rows, verdicts

    cases = _terminal.cases(len(found.cases))
    counted = "" if found.unit == "case" else f" of {found.patients} patients"
    _show(f"Means over {cases}{counted}", mean_rows(found))
    if found.rows:
        _show("Differences", pair_rows(found))
    if len(found.ranks) > 1:
        _show(f"Ranks over {', '.join(HEADINGS.get(metric, metric) for metric in found.metrics)}", rank_rows(found))
    for line in verdicts(found):
        _terminal.say(line)
    for note in (*found.notes, *left_out(found), *missing):
        _terminal.say(f"  {note}")
    _terminal.say(f"Written to {output}.")
    _next.say(_next.after_compare(settings.runs or []) if not settings.seeds else [])


def compare(settings: Compare) -> Comparison:
    """Compare, and write the files.

    Raises:
        SegflowError: There are fewer than two scores, or they cannot be compared.
    """
    return _compared(settings)[0]


def _compared(settings: Compare) -> tuple[Comparison, Path, list[str]]:
    """The comparison, the folder with its files, and remarks about those that could not be written."""
    runs, seeds = settings.runs or [], settings.seeds or {}
    if len(runs) + sum(map(len, seeds.values())) < 2:
        raise SegflowError("there is nothing to compare with", found=", ".join(map(str, runs)) or None, fix=USE)
    from dataclasses import replace

    from segflow.apps import _compared as inputs  # slow
    from segflow.evaluation.compare_scores import compare_scores

    with _terminal.progress() as progress:
        compared = inputs.read_compared(runs, seeds, settings.paths if settings.all_scores else None, progress)
    found = compare_scores(compared.contenders, settings.comparison, compared.label_names)
    found = replace(found, notes=(*compared.notes, *found.notes))
    output = settings.output or _folder(settings.paths.outputs, compared)
    return found, output, _write(found, output, compared, settings.comparison)


def _folder(outputs: Path, compared: Compared) -> Path:
    """The folder of results: ``outputs/DATASET/comparisons/A_B``."""
    from segflow.storage.file_stamps import digest_of

    words = [re.sub(r"[^\w.-]+", "-", one.name).strip("-.") or "scores" for one in compared.contenders]
    name = "_".join(words)
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{digest_of(words)[:8]}"
    return outputs / compared.dataset / FOLDER / name


def _write(found: Comparison, output: Path, compared: Compared, settings: CompareSettings) -> list[str]:
    from segflow.evaluation.comparison_words import to_json, write_csv
    from segflow.storage.file_stamps import Origin
    from segflow.storage.json_files import write_json
    from segflow.storage.stamps import StampedFolder

    inputs = {f"scores_{number}": file for number, file in enumerate(compared.files)}
    decisive = {
        **asdict(settings),
        "settings": {one.name: [t.name for t in one.trainings] for one in compared.contenders},
    }
    origin = Origin("comparison", 1, decisive, inputs)
    folder, missing = StampedFolder(output), []
    folder.refuse_foreign({JSON_FILE: [output / name for name in (JSON_FILE, TABLE_FILE, *PICTURES)]})
    folder.discard(JSON_FILE)
    with folder.written(JSON_FILE, origin) as place:
        write_csv(found, place / TABLE_FILE)
        try:
            from segflow.reporting.comparison_picture import write_comparison_pictures
        except ModuleNotFoundError:
            missing.append("There is no picture without matplotlib: pip install 'segflow[train]'")
        else:
            write_comparison_pictures(found, [place / name for name in PICTURES])
        write_json(place / JSON_FILE, to_json(found))
    return missing


def _show(title: str, rows: Sequence[Sequence[str]]) -> None:
    heading, *body = rows
    _terminal.table(title, heading, body)
