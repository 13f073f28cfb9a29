"""``segflow COMMAND [KEY=VALUE …]``: finds the command and hands it to the edge. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from io import TextIOWrapper

from segflow.apps._signals import told_in_one_line

COMMANDS = {
    "demo": "the whole job on a phantom that segflow makes itself, or on dataset=hippocampus",
    "convert": "decathlon or nnU-Net v1 task, CSV list of files, or labels such as 0 and 255 → raw dataset",
    "doctor": "everything that is wrong with a raw dataset",
    "plan": "raw dataset → fingerprint, plans and splits",
    "preprocess": "raw dataset and plans → arrays for training",
    "train": "one fold; -m fold=0,1,2,3,4 trains them one after another",
    "predict": "images and a trained run → label maps",
    "ensemble": "probabilities of several predictions → label maps",
    "evaluate": "label maps and references → scores",
    "postprocess": "choose steps on a cross-validation, or apply them to a folder",
    "select": "trained runs → the configuration or ensemble to predict with",
    "run": "raw dataset → everything above, up to the chosen ensemble's predictions of imagesTs",
    "report": "trained run → one page with scores, curves and pictures",
    "bundle": "runs ↔ model files, ours and nnU-Net v2's",
}

RANK_COMMAND = "SEGFLOW_COMMAND"
"""Lightning starts the other ranks of a run with the same arguments but without the command; it is kept here."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # under ASCII or Latin-1, what cannot be shown becomes a question mark
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and RANK_COMMAND in os.environ:
        arguments.insert(0, os.environ[RANK_COMMAND])
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return
    if arguments[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        sys.stdout.write(f"segflow {version('segflow')}\n")
        return
    command, *rest = arguments
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean 'segflow {near[0]}'?" if near else f"; there are: {', '.join(COMMANDS)}"
        sys.stderr.write(f"segflow: there is no command '{command}'{hint}\n")
        raise SystemExit(2)
    os.environ[RANK_COMMAND] = command
    # Threads of GNU OpenMP wait for each other by spinning. On a machine that others use too, one that has lost its
    # core then keeps the others busy, and a training step takes much longer. A short spin costs a quiet machine a
    # little, and a shared one far less. It is read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with told_in_one_line(command):
        from segflow.apps import _edge

        _edge.start(command, rest)


def overview() -> str:
    """The text of ``segflow --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return (
        "segflow: medical image segmentation that configures itself\n\n"
        "Use: segflow COMMAND [KEY=VALUE …]\n\n" + "\n".join(lines) + "\n\n"
        "segflow COMMAND --help shows its settings and their values.\n"
        "segflow COMMAND --cfg job prints the configuration that a command line composes.\n"
    )


if __name__ == "__main__":
    main()
