"""What a person sees on a terminal: bars that stay below whole lines of the log, and nothing torn."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pseudo_terminal import Seen, look_at

from segflow.execution.job_state import STATE_FILE, read_state

BEGIN = """
import logging, os, sys, time, warnings
from segflow.apps import _job, _shown_progress, _terminal
from segflow.apps._signals import told_in_one_line
from segflow.execution import screen
from segflow.execution.progress import ProgressEvent, TrainingEvent

screen.REFRESH_PER_SECOND = 20.0  # every state is drawn within the short pauses of a test
_job.log_to_stderr()
log = logging.getLogger("segflow.test")
"""

TRAINING = (
    BEGIN
    + """
def at(epoch, step, rest, **more):
    return TrainingEvent("train", "", (epoch - 1) * 250 + step, 2500, epoch=epoch, epochs=10, step=step, steps=250,
                         loss=-0.51234, step_seconds=0.425, rest_seconds=rest, **more)

with _terminal.progress() as progress:
    for epoch in (1, 2, 3):
        for step in (0, 120, 250):
            shares = {} if epoch == 1 else {"network": 0.81, "data": 0.03, "validation": 0.12, "files": 0.04}
            progress(at(epoch, step, 4320.0, shares=shares))
            time.sleep(0.3)
        log.info("epoch %d/10 | %s | the end", epoch, "x" * 120)
    warnings.warn("a warning of a library")
    print("a print of a library", file=sys.stderr)
    time.sleep(0.3)
_terminal.say("The run is there.")
"""
)

FORKED = (
    BEGIN
    + """
with _terminal.progress() as progress:
    progress(ProgressEvent("predict", "", 0, 2))
    time.sleep(0.6)
    if os.fork() == 0:
        log.info("a line of a forked worker")
        os._exit(0)
    os.wait()
    time.sleep(0.6)
    progress(ProgressEvent("predict", "b", 2, 2))
"""
)

CASES = (
    BEGIN
    + """
with told_in_one_line("predict"), _terminal.progress() as progress:
    progress(ProgressEvent("predict", "", 1, 5))
    for done in (2, 3, 4, 5):
        time.sleep(PAUSE)
        if done == 3:
            log.error("case 'c3' [red]: %s", "cannot be read " * 8)
        progress(ProgressEvent("predict", f"case_[{done}]", done, 5, int(done >= 3)))
    time.sleep(0.3)
"""
)

JOBS = (
    BEGIN
    + """
import pathlib
from segflow.apps import _launch_table
from segflow.apps._launched_child import JobEnd
from segflow.execution.job_state import JobState
from dataclasses import asdict
import json

_launch_table.READ_EVERY_SECONDS = _launch_table.LINE_EVERY_SECONDS = 0.0
names = [f"optimizer.lr={n} fold={n % 5}" for n in range(200)]
files = {name: pathlib.Path(f"{n}.state") for n, name in enumerate(names)}
with _launch_table.States(names, files) as states:
    for name in names[100:103]:
        states.runs(name)
        files[name].write_text(json.dumps(asdict(JobState("train", 3, 10, 0.7123, 4320.0))))
    states.runs(names[5])
    states.ends(JobEnd(names[5], "disk [full]"))
    files[names[101]].write_text("{")
    states.look()
    time.sleep(0.6)
    for name in names[100:103]:
        states.ends(JobEnd(name, value=0.75))
