"""The page docs/results.md and its pictures, from results/*.json alone."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dice_curves import curves_of, plots
from record import OURS, REFERENCE

Results = Mapping[str, dict[str, Any]]
PICTURES = "pictures"
_SIDES = (REFERENCE, OURS)
_BUSY = 0.5
"""Cores of other processes from which on the seconds of a job tell little."""
_TITLES = {
    "accuracy": "Accuracy at an equal schedule: hippocampus",
    "accuracy_acdc": "Accuracy at an equal schedule: ACDC",
    "dice_per_minute": "Dice against the minutes of training",
    "dice_per_minute_rates": "Seconds of an iteration in these trainings",
    "agreement": "Equal weights, losses and patches",
    "preprocessing": "Planning and preprocessing",
    "preprocessing_hippocampus": "Planning and preprocessing: hippocampus, three runs",
    "preprocessing_ct": "Preprocessing of a CT on all threads",
    "preprocessing_intel": "Preprocessing of a CT on another machine",
    "training": "Training on a CPU",
    "training_hippocampus": "Training on a CPU: more iterations of hippocampus",
    "limits": "How near a CPU's limits the network is",
    "loader": "Making batches",
    "prediction": "Prediction on a CPU",
    "prediction_turns": "Prediction on a CPU: ten turns",
    "prediction_busy": "Prediction beside a busy process",
    "prediction_start": "Prediction of one small image",
    "prediction_stream": "Memory of a prediction against the length of the image",
    "prediction_cube": "A volume larger than memory",
    "evaluation": "Scoring",
    "scale": "Hundreds and thousands of cases",
    "gpu": "GPU",
}
"""Result → its heading, in the order of the page."""

_IN_README = ("preprocessing", "training", "prediction")
"""Results of whole jobs, of which the README shows the real datasets."""

_HEAD = """# Results

`python benchmarks/report.py` writes this page from `benchmarks/results/*.json`, which the scripts of `benchmarks/`
write. Nothing here is typed by hand. segflow and nnU-Net run in the same environment, turn by turn, on the same cores
and with the same number of threads. Each table names its machine, commit, date and command, and the command repeats it.

How to read it:

- Compare figures within a table only. Tables are of several machines, and of the commits that they name: segflow has
  changed since, and may now be quicker or slower.
- Seconds are medians of all runs, memory is the peak of the whole process tree. "others" is how many cores other
  processes kept busy meanwhile: where it is not near 0, believe the ratio more than the seconds.
- A check that failed stays in the table as FAIL.
- Accuracy is compared after the same 250 iterations of both, which is far from the end of a training: seeds differ by
  more than the two tools do. Networks trained for the full 1,000 epochs have not been compared.
