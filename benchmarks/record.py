"""What a benchmark found: rows of both sides, values, checks against the bars; a table, and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from measure import Machine, Measured
from rich.console import Console
from rich.table import Table

PLACES = ("--work", "--output", "--data")
"""Options that name a place."""
RESULTS = Path(__file__).resolve().parent / "results"
REFERENCE, OURS = "nnunet", "segflow"
_PACKAGES = ("segflow", "nnunetv2", "batchgeneratorsv2", "torch", "numpy", "scikit-image", "SimpleITK", "blosc2")
_GB = 2**30


@dataclass(slots=True)
class Options:
    """What every benchmark can be told.

    Attributes:
        machine: Cores, threads and environment of both sides.
        work: Folder for what is made on the way.
        data: Folder of real datasets.
        quick: Tiny inputs: shows that everything runs; its figures mean nothing.
        repeats: How often each side is run.
        output: JSON to write; None writes none.
        chosen: Names of the parts to run; empty runs all.
        extra: Options of one script alone.
    """

    machine: Machine
    work: Path
    data: Path
    quick: bool
    repeats: int
    output: Path | None
    chosen: tuple[str, ...]
    extra: argparse.Namespace

    def wants(self, part: str) -> bool:
        """Whether a part of the benchmark is to be run."""
        return not self.chosen or part in self.chosen


@contextmanager
def options(
    name: str,
    description: str,
    parts: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], object] | None = None,
    *,
    repeats: int = 3,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Options]:
    """Read the command line, and give a work folder that is removed afterwards.

    Args:
        name: Of the benchmark; its JSON is called so.
        description: What it measures.
        parts: Names of what can be chosen by ``--only``; None if the script checks them.
        add: Adds options of the script's own.
        repeats: How often each side is run unless told otherwise.
        variables: More of the environment of both sides.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny inputs, one run: shows that it works")
    parser.add_argument("--only", nargs="+", choices=parts, default=[], help="run only these parts")
    parser.add_argument("--repeats", type=int, default=None, help=f"runs of each side (default {repeats})")
    parser.add_argument("--cores", default=None, help="processors for both sides, such as 0,1 (default: all)")
    parser.add_argument("--threads", type=int, default=None, help="threads of each side (default: one per core)")
    parser.add_argument("--data", type=Path, default=None, help="folder of datasets (default $SEGFLOW_TEST_DATA)")
    parser.add_argument("--work", type=Path, default=None, help="folder for intermediate files, kept afterwards")
    parser.add_argument("--output", type=Path, default=None, help=f"JSON (default results/{name}.json; quick: none)")
    if add is not None:
        add(parser)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if arguments.cores:
        cores = [int(core) for core in arguments.cores.split(",")]
    work = arguments.work or Path(tempfile.mkdtemp(prefix=f"benchmark-{name}-"))
    work = work.resolve()
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    threads = arguments.threads or len(cores)
    environment = {
        **{folder: str(work / folder) for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
        "nnUNet_def_n_proc": str(len(cores)),
        "PYTHONWARNINGS": "ignore",
        **(variables or {}),
    }
    os.environ.update(environment)  # for what is prepared in this process
    try:
        yield Options(
            machine=Machine(tuple(cores), threads, environment),
            work=work,
            data=arguments.data or default_data(),
            quick=arguments.quick,
            repeats=arguments.repeats or (1 if arguments.quick else repeats),
            output=arguments.output or (None if arguments.quick else RESULTS / f"{name}.json"),
            chosen=tuple(arguments.only),
            extra=arguments,
        )
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)


