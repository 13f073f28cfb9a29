"""Tables and progress say what they were given."""

from __future__ import annotations

import logging

import pytest

from segflow.apps import _terminal
from segflow.execution.progress import ProgressEvent


def test_square_brackets_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    _terminal.table("runs/[a]", ("label", "HD95 [mm]"), [("[red]", "0.1 [0.0, 0.2]"), ("[/x]", 0.5)])
    shown = capsys.readouterr().out
    for text in ("runs/[a]", "HD95 [mm]", "[red]", "0.1 [0.0, 0.2]", "[/x]", "0.5000"):
        assert text in shown


def test_numbers_are_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, no colours
    names = ("label", *(f"score {number}" for number in range(7)), "cases")
    _terminal.table("scores", names, [("kidney", *(f"0.{number}73 [0.066, 0.080]" for number in range(7)), 6)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(f"0.{number}73 [0.066, 0.080]" in text for number in range(7))
    assert "…" not in text
    assert text.count("kidney") == text.count("label") == 3
    _terminal.table("problems", ("case", "what to do"), [("a", "Turn it. " * 20)])
    assert capsys.readouterr().out.count("what to do") == 1  # sentences are wrapped


def test_what_an_earlier_start_has_done_has_no_speed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "segflow.apps._shown_progress"), _terminal.progress() as progress:
        progress(ProgressEvent("predict", "", 3, 3))
    assert caplog.messages == ["predict 3/3"]