"""


def results_page(results: Results, render: Callable[[dict[str, Any]], str], scripts: Path) -> str:
    """The page as Markdown.

    Args:
        results: Name of a result → content of its JSON.
        render: Makes the tables of one result.
        scripts: Folder of the benchmarks, whose docstrings say what they measure.
    """
    parts = [_HEAD.rstrip(), *_glance(results)]
    for name in sorted(results, key=lambda name: ([*_TITLES].index(name) if name in _TITLES else len(_TITLES), name)):
        parts += [f"## {_TITLES.get(name, name)}", _purpose(results[name], scripts), render(results[name])]
        if name == "agreement":
            parts.append(f"![Loss of both sides, step by step]({PICTURES}/results_losses.svg)")
        if name == "dice_per_minute":
            parts.append(f"![Dice of each side against the minutes]({PICTURES}/results_dice_per_minute.svg)")
    return "\n\n".join(parts) + "\n"


def pictures(results: Results) -> dict[str, str]:
    """Name of a picture → SVG."""
    found = {"results_shares.svg": _bars(_shares(results))}
    if "agreement" in results:
        found["results_losses.svg"] = _curves(_losses(results["agreement"]))
    if "dice_per_minute" in results:
        found["results_dice_per_minute.svg"] = _svg(*plots(results["dice_per_minute"]))
    return found


def _glance(results: Results) -> list[str]:
    """What most readers look for: Dice of both, and seconds and memory of whole jobs."""
    accuracy = [
        [value["what"].partition(":")[0], *(_with_seeds(content, value, side) for side in _SIDES), _source(content)]
        for content in results.values()
        for value in content["values"]
        if value["what"].endswith(": Dice, mean")
    ]
    jobs = [
        [
            what,
            f"{seconds[0]:.1f}",
            f"{seconds[1]:.1f}",
            f"{seconds[0] / seconds[1]:.1f}×",
            f"{100 * peaks[1] / peaks[0]:.0f} %" if min(peaks) > 0 else "–",
            _source(content),
        ]
        for content in results.values()
        for what, seconds, peaks in _jobs(content)
    ]
    gpu = [
        [check["what"], _share_or_times(check), _source(content)]
        for content in results.values()
        if content["machine"]["gpu"]
        for check in content["checks"]
        if "share of" in check["what"] or "times quicker" in check["what"]
    ]
    columns = ["job on a CPU", "nnU-Net s", "segflow s", "quicker", "memory of nnU-Net's", "measured on"]
    return [
        "## At a glance",
        _table(
            ["mean Dice after 250 iterations", "nnU-Net (each seed)", "segflow (each seed)", "measured on"], accuracy
        ),
        f"{_table(columns, jobs)}\n\nJobs beside which other processes kept {_BUSY:g} cores or more busy are left out.",
        _table(["on a GPU", "found", "measured on"], gpu),
        f"![Time and memory of segflow as shares of nnU-Net's]({PICTURES}/results_shares.svg)",
    ]


def summary_table(results: Results) -> str:
    """The table of the README: Dice of both, and whole jobs on real datasets, with the commands that repeat them."""
    found = {
        f"Dice, {value['what'].partition(':')[0]}, {content['rows'][0]['what'].partition(', ')[2]}": [
            f"{value[REFERENCE]:.3f}", f"{value[OURS]:.3f}", _command(content),
        ]
        for content in results.values()
        for value in content["values"]
        if value["what"].endswith(": Dice, mean")
    }  # fmt: skip
    for name, content in results.items():
        for what, seconds, peaks in _jobs(content):
            if name in _IN_README and re.search(r"Dataset|raw to arrays", what):
                sides = [f"{second:.0f} s, {peak:.1f} GB" for second, peak in zip(seconds, peaks, strict=True)]
                found.setdefault(what, [*sides, _command(content)])
    for content in results.values():
        found |= {what: [*dice, _command(content)] for what, *dice in _in_a_third(content)}
    rows = [[what, *cells] for what, cells in found.items()]
    return _table(["on one machine, both in turn", "nnU-Net", "segflow", "repeated by"], rows)


def _in_a_third(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Dice of nnU-Net after its longest budget, and of experiment=fast after at most a third of it."""
    for subject, curves in curves_of(content).items():
        theirs, ours = curves.get("nnU-Net", {}), curves.get("segflow, experiment=fast", {})
        short = [minutes for minutes in ours if theirs and minutes <= max(theirs) / 3]
        if short:
            what = f"Dice, {subject}, {max(theirs):g} minutes of training, experiment=fast {max(short):g}"
            yield what, f"{theirs[max(theirs)][0]:.3f}", f"{ours[max(short)][0]:.3f}"


def _command(content: Mapping[str, Any]) -> str:
    return f"`{re.sub(r' --(work|output|cores|threads) [^ ]+', '', content['command'])}`"


def _with_seeds(content: Mapping[str, Any], mean: Mapping[str, Any], side: str) -> str:
    """The mean of the seeds, and those of each."""
    name = f"{mean['what']} of labels"
    seeds = [f"{value[side]:.2f}" for value in content["values"] if value["what"] == name]
    return f"{mean[side]:.4f} ({', '.join(seeds)})"


def _share_or_times(check: Mapping[str, Any]) -> str:
    return f"{100 * check['value']:.0f} %" if "share of" in check["what"] else f"{check['value']:.1f}×"


def _jobs(content: Mapping[str, Any]) -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """Whole jobs that both sides did undisturbed: what, median seconds and highest GB of nnU-Net and segflow."""
    wholes = [row for row in content["rows"] if row["section"] in ("all", "command") and not _is_disturbed(row)]
    return [
        (
            _job_name(content, row),
            (statistics.median(row[REFERENCE]["seconds"]), statistics.median(row[OURS]["seconds"])),
            (max(row[REFERENCE]["peak_gb"]), max(row[OURS]["peak_gb"])),
        )
        for row in wholes
        if REFERENCE in row and OURS in row
    ]


def _is_disturbed(row: Mapping[str, Any]) -> bool:
    return any(cores >= _BUSY for side in _SIDES if side in row for cores in row[side]["foreign_cores"])


