"""Flags: those of Hydra, and segflow's settings for those of nnU-Net.

An unknown flag gives a message of one line, where argparse would print Hydra's usage.
"""

from __future__ import annotations

from collections.abc import Sequence

from segflow.apps._nnunet_commands import setting_of_flag
from segflow.core.errors import SegflowError

WITH_VALUE = {
    "--cfg": "-c", "--package": "-p", "--config-path": "-cp", "--config-name": "-cn", "--config-dir": "-cd",
    "--info": "-i", "--experimental-rerun": "",
}  # fmt: skip
ALONE = (
    *("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"),
    *("--shell-completion", "-sc"),
)
SHOWS = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--shell-completion",
    "-sc",
    "--info",
    "-i",
    "--experimental-rerun",
)
"""Flags with which a command does nothing, or ignores the rest of the command line."""
VALUES = {
    "-c": ("job", "hydra", "all"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-p": None,  # a package may have any name; nnU-Net's -p names plans
}
"""Values that may follow flags of Hydra that nnU-Net has too, with another meaning."""


def check_flags(command: str, flags: Sequence[str]) -> None:
    """Refuse a flag that Hydra does not know, or that has nnU-Net's meaning.

    Args:
        command: Name of the command.
        flags: Flags as typed, each followed by its value, if any.

    Raises:
        SegflowError: There is no such flag. The error names segflow's setting for it.
    """
    known = {*ALONE, *WITH_VALUE, *(short for short in WITH_VALUE.values() if short)}
    for position, flag in enumerate(flags):
        if not flag.startswith("-") or flag == "-":
            continue
        name, _, value = flag.partition("=")
        following = value or next(iter(flags[position + 1 : position + 2]), "")
        if name in known and (name not in VALUES or _is_hydras(name, following)):
            continue
        here = setting_of_flag(command, name)
        raise SegflowError(
            f"there is no flag '{name}'" if name not in known else f"'{flag} {following}' is not understood".strip(),
            expected="settings, written KEY=VALUE",
            fix=f"nnU-Net's {name} is here {here}." if here else f"segflow {command} --help lists them.",
        )


def _is_hydras(name: str, value: str) -> bool:
    allowed = VALUES[name]
    return value in allowed if allowed else not value.startswith("nnUNet")
