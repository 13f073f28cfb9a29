"""The cases of one command, shared by jobs that each do a part of them.

The jobs are those of ``hydra/launcher=``, or processes on this machine.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from segflow.apps import _invocation, _terminal
from segflow.apps._job_results import Warned
from segflow.apps._launch import LaunchedJob, launch
from segflow.apps._launch_engines import DEVICES, visible_devices
from segflow.apps._records import Sharded
from segflow.apps._typed_again import as_arguments
from segflow.core.case_part import divided, part_of
from segflow.core.errors import SegflowError
from segflow.core.wording import counted, some
from segflow.execution.machine import processor_count
from segflow.execution.progress import Progress, silent

logger = logging.getLogger(__name__)

AT_ONCE: Mapping[str, Any] = {"engine": "at_once"}
"""The launcher that runs all jobs at once on this machine."""
GPU = "cuda"
ENDED = "ended before it was done: "
_LEFT = re.compile(rf"case '(?P<case>.+)': (?P<job>part=\d+/\d+ {ENDED}.*)", re.DOTALL)
"""The message about a case whose job failed as a whole."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is special to one of the jobs.

    Attributes:
        settings: Its settings; ``inference__device`` is ``inference.device``.
        environment: Its environment variables.
    """

    settings: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Shards:
    """Has the cases of a command done by jobs: an `Elsewhere`.

    Attributes:
        command: Name of the command.
        settings: Its record, or one that has all of its settings.
        section: Section with the setting ``part``.
        places: One for each job. There are no more jobs than cases.
        launcher: What runs the jobs, see `launch`.
        warned: The warnings of this process.
    """

    command: str
    settings: Any
    section: str
    places: Sequence[Place]
    launcher: Mapping[str, Any]
    warned: Warned = field(default_factory=Warned)

    def __call__(self, names: Sequence[str], missing: Collection[str]) -> dict[str, str]:
        """Run a job for each part that has cases to do, and wait for all of them.

        Returns:
            Case → message, for the cases that failed or were left.
        """
        count = min(len(self.places), len(names))
        whole, wanted = getattr(self.settings, self.section).part, set(missing)
        todo = {f"part={part}": part_of(names, f"{k}/{count}") for k, part in enumerate(divided(whole, count))}
        jobs = [
            self._job(name, place)
            for (name, cases), place in zip(todo.items(), self.places, strict=False)
            if wanted & set(cases)
        ]
        told: dict[str, str] = {}
        for end in launch(jobs, self.launcher):
            self._warn(end.warnings)
            told |= end.failed
            if end.error is not None and not end.failed:
                left = [case for case in todo[end.name] if case in wanted]
                told |= {case: f"case '{case}': {end.name} {ENDED}{end.error}" for case in left}
        return told

    def _warn(self, messages: Sequence[str]) -> None:
        """Log warnings of a job that neither this process nor another job has logged."""
        for message in messages:
            if message not in self.warned.messages:
                logger.warning("%s", message)

    def _job(self, name: str, place: Place) -> LaunchedJob:
        own = {"shards": 1, f"{self.section}__part": name.removeprefix("part="), **place.settings}
        return LaunchedJob(name, self.command, as_arguments(self.command, self.settings, **own), place.environment)


def of_jobs(command: str, settings: Sharded, section: str) -> Shards | None:
    """The jobs that share the cases, if more than one are asked for, or a launcher is named; else None.

    Args:
        command: Name of the command.
        settings: Its record, or one that has all of its settings.
        section: Section with the setting ``part``.
    """
    launcher = _invocation.launcher() if _invocation.has_launcher() else {}
    if settings.shards == 1 and not launcher:
        return None
    return Shards(command, settings, section, [Place()] * settings.shards, launcher)


@contextmanager
def progress(shards: Shards | None) -> Iterator[Progress]:
    """Yield what shows the progress of a command. Jobs show their states themselves."""
    if shards is None:
        with _terminal.progress() as shown:
            yield shown
    else:
        with shards.warned:
            yield silent


def of_devices(settings: Any) -> Shards | None:
    """The processes that predict at once, if ``inference.devices`` names several devices; else None.

    Args:
        settings: The record of ``segflow predict``.

    Raises:
        SegflowError: A device is not there.
    """
    devices = named_devices(settings.inference.devices)
    if len(devices) < 2:
        return None
    threads = {"OMP_NUM_THREADS": str(max(1, processor_count() // len(devices)))}
    shared = {} if "OMP_NUM_THREADS" in os.environ else threads
    gpus = visible_devices() if any(_gpu_number(device) is not None for device in devices) else []
    places = []
    for device in devices:
        number = _gpu_number(device)
        chosen = {"inference__devices": None, "inference__device": device if number is None else GPU}
        places.append(Place(chosen, shared if number is None else {**shared, DEVICES: gpus[number]}))
    return Shards("predict", settings, "inference", places, AT_ONCE)


def named_devices(asked: str | Sequence[str] | None) -> list[str]:
    """The devices that ``inference.devices`` names, such as ``cuda:0``; none if it is null, or auto without a GPU.

    Raises:
        SegflowError: There is no such GPU.
    """
    if asked is None:
        return []
    if asked == "auto":
        return [f"{GPU}:{number}" for number in range(len(visible_devices()))]
    words = [str(number) for number in range(int(asked))] if isinstance(asked, str) and asked.isdecimal() else asked
    words = [words] if isinstance(words, str) else words
    devices = [f"{GPU}:{word}" if word.isdecimal() else f"{GPU}:0" if word == GPU else word for word in words]
    numbers = [number for number in map(_gpu_number, devices) if number is not None]
    if numbers and max(numbers) >= (there := len(visible_devices())):
        raise SegflowError(
            "inference.devices names GPUs that are not there, or not visible to this process",
            found=asked,
            expected=f"{counted(there, 'GPU')}, counted from 0",
        )
    return devices


def _gpu_number(device: str) -> int | None:
    kind, _, number = device.partition(":")
    return int(number) if kind == GPU and number.isdecimal() else None


def problems(messages: Iterable[str]) -> list[str]:
    """Messages about cases that failed: one for all cases that a job left, and one for each other case."""
    left: dict[str, list[str]] = {}
    own = []
    for message in messages:
        if lost := _LEFT.fullmatch(message):
            left.setdefault(lost["job"], []).append(lost["case"])
        else:
            own.append(message)
    return [*(f"{job}; left: {_terminal.cases(len(cases))}, {some(cases)}" for job, cases in left.items()), *own]