def _job_name(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return f"{content['name']}: {row['what']}"


def _shares(results: Results) -> list[tuple[str, float, float | None]]:
    """Whole jobs: name, and segflow's shares of nnU-Net's seconds and memory."""
    return [
        (what, seconds[1] / seconds[0], peaks[1] / peaks[0] if min(peaks) > 0 else None)
        for content in results.values()
        for what, seconds, peaks in _jobs(content)
    ]


def _losses(content: Mapping[str, Any]) -> list[tuple[str, list[tuple[float, float, float]]]]:
    """Dataset → (step, nnU-Net's loss, segflow's loss), from values such as "X: loss of step 10"."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for value in content["values"]:
        match = re.fullmatch(r"(.+): loss of step (\d+)", value["what"])
        if match:
            found.setdefault(match[1], []).append((float(match[2]), value[REFERENCE], value[OURS]))
    return list(found.items())


def _purpose(content: Mapping[str, Any], scripts: Path) -> str:
    """What a script measures: its docstring."""
    script = scripts / f"{content['name']}.py"
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) if script.is_file() else None
    return (text or "").replace("``", "`")


def _source(content: Mapping[str, Any]) -> str:
    machine, commit = content["machine"], content["versions"]["segflow_commit"]
    place = machine["gpu"] or machine["processor"]
    return f"{place}, {commit}, {content['started'][:10]}"


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


_STYLE = 'font-family="sans-serif" font-size="12" fill="#222"'
_BLUE, _GREY = "#3367b0", "#9aa5b1"


def _bars(rows: Sequence[tuple[str, float, float | None]]) -> str:
    """Two bars for each job, of the shares of time and memory, beside a line at 100 %."""
    left, width, step = 400, 360, 34
    height = step * len(rows) + 50
    parts = [f'<text x="{left}" y="18" {_STYLE}>time (blue) and memory (grey); the line is nnU-Net, 100 %</text>']
    for number, (name, time, memory) in enumerate(rows):
        top = 34 + step * number
        parts.append(f'<text x="{left - 8}" y="{top + 15}" text-anchor="end" {_STYLE}>{escape(name)}</text>')
        for offset, share, colour in ((0, time, _BLUE), (12, memory, _GREY)):
            if share is None:
                continue
            length = round(width * min(share, 1.25))
            parts.append(f'<rect x="{left}" y="{top + offset}" width="{length}" height="10" fill="{colour}"/>')
            at = f'x="{left + length + 5}" y="{top + offset + 9}"'
            parts.append(f'<text {at} font-family="sans-serif" font-size="10" fill="#222">{100 * share:.0f} %</text>')
    parts.append(f'<path d="M{left + width} 26V{height - 14}" stroke="#222" stroke-dasharray="3 3"/>')
    return _svg(left + width + 130, height, parts)


def _curves(curves: Sequence[tuple[str, list[tuple[float, float, float]]]]) -> str:
    """One plot for each dataset: the losses of nnU-Net as circles, those of segflow as a line."""
    size, margin, parts = 300, 40, []
    for number, (name, points) in enumerate(curves):
        x0, values = number * (size + margin) + margin, [loss for _, *both in points for loss in both]
        low, high, last = min(values), max(values), max(step for step, *_ in points)

        def place(
            step: float, loss: float, x0: int = x0, low: float = low, high: float = high, last: float = last
        ) -> str:
            down = (high - loss) / (high - low) * (size - 60)
            return f"{x0 + step / last * (size - 40):.1f} {30 + down:.1f}"

        line = "L".join(place(step, ours) for step, _, ours in points)
        parts.append(f'<text x="{x0}" y="16" {_STYLE}>{escape(name)}: loss</text>')
        parts.append(f'<path d="M{line}" fill="none" stroke="{_BLUE}" stroke-width="2"/>')
        for step, theirs, _ in points:
            x, y = place(step, theirs).split()
            parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="none" stroke="#222"/>')
            parts.append(f'<text x="{x}" y="{size - 8}" text-anchor="middle" {_STYLE}>{step:.0f}</text>')
        for loss in (low, high):
            x, y = place(0, loss).split()
            parts.append(f'<text x="{float(x) - 6:.1f}" y="{y}" text-anchor="end" {_STYLE}>{loss:.2f}</text>')
    parts.append(f'<text x="{margin}" y="{size + 12}" {_STYLE}>step; circles: nnU-Net, line: segflow</text>')
    return _svg(len(curves) * (size + margin) + margin, size + 24, parts)


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"
