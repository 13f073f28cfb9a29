"""Jobs of a launcher: command lines of segflow that run as processes of their own, here or on a cluster.

``hydra/launcher=slurm|ray|joblib|gpus`` chooses the engine; without it jobs run on this machine, one after another.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.apps._launch_engines import engine_of
from segflow.apps._launch_table import States
from segflow.apps._launched_child import Child, JobEnd, passed_variables

__all__ = ["JobEnd", "LaunchedJob", "failures", "launch"]

LOOK_EVERY_SECONDS = 0.2
LOGS_EVERY_SECONDS = 1.0
"""Seconds between two looks for logs of jobs that have begun."""
LONGEST_NAME = 80

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaunchedJob:
    """One command line.

    Attributes:
        name: Name in tables and messages, such as ``fold=0``. No other job of the same launch has it.
        command: Name of the command, such as ``train``.
        arguments: Arguments as typed after it.
        environment: Environment variables of its own.
    """

    name: str
    command: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def launch(jobs: Sequence[LaunchedJob], launcher: Mapping[str, Any] | None = None) -> list[JobEnd]:
    """Run jobs, each as a process of its own, and wait for all of them. The failure of one ends no other.

    A signal that ends this process ends the jobs too; a training keeps its checkpoint.

    Args:
        jobs: The jobs. Each starts as soon as the engine has a place for it.
        launcher: What ``hydra/launcher=WORD`` composes to, see `_invocation.launcher`; None for this machine.

    Returns:
        The end of each job, in the order of the jobs.

    Raises:
        SegflowError: The engine is not there, or does not take the jobs.
    """
    if not jobs:
        return []
    options = dict(launcher or {})
    engine = engine_of(options)
    folder = _own_folder(options)
    environment = passed_variables()
    children = {
        job.name: Child(
            job.name,
            (job.command, *job.arguments),
            folder / f"{number}-{_file_name(job.name)}.log",
            Path.cwd(),
            {**environment, **job.environment},
        )
        for number, job in enumerate(jobs)
    }
    ends: dict[str, JobEnd] = {}
    try:
        with States(list(children), {name: child.state_file for name, child in children.items()}) as states:
            for attempt in range(int(options.get("retries") or 0) + 1):
                left = [child for name, child in children.items() if name not in ends or ends[name].error is not None]
                if not left:
                    break
                for child in left if attempt else ():
                    states.again(child.name)
                    child.log.unlink(missing_ok=True)
                with closing(engine(left, options)) as events, _told_of_interrupts():
                    for end in _followed(events, left, states):
                        ends[end.name] = end
        return [ends[name] for name in children]
    finally:
        nothing_said = not any(child.log.exists() for child in children.values())
        if nothing_said or (len(ends) == len(children) and not failures(ends.values())):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it holds the logs of others, or is not ours
                if options.get("folder"):
                    folder.parent.rmdir()


def failures(ends: Iterable[JobEnd]) -> list[str]:
    """One message for each job that failed."""
    return [f"{end.name}: {end.error}" for end in ends if end.error is not None]


def _followed(events: Iterator[JobEnd | None], children: Sequence[Child], states: States) -> Iterator[JobEnd]:
    """The ends of jobs as they come. What has begun or ended is shown."""
    waiting = {child.name: child for child in children}
    looked = -LOGS_EVERY_SECONDS
    for event in events:
        if event is None:
            if waiting and time.monotonic() - looked >= LOGS_EVERY_SECONDS:
                looked = time.monotonic()
                there = {file.name for file in children[0].log.parent.iterdir()}  # one question for many jobs
                for name in [name for name, child in waiting.items() if child.log.name in there]:
                    del waiting[name]
                    states.runs(name)
            states.look()
            time.sleep(LOOK_EVERY_SECONDS)
            continue
        waiting.pop(event.name, None)
        states.ends(event)
        yield event


@contextmanager
def _told_of_interrupts() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("ending the jobs that run, which may take a minute; a training keeps its last whole epoch")
        raise


def _own_folder(options: Mapping[str, Any]) -> Path:
    """A new folder for the logs of one launch: where the launcher says, else a temporary one of this machine."""
    place = options.get("folder")
    if place is not None:
        Path(place).mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y-%m-%d-%H%M%S-"), dir=place)).absolute()


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", name)[:LONGEST_NAME]
