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


def test_what_an_earlier_start_has_done_has_no_speed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "segflow.apps._shown_progress"), _terminal.progress() as progress:
        progress(ProgressEvent("predict", "", 3, 3))
    assert caplog.messages == ["predict 3/3"]
