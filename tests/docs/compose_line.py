"""``python compose_line.py LINES``: checks that command lines are understood, and runs nothing.

LINES is JSON: a list of command lines, each a list with its place and the words behind ``segflow``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from segflow.apps import _command_line, _composition, _first_words, _messages, _shipped, _user_files
from segflow.apps.main import _answered


def check(place: str, words: Sequence[str]) -> None:
    """End with a message if a command line is not understood."""
    rest = _answered(list(words))
    if not rest:
        return
    command, *arguments = rest
    folders = [_shipped.config_dir()]
    try:
        folders += _user_files.user_folders(arguments)
        _first_words.check(command, arguments, folders)
        _composition.checked(command, _command_line.rewrite(command, arguments, folders), folders)
    except Exception as error:
        told = _messages.explain(error, folders, command)[0]
        raise SystemExit(f"{place}: segflow {' '.join(words)}\n{told}") from error


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    for line in json.loads(sys.argv[1]):
        check(*line)
