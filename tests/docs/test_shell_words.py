"""Command lines of help and pages reach segflow as they are written: a shell leaves each word whole."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from pages import DOCS, ROOT, fences


def lines() -> list[str]:
    """All command lines with ``segflow`` that need no variable and no other program."""
    found = []
    for page in ("../README.md", *(str(file.relative_to(DOCS)) for file in sorted(DOCS.rglob("*.md")))):
        found += [text for fence in fences(page) if fence.language in ("sh", "text") for _, text in fence.commands()]
    for file in sorted((ROOT / "conf").glob("*.yaml")):
        found += re.findall(r"^# (segflow .*)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line for line in dict.fromkeys(found) if re.match(r"segflow [^|;&$<>`…]*$", line)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_a_shell_passes_each_word_on_as_it_is_written() -> None:
    written = [(line, shlex.split(line, comments=True)) for line in lines()]
    assert len(written) > 100
    script = "set -f\n" + "".join(f"printf '%s\\n' {line}\necho\n" for line, _ in written)
    answer = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
    seen = [part.split("\n") for part in answer.removesuffix("\n\n").split("\n\n")]
    assert len(seen) == len(written)
    assert [line for (line, words), of_shell in zip(written, seen, strict=True) if words != of_shell] == []
