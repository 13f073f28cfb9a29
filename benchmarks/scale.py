"""Any number of cases: seconds, memory and file accesses of every command for 200, 2,000 and 20,000 tiny cases.

It needs no data and no nnU-Net. Each command is one part, measured in a process of its own, and kept in ``--work``:
started again with the same ``--work``, the benchmark goes on where it stopped. Accesses to files are counted by strace
in a second run of each command, where strace is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import Machine, run_command
from record import Options, Record, options
from scale_cases import NAME, write_dataset

HERE = Path(__file__).resolve().parent
STATE = "scale.json"
SIZES = (200, 2_000, 20_000)
CASE = re.compile(r"[/-]scale_\d{5}")
"""A file or folder of a case."""
_CASE_NAME, _MAKING = re.compile(r"^.*scale_\d{5}(_\d{4})?"), re.compile(r"^\.making-.*")
START, AGAIN = "train to the first step", "preprocess again"
LIBRARIES = "libraries of a training alone"
"""What a training loads before its first step whatever it does; torch's optimizers load its compiler."""
STEP_FILE = "SCALE_FIRST_STEP"
"""Environment variable with the file that gets the time of the first step."""
_CALLS = "trace=open,openat,stat,lstat,newfstatat,statx,access,faccessat,faccessat2,readlink,readlinkat,unlink"


@dataclass(frozen=True, slots=True)
class Place:
    """The folders of one size.

    Attributes:
        root: Of everything that the commands write.
        raw: The raw dataset.
    """

    root: Path
    raw: Path

    @property
    def fold(self) -> Path:
        """The folder of the trained fold."""
        return self.root / "outputs" / NAME / "nnUNetPlans" / "3d_fullres" / "default" / "fold_0"

    def environment(self) -> dict[str, str]:
        """The environment of a command."""
        return {
            "SEGFLOW_RAW": str(self.raw.parent),
            "SEGFLOW_PREPROCESSED": str(self.root / "preprocessed"),
            "SEGFLOW_OUTPUTS": str(self.root / "outputs"),
            STEP_FILE: str(self.root / "first_step.txt"),
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        }


def commands(place: Place) -> dict[str, str]:
    """Part → segflow's command line (Python's of `LIBRARIES`), in the order in which they depend on each other."""
    dataset, one = f"dataset.path={place.raw}", "configurations=3d_fullres"
    brief = "trainer.max_epochs=1 trainer.limit_train_batches=1 trainer.limit_val_batches=1"
    train = f"train {dataset} configuration=3d_fullres fold=0 {brief} training.num_workers=0 configuration.batch_size=2"
    predicted = place.root / "predicted"
    predict = f"predict model={place.fold} input={place.raw / 'imagesTr'} output={predicted}"
    return {
        "doctor": f"doctor {dataset}",
        "plan": f"plan {dataset} planner.base_features=4 planner.max_features_3d=8",
        "plan again": f"plan {dataset} planner.base_features=4 planner.max_features_3d=8",
        "preprocess": f"preprocess {dataset} {one}",
        AGAIN: f"preprocess {dataset} {one}",
        LIBRARIES: "import torch._dynamo, pytorch_lightning",
        START: f"{train} run_name=start validation=false +callbacks.first._target_=scale_first_step.FirstStep",
        "train and validate": train,
        "predict": predict,
        "predict again": predict,
        "evaluate": f"evaluate prediction={predicted} reference={place.raw / 'labelsTr'} labels={place.raw}",
        "report": f"report run={place.fold}",
    }


def cases_of(part: str, size: int) -> int:
    """The cases that a part works on: a fold validates every fifth."""
    return size // 5 if part in ("train and validate", "report") else size


