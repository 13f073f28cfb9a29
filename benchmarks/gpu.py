"""The first hour on a GPU: does it compute what the CPU computes, how quickly, in how much memory, and who waits for
whom; beside nnU-Net where that is installed.

It needs no network and no data. It works through a list of pieces, each in a process of its own, and goes on where it
stopped: start it again and again with the same ``--work`` until it says that all is done. A piece that fails is noted
with its error, and the next one goes on. ``--minutes`` limits one start.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record import OURS, REFERENCE, Options, Record, options

HERE = Path(__file__).resolve().parent
STATE = "pieces.json"
ATTEMPTS = 2
LONGEST = 240
"""Seconds after which a piece is ended."""
CORES = (4, 8, 16)
NETWORKS = ("hippocampus 3d", "acdc 2d", "ct 3d", "ct ResEnc L", "ct_117 3d")
TRAINED = (("hippocampus", "3d_fullres"), ("acdc", "2d"), ("acdc", "3d_fullres"), ("ct", "3d_fullres"))
GROUPS = ("facts", "suite", "agreement", "steps", "passes", "prepare", "waits", "data", "epoch", "predict")


@dataclass(frozen=True, slots=True)
class Piece:
    """One call of a function of ``gpu_pieces.py``.

    Attributes:
        name: Its name in the results.
        group: For ``--only``.
        function: Name of the function.
        arguments: Its arguments.
        seconds: About how long it takes; it is not begun if less time is left.
    """

    name: str
    group: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seconds: int = 60


def pieces(*, tiny: bool, reference: bool) -> list[Piece]:
    """All pieces, the most telling first.

    Args:
        tiny: Fewer, for a trial.
        reference: nnU-Net is there.
    """
    networks = NETWORKS[:1] if tiny else NETWORKS
    trained = TRAINED[:1] if tiny else TRAINED
    subjects = dict.fromkeys(subject for subject, _ in trained)
    found = [Piece("facts", "facts", "facts", seconds=20), Piece("suite", "suite", "suite", seconds=100)]
    found += [Piece(f"agreement: {name}", "agreement", "agreement", {"network": name}) for name in networks]
    if reference:
        found += [
            Piece(f"agreement: {name}, nnU-Net's trainer", "agreement", "nnunet_agreement", {"network": name})
            for name in networks
        ]
    found += [step for name in networks for step in _steps(name, reference=reference, compiled=False)]
    found += [Piece(f"passes: {name}", "passes", "passes", {"network": name}, 30) for name in networks]
    for subject in subjects:
        found.append(Piece(f"prepare: {subject}", "prepare", "prepare", {"subject": subject, "reference": reference}))
        for configuration in (own for name, own in trained if name == subject):
            found += _trainings(subject, configuration, (2,) if tiny else CORES, reference=reference)
        found.append(Piece(f"predict: {subject}", "predict", "predict", {"subject": subject, "reference": reference}))
    if not tiny:
        found += [step for name in networks for step in _steps(name, reference=reference, compiled=True)]
    return found


def _steps(network: str, *, reference: bool, compiled: bool) -> list[Piece]:
    """Training steps of a network, of segflow and perhaps of nnU-Net."""
    how, arguments = "compiled" if compiled else "eager", {"network": network, "compiled": compiled}
    found = [Piece(f"steps: {network}, {how}", "steps", "steps", arguments, 180 if compiled else 60)]
    if reference:
        found.append(Piece(f"steps of nnU-Net: {network}, {how}", "steps", "nnunet_steps", arguments, 90))
    return found


def _trainings(subject: str, configuration: str, cores: tuple[int, ...], *, reference: bool) -> list[Piece]:
    """An epoch, where it waits, and its wait for data on so many cores."""
    arguments = {"subject": subject, "configuration": configuration}
    what = f"{subject} {configuration}"
    found = [
        Piece(f"epoch: {what}", "epoch", "epoch", {**arguments, "reference": reference}, 120),
        Piece(f"waits: {what}", "waits", "waits", arguments, 60),
    ]
    for count, place in itertools.product(cores, ("cpu", "device")):
        name = f"data: {what}, {count} cores, augmentation on the {place}"
        found.append(Piece(name, "data", "data", {**arguments, "cores": count, "augmentation": place}, 60))
    return found


def run(todo: list[Piece], state: Path, chosen: Options) -> dict[str, Any]:
    """Run what is not done while time is left, and return all results so far."""
    results: dict[str, Any] = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    until = time.monotonic() + 60 * chosen.extra.minutes
    begun = 0
    for piece in todo:
        before = results.get(piece.name, {})
        if before and ("found" in before or before.get("attempts", 0) >= ATTEMPTS):
            continue
        left = until - time.monotonic()
        if left < piece.seconds and begun:
            break
        begun += 1
        print(f"{piece.name} …", flush=True)
        answer = _call(piece, chosen, min(LONGEST, max(left, piece.seconds)))
        print(f"{piece.name}: {answer.get('error') or 'done'} ({answer['seconds']:.0f} s)", flush=True)
        results[piece.name] = {**answer, "attempts": before.get("attempts", 0) + 1}
        partial = state.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(state)
    return results


def _call(piece: Piece, chosen: Options, limit: float) -> dict[str, Any]:
    """What the piece answered, or why it did not."""
    call, answer = chosen.work / "call.json", chosen.work / "answer.json"
    answer.unlink(missing_ok=True)
    content = {
        "device": chosen.extra.device,
        "tiny": chosen.quick,
        "work": str(chosen.work),
        "function": piece.function,
        "arguments": piece.arguments,
    }
    call.write_text(json.dumps(content), encoding="utf-8")
    log, started = chosen.work / "log.txt", time.monotonic()
    command = [sys.executable, str(HERE / "gpu_pieces.py"), str(call), str(answer)]
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"error": f"ended after {limit:.0f} s", "seconds": limit, "log": _tail(log)}
    if not answer.is_file():
        seconds = time.monotonic() - started
        return {"error": f"ended with code {process.returncode}", "seconds": seconds, "log": _tail(log)}
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return {**found, "log": _tail(log)} if "error" in found else found


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-1500:]


def judge(results: dict[str, Any], record: Record) -> None:
    """Turn what the pieces found into values and checks."""
    for name, result in results.items():
        kind, _, what = name.partition(": ")
        found = result.get("found")
        if found is None:
            record.note(f"{name}: {result.get('error')}")
        elif isinstance(found, dict) and "skipped" in found:
            record.note(f"{name}: {found['skipped']}")
        elif kind in _JUDGES:
            _JUDGES[kind](record, what, found)
    _judge_steps(results, record)


def _suite(record: Record, what: str, found: dict[str, Any]) -> None:
    record.check("tests/gpu on the device: passed", float(found["passed"]), at_least=1)


def _agreement(record: Record, what: str, found: dict[str, Any]) -> None:
    for precision, values in found.items():
        for key, value in values.items():
            record.value(f"{what}, {precision}: {key.replace('_', ' ')}", segflow=value)


def _passes(record: Record, what: str, found: dict[str, Any]) -> None:
    for row in found["passes"]:
        patch = f"{row['batch']} × {'×'.join(str(n) for n in found['patch'])}"
        record.value(f"{what}, {patch}, {row['format']}: forward pass", segflow=1e3 * row["seconds"], unit="ms")


def _waits(record: Record, what: str, found: dict[str, Any]) -> None:
    for where, count in found["per_step"].items():
        record.value(f"{what}: waits at {where}", segflow=count, unit="a step")
    record.check(f"{what}: waits of a step", sum(found["per_step"].values()), at_most=1)


def _data(record: Record, what: str, found: dict[str, Any]) -> None:
    record.value(f"{what}: wait for data", segflow=found["wait_ms"], unit="ms a step")
    record.value(f"{what}: step", segflow=found["compute_ms"], unit="ms")
    if "4 cores, augmentation on the device" in what:
        record.check(f"{what}: share of waiting", found["share"], at_most=0.05)


def _epoch(record: Record, what: str, found: dict[str, Any]) -> None:
    sides = {OURS: found["segflow"], **({REFERENCE: found["nnunet"]} if "nnunet" in found else {})}
    record.value(f"epoch of {what}", unit="s", **{side: values["seconds"] for side, values in sides.items()})
    peaks = {side: values["peak_gib"] for side, values in sides.items()}
    record.value(f"epoch of {what}: peak memory", unit="GiB", **peaks)
    if REFERENCE in sides:
        share = sides[OURS]["seconds"] / sides[REFERENCE]["seconds"]
        record.check(f"epoch of {what}: share of nnU-Net's", share, at_most=0.65)
        if all(peaks.values()):
            record.check(f"epoch of {what}: share of memory", peaks[OURS] / peaks[REFERENCE], at_most=1.0)


def _predict(record: Record, what: str, found: dict[str, Any]) -> None:
    seconds = {side: found[key]["seconds"] for side, key in ((OURS, "segflow"), (REFERENCE, "nnunet")) if key in found}
    record.value(f"prediction of {what}", unit="s", **seconds)
    if REFERENCE in seconds:
        record.check(f"prediction of {what}: times quicker", seconds[REFERENCE] / seconds[OURS], at_least=1.5)
        record.check(f"prediction of {what}, one model: labels equal", found["labels_equal"], at_least=0.999)


_JUDGES = {
    "suite": _suite,
    "agreement": _agreement,
    "passes": _passes,
    "waits": _waits,
    "data": _data,
    "epoch": _epoch,
    "predict": _predict,
}


def _judge_steps(results: dict[str, Any], record: Record) -> None:
    """Steps of both sides beside each other."""
    for name, result in results.items():
        kind, _, what = name.partition(": ")
        if kind != "steps" or "found" not in result:
            continue
        found = result["found"]
        reference = results.get(f"steps of nnU-Net: {what}", {}).get("found") or {}
        patch = f"{found['batch']} × {'×'.join(str(n) for n in found['patch'])}"
        record.value(f"{what}, {patch}: memory that the planner expects", segflow=found["planned_gb"], unit="GB")
        best: dict[str, float] = {}
        for row in found["steps"]:
            how = f"{what}, {row['precision']}, {row['format']}"
            record.value(f"{how}: step", segflow=1e3 * row["seconds"], unit="ms")
            record.value(f"{how}: peak memory", segflow=row["peak_gib"], unit="GiB")
            if row["precision"] == "16-mixed":
                best = min(best or row, row, key=lambda each: each["seconds"])
        if reference:
            record.value(f"{what}: step of nnU-Net", nnunet=1e3 * reference["seconds"], unit="ms")
            record.value(f"{what}: peak memory of nnU-Net", nnunet=reference["peak_gib"], unit="GiB")
        if reference and best and reference["peak_gib"]:
            record.value(f"{what}: step, times quicker", both=reference["seconds"] / best["seconds"])
            record.check(f"{what}: share of nnU-Net's memory", best["peak_gib"] / reference["peak_gib"], at_most=1.0)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this script alone."""
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu only shows that it works")
    parser.add_argument("--minutes", type=float, default=9, help="time of one start (default 9)")
    parser.add_argument("--alone", action="store_true", help="leave nnU-Net out, even if it is installed")


def main() -> None:
    """Go on with the pieces, and write what there is."""
    with options("gpu", __doc__ or "", GROUPS, add_options, repeats=1) as chosen:
        reference = not chosen.extra.alone and importlib.util.find_spec("nnunetv2") is not None
        everything = pieces(tiny=chosen.quick, reference=reference)
        todo = [piece for piece in everything if chosen.wants(piece.group)]
        record = Record("gpu", chosen)
        results = run(todo, chosen.work / STATE, chosen)
        judge(results, record)
        if not reference:
            record.note("nnU-Net is not installed here, or was left out: there is nothing to compare with.")
        open_ones = [piece.name for piece in todo if piece.name not in results]
        record.note(f"{len(todo) - len(open_ones)} of {len(todo)} pieces were begun.")
        record.finish()
        if open_ones:
            print(f"{len(open_ones)} pieces are left, the next is '{open_ones[0]}': start it again with --work.")


if __name__ == "__main__":
    main()