"""
)


def run(script: str, columns: int, **more: str) -> Seen:
    return look_at(["-c", script.replace("PAUSE", "0.3")], columns=columns, **more)  # type: ignore[arg-type]


def without_terminal(script: str, folder: Path | None = None, **environment: str) -> str:
    command = [sys.executable, "-c", script.replace("PAUSE", "0.02")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, cwd=folder)
    return done.stdout.decode()


@pytest.mark.parametrize("columns", [80, 140])
def test_lines_of_a_training_are_whole_and_its_bar_stays_below_them(columns: int) -> None:
    seen = run(TRAINING, columns)
    assert seen.code == 0, seen.lines
    assert seen.cursor_shown
    text = "".join(line.ljust(columns) for line in seen.lines)
    for epoch in (1, 2, 3):
        assert text.count(f"epoch {epoch}/10 | {'x' * 120} | the end") == 1
    for line in ("a print of a library", "The run is there."):
        assert line in seen.lines
    assert "a warning of a library" in text
    assert not any("step" in line or "left" in line for line in seen.lines), "nothing of the bar is left"
    assert seen.lines[-1] == "The run is there."
    bars = seen.meanwhile("step 120/250")
    assert {re.sub(r"\s+[━╸╺]+\s+", " ", bar) for bar in bars} == {
        f"epoch {epoch}/10 step 120/250  loss -0.5123  0.425 s/step" for epoch in (1, 2, 3)
    }
    assert all(frame.count(bar) == 1 for bar in bars for frame in seen.frames if bar in frame)
    (below,) = {re.sub(r"ends .*?\d\d:\d\d", "ends", line) for line in seen.meanwhile("left", "network")}
    assert below == "1 h 12 min left, ends | network 81%, data 3%, validation 12%, files 4%"


@pytest.mark.parametrize("columns", [80, 140])
def test_an_error_does_not_tear_the_bar_of_a_prediction(columns: int) -> None:
    seen = run(CASES, columns)
    assert seen.code == 0, seen.lines
    text = "".join(line.ljust(columns) for line in seen.lines)
    assert f"case 'c3' [red]: {'cannot be read ' * 8}".strip() in text
    assert re.fullmatch(r"predict 5/5 in \d\.\d s, \d\.\d/s, 1 failed", seen.lines[-1])
    bars = seen.meanwhile("predict", "4/5")
    assert bars
    assert all("1 failed" in bar and bar.endswith("case_[4]") and " left" in bar for bar in bars)


def test_a_forked_worker_does_not_write_into_the_bar() -> None:
    seen = run(FORKED, 80)
    assert seen.code == 0, seen.lines
    assert "a line of a forked worker" in seen.lines
    assert seen.lines[-1].startswith("predict 2/2 in")


def test_ctrl_c_leaves_a_clean_terminal_and_says_what_to_do() -> None:
    seen = look_at(["-c", CASES.replace("PAUSE", "60")], columns=80, interrupt_at="1/5")
    assert seen.code == 130
    assert seen.cursor_shown
    assert seen.lines == ["segflow predict: ended by Ctrl-C; to continue, run the same command again"]


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"CI": "true"}], ids=str)
def test_nothing_is_drawn_where_nobody_looks(variable: dict[str, str]) -> None:
    seen = run(CASES, 80, **variable)
    assert b"\x1b" not in seen.raw
    assert seen.raw.count(b"\r") == seen.raw.count(b"\r\n")
    assert re.fullmatch(r"predict 5/5 in \d\.\d s, \d\.\d/s, 1 failed", seen.lines[-1])


def test_no_color_keeps_the_bar_without_colours() -> None:
    seen = run(CASES, 80, NO_COLOR="1")
    assert seen.meanwhile("predict", "4/5")
    assert not re.search(rb"\x1b\[[0-9;]*(3\d|9\d)[0-9;]*m", seen.raw)


def test_a_pipe_gets_lines_at_times_and_no_codes(tmp_path: Path) -> None:
    often = "\n_shown_progress.LINE_EVERY_SECONDS = _shown_progress.TRAINING_LINE_EVERY_SECONDS = 0.0\n"
    told = without_terminal(TRAINING.replace(BEGIN, BEGIN + often))
    line = r"epoch 2/10 \| step 120/250 \| loss -0\.5123 \| 0\.425 s/step \| 1 h 12 min left, ends .*\d\d:\d\d"
    assert len(re.findall(f"^{line}$", told, re.MULTILINE)) == 1
    assert "\x1b" not in told
    assert "\r" not in told
    cases = without_terminal(CASES.replace(BEGIN, BEGIN + often))
    assert re.search(r"^predict 4/5, \S+, 0\.\d s left, 1 failed$", cases, re.MULTILINE)
    assert without_terminal(CASES).count("predict") == 1


@pytest.mark.parametrize("rows", [16, 24])
def test_a_table_of_200_jobs_fits_the_terminal(tmp_path: Path, rows: int) -> None:
    seen = look_at(["-c", JOBS], columns=80, rows=rows, folder=tmp_path)
    assert seen.code == 0, seen.lines
    # The last line is erased first and drawn last: a frame that has it has all.
    frame = next(
        frame for frame in seen.frames if frame and "3 running" in frame[0] and frame[-1].lstrip().startswith("and ")
    )
    assert frame[0] == "200 jobs: 3 running, 1 failed, 196 waiting"
    assert frame[1].split() == ["job", "state", "at", "Dice", "time", "left"]
    assert [line.split()[0] for line in frame[2:6]] == [f"optimizer.lr={n}" for n in (100, 101, 102, 5)]
    assert re.search(r"running\s+epoch 3/10\s+0\.7123\s+0\.\d s\s+1 h 12 min$", frame[2])
    assert re.search(r"running\s+0\.\d s$", frame[3]), "what it told cannot be read"
    assert "disk [full]" in frame[5]
    assert frame[-1].strip() == f"and {200 - (rows - 7)} more: {200 - (rows - 7)} waiting"
    assert sum("result 0.7500" in line for line in seen.lines) == 3, "the whole table stays at the end"
    assert len([line for line in seen.lines if line.startswith("optimizer.lr=")]) == 200
    told = without_terminal(JOBS, tmp_path)
    assert (
        "3 running, 1 failed, 196 waiting. optimizer.lr=100 fold=0: epoch 3/10, Dice 0.7123, 1 h 12 min left; " in told
    )
    assert "optimizer.lr=5 fold=0: failed after 0.0 s: disk [full]" in told
    assert "\x1b" not in told


def test_a_job_writes_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segflow.execution import job_state
    from segflow.execution.progress import TrainingEvent

    file = tmp_path / "job.state"
    monkeypatch.setenv(STATE_FILE, str(file))
    monkeypatch.setattr(job_state, "_written", -1e9)
    assert read_state(file) is None
    job_state.tell(TrainingEvent("train", "", 600, 2500, epoch=3, epochs=10, dice=0.5), 60.0)
    job_state.tell(TrainingEvent("train", "", 601, 2500, epoch=4, epochs=10, dice=0.6), 50.0)
    state = read_state(file)
    assert state is not None
    assert (state.stage, state.done, state.total, state.dice, state.rest_seconds) == ("train", 3, 10, 0.5, 60.0)
    for broken in ("", "{}", "[1]", json.dumps({"stage": "train", "done": "x", "total": 1})):
        file.write_text(broken)
        assert read_state(file) is None
