"""How the end of a lost process is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segflow.training.watch import advice, how_it_ended, is_alive


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by signal 99"),
        (3, "ended with exit code 3"),
    ],
)
def test_an_exit_code_is_told_in_words(code: int, text: str) -> None:
    assert how_it_ended(code) == text


def test_lack_of_memory_is_told_with_what_needs_less() -> None:
    assert "for lack of memory" in advice(1)
    assert "training.num_workers" in advice(2)
    assert "no lack of memory" in advice(0)


def test_a_process_that_ended_is_not_alive_before_its_parent_has_waited_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_alive(process.pid)
        process.kill()
        while is_alive(process.pid):
            pass
        assert process.wait() == -9
