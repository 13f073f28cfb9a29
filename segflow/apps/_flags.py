"""Flags: those of Hydra, and segflow's settings for those of nnU-Net.

An unknown flag gives a message of one line, where argparse would print Hydra's usage.
"""

from __future__ import annotations

from collections.abc import Sequence

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

NNUNET = {
    "-d": "dataset=ID", "-c": "configuration=3d_fullres", "-f": "fold=0", "-p": "plans=NAME", "-i": "input=DIR",
    "-o": "output=DIR", "-tr": "settings of `segflow train`; the README lists them for each trainer class",
    "-pl": "planner=resenc_l", "-np": "processes=N", "-npp": "readers=N", "-nps": "writers=N",
    "--verify_dataset_integrity": "a command: segflow doctor", "--clean": "clean=true",
    "--npz": "save_probabilities=true", "--save_probabilities": "probabilities=true",
    "--disable_tta": "mirroring=false",
    "--c": "not needed: the same command continues a training", "--continue_prediction": "not needed: resume=true",
    "--val": "not needed: the same command validates a trained fold",
    "-pretrained_weights": "training.initial_weights=RUN_FOLDER", "-num_gpus": "trainer.devices=N",
    "-device": "trainer.accelerator=cpu", "-step_size": "overlap=0.5", "-chk": "checkpoint=best",
    "-prev_stage_predictions": "previous_stage_predictions=DIR",
    "-num_parts": "part=0/N", "-part_id": "part=K/N", "-djfile": "labels=DATASET_JSON",
}  # fmt: skip
NNUNET_PREDICT = {
    **dict.fromkeys(("-d", "-c", "-p", "-tr"), "model=RUN_FOLDER"),
    "-f": "folds=0",
    "-device": "device=cpu",
}


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
        here = (NNUNET_PREDICT if command == "predict" else {}).get(name, NNUNET.get(name))
        raise SegflowError(
            f"there is no flag '{name}'" if name not in known else f"'{flag} {following}' is not understood".strip(),
            expected="settings, written KEY=VALUE",
            fix=f"nnU-Net's {name} is here {here}." if here else f"segflow {command} --help lists them.",
        )


def _is_hydras(name: str, value: str) -> bool:
    allowed = VALUES[name]
    return value in allowed if allowed else not value.startswith("nnUNet")
