"""Ctrl-C, SIGTERM, and a terminal that cannot show every sign."""

from __future__ import annotations

import io
import os
import signal
import sys
import time

import pytest

from segflow.apps._signals import told_in_one_line
from segflow.apps.main import main


def wait_for_the_end(number: int, cleaned: list[bool]) -> None:
    with told_in_one_line("predict"):
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            cleaned.append(True)


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_a_command_with_one_line_and_the_code_of_a_shell(
    number: int, code: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    cleaned: list[bool] = []
    try:
        with pytest.raises(SystemExit) as caught:
            wait_for_the_end(number, cleaned)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"segflow predict: ended by {name}; to continue, run the same command again\n"
    assert cleaned


def test_after_a_command_signals_are_answered_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="bad"), told_in_one_line("predict"):
        raise ValueError("bad")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding=encoding))
    main(["--help"])
    sys.stdout.flush()
    assert b"raw dataset ? fingerprint, plans and splits" in shown.getvalue()
