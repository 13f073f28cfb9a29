"""``segflow COMMAND [KEY=VALUE …]``: finds the command and starts it. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from io import TextIOWrapper
from pathlib import Path

from segflow.apps._purposes import COMMANDS
from segflow.apps._signals import told_in_one_line
from segflow.execution.place import is_started_by_lightning

COMPLETION_FLAGS = {"-sc", "--shell-completion"}

RANK_COMMAND = "SEGFLOW_COMMAND"
"""Environment variable with the command, since Lightning starts other ranks with the arguments but without it."""

LAUNCHED_BY = "SEGFLOW_LAUNCHED_BY"
"""Environment variable of a launched job: the process whose end also ends the job."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # characters that ASCII or Latin-1 cannot show become question marks
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if is_started_by_lightning():
        arguments.insert(0, os.environ[RANK_COMMAND])
    arguments = _answered(arguments)
    if not arguments:
        return
    command, *rest = arguments
    if LAUNCHED_BY in os.environ:
        from segflow.apps._launched_child import end_with_parent

        end_with_parent()
    os.environ[RANK_COMMAND] = command
    # Threads of GNU OpenMP spin while they wait for each other. On a shared machine a thread that has lost its core
    # keeps the others spinning, and a training step takes much longer. A short spin costs little on a quiet machine
    # and helps a lot on a shared one. The setting is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform == "darwin":  # operations that MPS lacks are computed on the CPU; read as torch is loaded
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    with told_in_one_line(command):
        from segflow.apps import _edge

        _edge.start(command, rest)


def _answered(arguments: list[str]) -> list[str]:
    """The remaining arguments; empty if the question was about segflow itself and was answered here.

    Raises:
        SystemExit: There is no such command.
    """
    first, *rest = arguments or ["--help"]
    if first == "help" and rest:
        first, rest = rest[0], [*rest[1:], "--help"]
    if first in ("-h", "--help", "help"):
        sys.stdout.write(overview())
    elif first in ("-V", "--version", "version") or "--version" in rest:
        from importlib.metadata import version

        sys.stdout.write(f"segflow {version('segflow')}\n")
    elif first in COMPLETION_FLAGS or COMPLETION_FLAGS & set(rest):
        _complete([argument for argument in (first, *rest) if argument not in (*COMPLETION_FLAGS, *COMMANDS)])
    elif first in COMMANDS and {"-h", "--help"} & set(rest):
        _help(first, rest)
    elif first not in COMMANDS and first.startswith("nnUNet"):
        _answer_nnunet(first, rest)
    elif first not in COMMANDS:
        near = get_close_matches(first, COMMANDS, n=1)
        hint = f"; did you mean 'segflow {near[0]}'?" if near else f"; there are: {', '.join(COMMANDS)}"
        sys.stderr.write(f"segflow: there is no command '{first}'{hint}\n")
        raise SystemExit(2)
    else:
        return [first, *rest]
    return []


def _answer_nnunet(name: str, arguments: list[str]) -> None:
    from segflow.apps import _nnunet_commands, _nnunet_lines

    if _nnunet_commands.is_theirs(name):
        text = _nnunet_lines.answer(name, arguments)
    else:
        text = f"there is no command '{name}' in nnU-Net 2.8; {_nnunet_commands.PAGE} lists them"
    sys.stderr.write(f"segflow: {text}\n")
    raise SystemExit(2)


def _complete(asked: list[str]) -> None:
    from segflow.apps import _completion
    from segflow.core.errors import SegflowError

    try:
        sys.stdout.write(_completion.answer(asked))
    except SegflowError as error:
        sys.stderr.write(f"segflow: {error}\n")
        raise SystemExit(2) from None


def _help(command: str, arguments: list[str]) -> None:
    from segflow.apps import _help, _shipped
    from segflow.apps._command_line import values_of
    from segflow.core.errors import SegflowError

    own = [*_shipped.folders_of_environment(), *map(Path, values_of("--config-dir", arguments))]
    try:
        _help.show(command, arguments, [_shipped.config_dir(), *own])
    except SegflowError as error:
        sys.stderr.write(f"segflow {command}: {error}\n")
        raise SystemExit(2) from None
    except BrokenPipeError:  # such as the end of `head`
        raise SystemExit(130) from None


def overview() -> str:
    """The text of ``segflow --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return (
        "segflow: medical image segmentation that configures itself\n\n"
        "Use: segflow COMMAND [KEY=VALUE …]\n\n" + "\n".join(lines) + "\n\n"
        "segflow COMMAND --help shows its settings, what they mean and their defaults.\n"
        "segflow COMMAND --cfg job prints the configuration that a command line composes.\n"
        'eval "$(segflow -sc install=bash)" completes command lines at Tab; zsh and fish too.\n'
    )


if __name__ == "__main__":
    main()
