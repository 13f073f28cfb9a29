"""Folds and configurations of ``segflow run`` as jobs of a launcher, in the order that cascades need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segflow.apps import _inputs, _invocation
from segflow.apps._finished import trained_before
from segflow.apps._launch import LaunchedJob, failures, launch
from segflow.core.errors import SegflowError

if TYPE_CHECKING:
    from segflow.apps.run import Run


def train_by_jobs(
    settings: Run, previous: Mapping[str, str | None], folds: Sequence[int]
) -> tuple[list[Path], list[str]]:
    """Train every fold of every configuration, each in a process of its own. What is done is not started.

    Args:
        settings: Settings of the command.
        previous: Configuration → its previous stage, if it is a cascade; each behind its previous stage.
        folds: Numbers of the folds.

    Returns:
        The runs' folders, and a message for each fold that failed or was stopped.
    """
    problems: list[str] = []
    for names in waves(previous):
        named = {f"{name}/{fold}": of_job(settings, f"{name}/{fold}") for name in names for fold in folds}
        missing = [name for name, own in named.items() if trained_before(own) is None]
        jobs = [LaunchedJob(name, "run", [*_invocation.child_arguments(), f"only={name}"]) for name in missing]
        ends = launch(jobs, _invocation.launcher())
        problems += failures(ends)
        for end in ends:
            if end.error is None and not _inputs.read_inputs(named[end.name]).folder.is_finished():
                problems.append(f"{end.name}: stopped before its last epoch")
    first = [of_job(settings, f"{name}/{folds[0]}") for name in previous]
    return [_inputs.read_inputs(own).folder.path.parent for own in first], problems


def of_job(settings: Run, name: str) -> Run:
    """The settings of one job, whose name is ``CONFIGURATION/FOLD``.

    Raises:
        SegflowError: The name has another form.
    """
    configuration, _, fold = name.rpartition("/")
    if not configuration or not (fold.isdigit() or fold == "all"):
        raise SegflowError("cannot read 'only'", found=name, expected="CONFIGURATION/FOLD, such as only=3d_fullres/0")
    return replace(
        settings,
        configuration=replace(settings.configuration, name=configuration),
        fold=replace(settings.fold, index=int(fold) if fold.isdigit() else fold),
    )


def waves(previous: Mapping[str, str | None]) -> Iterator[list[str]]:
    """Configurations that can be trained at the same time: a cascade needs all folds of its previous stage."""
    left = dict(previous)
    while left:
        wave = [name for name, before in left.items() if before not in left]
        for name in wave:
            del left[name]
        yield wave
