"""A command line of nnU-Net, answered with the line to type here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from segflow.apps import _nnunet_names
from segflow.apps._nnunet_commands import (
    COMMANDS,
    PAGE,
    PART_OF_RUN,
    RUN_FOLDER,
    TRAINER_CLASS,
    V1_COMMANDS,
    Equivalent,
    Note,
)
from segflow.core.names import is_number

_LISTS = ("folds", "members", "configurations", "planner.target_spacing")


def answer(name: str, arguments: Sequence[str]) -> str:
    """What to type in place of a command line of nnU-Net, in one line."""
    if name in V1_COMMANDS:
        ours = V1_COMMANDS[name]
        return f"nnU-Net v1's {name} is here 'segflow {ours}'; {PAGE} lists its flags"
    line = _Translation(COMMANDS[name])
    line.read(arguments)
    remarks = "".join(f" {flag}: {remark}." for flag, remark in line.remarks.items())
    words = shlex.join(["segflow", *line.words()])
    return f"nnU-Net's {name} is here 'segflow {COMMANDS[name].command}'.{remarks} Type: {words}"


@dataclass(slots=True)
class _Translation:
    """A command line of nnU-Net that is being read.

    Attributes:
        known: The command.
        settings: Our setting → its value.
        remarks: Flag → what is said of it.
        run: Flag → what it says of the run's folder.
    """

    known: Equivalent
    settings: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)

    def read(self, arguments: Sequence[str]) -> None:
        """Read all arguments. nnU-Net's flags with two dashes are switches, those with one take values."""
        rest, places = list(arguments), list(self.known.places)
        while rest:
            word = rest.pop(0)
            if word.startswith("-"):
                values: list[str] = []
                while not word.startswith("--") and rest and not re.match(r"-\D", rest[0]):
                    values.append(rest.pop(0))
                self._flag(word, values)
            elif places and (key := places.pop(0)):
                self._set(key, [word])
            else:
                self.run["-d"] = word

    def words(self) -> list[str]:
        """The words behind ``segflow``."""
        if self.known.run:
            self.settings.setdefault(self.known.run, self._folder() if self.run else RUN_FOLDER)
        several = "," in self.settings.get("dataset", "")
        given = [f"{key}={value}" for key, value in self.settings.items()]
        return [*self.known.ours.split(), *(["-m"] if several else []), *given]

    def _flag(self, flag: str, values: Sequence[str]) -> None:
        to = self.known.flags.get(flag)
        if to is None:
            self.remarks[flag] = "nnU-Net 2.8 has no such flag"
        elif to is TRAINER_CLASS:
            self._trainer_class(values)
        elif to is PART_OF_RUN:
            self.run[flag] = " ".join(values)
        elif isinstance(to, Note):
            self.remarks[flag] = to
        elif to == "part" and values:
            part, _, number = self.settings.get("part", "0/1").partition("/")
            self.settings["part"] = f"{part}/{values[0]}" if flag == "-num_parts" else f"{values[0]}/{number}"
        else:
            self._set(to, values)

    def _trainer_class(self, values: Sequence[str]) -> None:
        settings = _nnunet_names.settings_of_class(" ".join(values))
        for setting in settings or ():
            self._set(setting, [])
        if settings is None:
            self.remarks[" ".join(["-tr", *values])] = f"{PAGE} lists the settings for each trainer class"

    def _set(self, to: str, values: Sequence[str]) -> None:
        key, equals, value = to.partition("=")
        given = ",".join([value] if equals else [_value(key, one) for one in values])
        self.settings[key] = f"[{given}]" if key in _LISTS and "," in given else given

    def _folder(self) -> str:
        """The folder of the run that nnU-Net finds by dataset, plans and configuration."""
        dataset = self.run.get("-d", "DATASET")
        dataset = f"Dataset{int(dataset):03d}_NAME" if is_number(dataset) else dataset
        return f"outputs/{dataset}/{self.run.get('-p', 'nnUNetPlans')}/{self.run.get('-c', '3d_fullres')}/default"


def _value(key: str, value: str) -> str:
    """A value of nnU-Net's in segflow's words."""
    if key == "overlap" and re.fullmatch(r"[\d.]+", value):
        return f"{1 - float(value):g}"
    if key == "checkpoint":
        return re.sub(r"^checkpoint_(\w+)\.pth$", r"\1", value).replace("latest", "last")
    if key == "planner":
        return _nnunet_names.planner_of(value) or value
    if key == "dataset_id" and (number := re.match(r"Dataset(\d+)_", value)):
        return str(int(number[1]))
    return value