def default_data() -> Path:
    """The folder of real datasets: ``SEGFLOW_TEST_DATA``, else ``../shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("SEGFLOW_TEST_DATA", beside)).resolve()


@dataclass(slots=True)
class Record:
    """Collects what a benchmark finds.

    Args:
        name: Of the benchmark.
        options: Of this run.
    """

    name: str
    options: Options
    rows: list[dict[str, Any]] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else 150))
    _started: float = field(default_factory=time.time)
    _load: tuple[float, float, float] = field(default_factory=os.getloadavg)

    def compare(
        self, what: str, reference: Callable[[], Measured], ours: Callable[[], Measured]
    ) -> tuple[list[Measured], list[Measured]]:
        """Run both sides turn by turn, the one that starts changing each time, and note their rows."""
        runs: dict[str, list[Measured]] = {REFERENCE: [], OURS: []}
        sides = [(REFERENCE, reference), (OURS, ours)]
        for turn in range(self.options.repeats):
            for side, call in sides if turn % 2 == 0 else sides[::-1]:
                self.console.log(f"{what}: {side} {turn + 1}/{self.options.repeats}")
                runs[side].append(call())
        self.add_rows(what, runs[REFERENCE], runs[OURS])
        return runs[REFERENCE], runs[OURS]

    def alone(self, what: str, ours: Callable[[], Measured]) -> list[Measured]:
        """Run segflow's side only."""
        runs = []
        for turn in range(self.options.repeats):
            self.console.log(f"{what}: {OURS} {turn + 1}/{self.options.repeats}")
            runs.append(ours())
        self.add_rows(what, [], runs)
        return runs

    def add_rows(self, what: str, reference: Sequence[Measured], ours: Sequence[Measured]) -> None:
        """One row for each section that both have, and one for the whole where there are several."""
        names = list(ours[0].sections)
        shared = [name for name in names if not reference or name in reference[0].sections]
        if len(names) > 1 or shared != names:
            shared.append("all")
        for name in shared:
            row: dict[str, Any] = {"what": what, "section": name}
            for side, runs in ((REFERENCE, reference), (OURS, ours)):
                if runs:
                    row[side] = {
                        "seconds": [round(_seconds(run, name), 4) for run in runs],
                        "peak_gb": [round(_peak(run, name) / _GB, 3) for run in runs],
                        "foreign_cores": [run.foreign_cores for run in runs],
                    }
            self.rows.append(row)

    def value(self, what: str, *, unit: str = "", **sides: float | str | None) -> None:
        """Note something that is not a wall time, of one side or of both."""
        self.values.append({"what": what, "unit": unit, **sides})

    def check(self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Hold a value against a bar."""
        passed = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bar = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}"
        self.checks.append({"what": what, "value": value, "bar": bar, "passed": bool(passed)})

    def note(self, text: str) -> None:
        """Say something that a reader of the figures must know."""
        self.notes.append(text)

    def finish(self) -> None:
        """Print, and write the JSON."""
        content = {
            "name": self.name,
            "quick": self.options.quick,
            "command": " ".join(["python", f"benchmarks/{self.name}.py", *_without_places(sys.argv[1:])]),
            "machine": machine_facts(self.options.machine),
            "versions": versions(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 1),
            "load_average": {"before": list(self._load), "after": list(os.getloadavg())},
            "rows": self.rows,
            "values": self.values,
            "checks": self.checks,
            "notes": self.notes,
        }
        show(content, self.console)
        if self.options.output is not None:
            self.options.output.parent.mkdir(parents=True, exist_ok=True)
            self.options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            self.console.print(f"Written to {self.options.output}")


def median_seconds(runs: Sequence[Measured], section: str = "all") -> float:
    """Median over runs of a section's wall time, or of all sections together."""
    return statistics.median(_seconds(run, section) for run in runs)


def peak_bytes(runs: Sequence[Measured], section: str = "all") -> int:
    """Highest memory of a section over all runs."""
    return max(_peak(run, section) for run in runs)


def _seconds(run: Measured, section: str) -> float:
    return run.seconds if section == "all" else run.sections[section].seconds


def _peak(run: Measured, section: str) -> int:
    return run.peak_bytes if section == "all" else run.sections[section].peak_bytes


def table_of_rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: medians of the wall times, highest peaks, and how many times segflow is quicker or smaller."""
    cells = []
    for row in content["rows"]:
        sides = [row.get(side) for side in (REFERENCE, OURS)]
        seconds = [None if side is None else statistics.median(side["seconds"]) for side in sides]
        peaks = [None if side is None else max(side["peak_gb"]) for side in sides]
        foreign = max(value for side in sides if side is not None for value in side["foreign_cores"])
        cells.append(
            [
                row["what"],
                "" if row["section"] == "command" else row["section"],
                *("–" if s is None else f"{s:.2f}" for s in seconds),
                _ratio(*seconds),
                *("–" if p is None else f"{p:.2f}" for p in peaks),
                _ratio(*peaks),
                f"{foreign:.1f}",
            ]
        )
    header = ["what", "part", "nnU-Net s", "segflow s", "quicker", "nnU-Net GB", "segflow GB", "smaller", "others"]
    return header, cells


def table_of_values(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of what is not a wall time."""
    cells = [
        [v["what"], *(_number(v.get(side)) for side in (REFERENCE, OURS, "both")), v["unit"]] for v in content["values"]
    ]
    return ["what", "nnU-Net", "segflow", "both", "unit"], cells


def table_of_checks(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the bars."""
    verdicts = {True: "pass", False: "FAIL"}
    cells = [
        [c["what"], _number(c["value"]), c["bar"], "(quick)" if content["quick"] else verdicts[c["passed"]]]
        for c in content["checks"]
    ]
    return ["what", "found", "bar", "verdict"], cells


def show(content: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    for header, cells in (table_of_rows(content), table_of_values(content), table_of_checks(content)):
        if not cells:
            continue
        table = Table(*header)
        for row in cells:
            table.add_row(*row)
        console.print(table)
    for note in content["notes"]:
        console.print(f"• {note}")
    load = content["load_average"]
    console.print(
        f"Load average {load['before'][0]:.1f} before, {load['after'][0]:.1f} after; "
        "column “others”: cores that other processes kept busy meanwhile."
    )


def machine_facts(machine: Machine) -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "cores_used": list(machine.cores),
        "threads": machine.threads,
        "memory_gb": round(memory / _GB, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def _gpu() -> str | None:
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None


def versions() -> dict[str, str]:
    """Of both sides and of what they compute with."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {**found, "segflow_commit": commit.stdout.strip()}


def _ratio(reference: float | None, ours: float | None) -> str:
    return "–" if reference is None or ours is None or ours == 0 else f"{reference / ours:.2f}×"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _without_places(arguments: Sequence[str]) -> list[str]:
    """Arguments without folders and files, which are of one machine only."""
    kept: list[str] = []
    passed = False
    for argument in arguments:
        if not passed and argument.partition("=")[0] not in PLACES:
            kept.append(argument)
        passed = argument in PLACES
    return kept