def run_part(part: str, place: Place, machine: Machine) -> dict[str, Any]:
    """Run one command; its seconds, and the memory of its process and of all that it started."""
    _clear(part, place)
    place.root.mkdir(parents=True, exist_ok=True)
    machine = replace(machine, variables={**machine.variables, **place.environment()})
    started = time.monotonic()
    found = run_command(machine, _command(part, place))
    seconds = found.seconds
    if part == START:
        seconds = float((place.root / "first_step.txt").read_text(encoding="utf-8")) - started
    return {
        "seconds": round(seconds, 3),
        "parent_mb": round(found.parent_bytes / 2**20),
        "tree_mb": round(found.peak_bytes / 2**20),
        "foreign_cores": found.foreign_cores,
    }


def trace_part(part: str, place: Place, machine: Machine) -> dict[str, Any]:
    """Run one command under strace; how often it lists folders, and opens and looks at files, of the data."""
    _clear(part, place)
    place.root.mkdir(parents=True, exist_ok=True)
    log = place.root / "strace.txt"
    machine = replace(machine, variables={**machine.variables, **place.environment()})
    strace = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-s", "1", "-e", _CALLS, "-o", str(log)]
    run_command(machine, [*strace, *_command(part, place)])
    counts: Counter[str] = Counter()
    files: dict[str, set[str]] = {}
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if kind := kind_of(line, (place.root, place.raw)):
                counts[kind] += 1
                if kind.startswith("read "):
                    files.setdefault(kind.replace("read", "files", 1), set()).add(line.split('"')[1])
    log.unlink()
    return {**counts, **{kind: len(names) for kind, names in files.items()}}


def kind_of(line: str, folders: Sequence[Path]) -> str | None:
    """What a line of strace says of the data; None for other files.

    Returns:
        ``read`` with the role of the file, such as ``read imagesTr/.nii.gz``; ``written``, ``looked`` or ``listed`` for
        files and folders of a case; ``folders`` for the listing of another folder.
    """
    call = re.match(r"(?:\d+ +)?(\w+)\((.*)", line)
    if call is None or not any(f"{folder}/" in call[2] for folder in folders):
        return None
    opens, of_case = call[1].startswith("open"), CASE.search(call[2]) is not None
    if opens and "O_DIRECTORY" in line and "= -1 " not in line:
        return "listed" if of_case else "folders"
    if not of_case or (not opens and '""' in call[2]):  # "" is an open file, which is not looked up
        return None
    if not opens or "= -1 " in line:
        return "looked"
    if re.search(r"O_(WRONLY|RDWR|CREAT)", line):
        return "written"
    path = Path(call[2].split('"')[1])
    return f"read {_MAKING.sub('staging', path.parent.name)}/{_CASE_NAME.sub('', path.name)}"


def _command(part: str, place: Place) -> list[str]:
    text = commands(place)[part]
    return [sys.executable, *(("-c", text) if part == LIBRARIES else ("-m", "segflow", *text.split()))]


def _clear(part: str, place: Place) -> None:
    """Remove what an interrupted run of a part left, so that it begins anew."""
    made = {
        "plan": [place.root / "preprocessed"],
        "preprocess": [place.root / "preprocessed" / NAME / "nnUNetPlans_3d_fullres"],
        START: [place.fold.parents[1] / "start", place.root / "first_step.txt"],
        "train and validate": [place.fold],
        "predict": [place.root / "predicted"],
    }
    for path in made.get(part, []):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def work_through(chosen: Options, sizes: Sequence[int], say: Callable[[str], object]) -> dict[str, dict[str, Any]]:
    """Run what is not done; name of a size and part → result of all so far."""
    file = chosen.work / STATE
    results: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    tracing = shutil.which("strace") is not None
    for size in sizes:
        raw = chosen.work / f"raw_{size}" / NAME
        if not (raw / "dataset.json").is_file():
            say(f"{size}: cases are written")
            write_dataset(raw.parent, size, len(chosen.machine.cores))
        runs: list[tuple[str, Callable[..., dict[str, Any]], Place]] = []
        runs.append(("timed", run_part, Place(chosen.work / f"timed_{size}", raw)))
        if tracing and size == sizes[0]:  # what a case needs does not depend on their number
            runs.append(("traced", trace_part, Place(chosen.work / f"traced_{size}", raw)))
        for how, run, place in runs:
            for part in commands(place):
                name = f"{size} {how} {part}"
                if name in results or not chosen.wants(part) or (how, part) == ("traced", LIBRARIES):
                    continue
                say(f"{name} …")
                results[name] = run(part, place, chosen.machine)
                say(f"{name}: {results[name]}")
                partial = file.with_suffix(".partial")
                partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
                partial.replace(file)
    return results


