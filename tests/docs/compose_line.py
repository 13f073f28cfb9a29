"""``python compose_line.py ARGUMENTS``: checks that ``segflow ARGUMENTS`` is understood, and runs nothing."""

from __future__ import annotations

import os
import sys

from segflow.apps import _command_line, _composition, _first_words, _messages, _shipped, _user_files
from segflow.apps.main import _answered

if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    rest = _answered(sys.argv[1:])
    if rest:
        command, *arguments = rest
        folders = [_shipped.config_dir()]
        try:
            folders += _user_files.user_folders(arguments)
            _first_words.check(command, arguments, folders)
            _composition.checked(command, _command_line.rewrite(command, arguments, folders), folders)
        except Exception as error:
            raise SystemExit(f"segflow {command}: {_messages.explain(error, folders, command)[0]}") from error