def judge(results: Mapping[str, Mapping[str, Any]], sizes: Sequence[int], record: Record) -> None:
    """Turn results into values, and hold them against the bars."""
    first, last = sizes[0], sizes[-1]
    parts = list(commands(Place(Path(), Path())))
    for part in parts:
        found = {size: results[key] for size in sizes if (key := f"{size} timed {part}") in results}
        for size, one in found.items():
            count = cases_of(part, size)
            record.value(f"{part}, {size} cases", segflow=one["seconds"], unit="s")
            record.value(f"{part}, {size} cases: of each", segflow=1e3 * one["seconds"] / count, unit="ms")
            record.value(f"{part}, {size} cases: memory of the command", segflow=one["parent_mb"], unit="MB")
            record.value(f"{part}, {size} cases: with its workers", segflow=one["tree_mb"], unit="MB")
        if first in found and last in found and first != last and part != LIBRARIES:
            before, now = (found[size]["seconds"] / cases_of(part, size) for size in (first, last))
            record.check(f"{part}: seconds of each of {last} cases, as a share of {first}", now / before, at_most=1.2)
            grown = found[last]["parent_mb"] - found[first]["parent_mb"]
            record.check(f"{part}: MB more for {last} cases than for {first}", grown, at_most=100)
        _judge_traced(part, results, first, record)
    if f"{last} timed {START}" in results:
        record.check(f"{START}, {last} cases: s", results[f"{last} timed {START}"]["seconds"], at_most=5)
    if f"{last} timed {AGAIN}" in results:
        record.check(f"{AGAIN}, {last} cases: s", results[f"{last} timed {AGAIN}"]["seconds"], at_most=10)


def _judge_traced(part: str, results: Mapping[str, Mapping[str, Any]], size: int, record: Record) -> None:
    """Accesses to files in the smallest size."""
    found = results.get(f"{size} traced {part}")
    if found is None:
        return
    count = cases_of(part, size)
    each = {kind: found.get(kind, 0) / count for kind in ("listed", "written", "looked")}
    opens = {kind.removeprefix("read "): opens for kind, opens in found.items() if kind.startswith("read ")}
    roles = {role: number / found[f"files {role}"] for role, number in opens.items()}
    record.value(f"{part}: listings of folders of all cases", segflow=found.get("folders", 0))
    for kind, meaning in (("written", "files opened to write"), ("looked", "other calls with a path")):
        record.value(f"{part}: {meaning}, a case", segflow=round(each[kind], 2))
    for role, times in sorted(roles.items()):
        record.value(f"{part}: times that {role} is opened to read, of those that are", segflow=round(times, 2))
    record.value(f"{part}: openings to read, a case", segflow=round(sum(opens.values()) / count, 2))
    record.check(f"{part}: folders listed, a case", round(each["listed"], 2), at_most=0)
    most = max(roles.values(), default=0.0)
    record.check(f"{part}: times that a file of a case is opened to read", round(most, 1), at_most=2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument("--sizes", type=int, nargs="+", default=None, help="numbers of cases (default 200 2000 20000)")


def main() -> None:
    """Go on with the parts, and write what there is."""
    parts = list(commands(Place(Path(), Path())))
    with options("scale", __doc__ or "", parts, add_options, repeats=1) as chosen:
        sizes = tuple(sorted(chosen.extra.sizes or ((5, 10) if chosen.quick else SIZES)))
        record = Record("scale", chosen)
        results = work_through(chosen, sizes, lambda text: print(text, flush=True))
        judge(results, sizes, record)
        if shutil.which("strace") is None:
            record.note("strace is not installed here: accesses to files were not counted.")
        record.finish()


if __name__ == "__main__":
    main()
