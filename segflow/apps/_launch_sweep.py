"""The jobs that a sweeper of Hydra hands to segflow's launcher, ``hydra_plugins.segflow.Jobs``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from segflow.apps import _command_line, _composition, _invocation
from segflow.apps._launch import JobEnd, LaunchedJob, launch
from segflow.apps._launch_table import States
from segflow.apps._own_parts import use_own_reader
from segflow.execution import job_state

if TYPE_CHECKING:
    from segflow.apps._training import Trained

logger = logging.getLogger(__name__)

Tell = Callable[[str, str], None]


class Swept:
    """What is known only where a command starts.

    Attributes:
        command: Its name.
        tell: Called with the name and the cause of each job that failed.
        users_errors: Within this context the user's own choice of tracebacks holds.
        states: What shows the jobs that this process runs itself; None if there are none.
        names: Number of such a job → its name.
    """

    command: ClassVar[str] = ""
    tell: ClassVar[Tell] = staticmethod(lambda name, cause: None)
    users_errors: ClassVar[Callable[[], AbstractContextManager[None]]] = nullcontext
    states: ClassVar[States | None] = None
    names: ClassVar[dict[int, str]] = {}


@contextmanager
def in_turn(job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[None]:
    """Show the states of jobs that this process runs itself, one after another, in the block.

    Args:
        job_overrides: The overrides of each job.
        first: Number of the first job.
    """
    names = _names(job_overrides, first)
    if len(names) == 1:  # as of a search, which asks for them one by one
        logger.info("%s: %s", names[0], " ".join(_typed(override) for override in job_overrides[0]))
        yield
        return
    with States(names) as Swept.states:
        Swept.names = dict(enumerate(names, first))
        try:
            yield
        finally:
            Swept.states = None


def shown(job: Callable[[], float | None]) -> float | None:
    """Run a job in this process. If it is one of a sweep, its state is shown.

    Args:
        job: Runs it, and returns its value.
    """
    states = Swept.states
    if states is None:
        return job()
    name = Swept.names[int(HydraConfig.get().job.num)]
    states.runs(name)
    job_state.listeners[:] = [partial(states.tells, name)]
    try:
        value = job()
    except Exception as error:
        states.ends(JobEnd(name, str(error)))
        raise
    finally:
        job_state.listeners.clear()
    states.ends(JobEnd(name, value=value))
    return value


def run_jobs(
    config: DictConfig, context: HydraContext, job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Run jobs of a sweep. A job that fails has no value, and the others go on.

    Args:
        config: The sweep's configuration, with Hydra's section.
        context: Hydra's context.
        job_overrides: The overrides of each job.
        first: Number of the first job.
    """
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    flags = _invocation.config_flags()
    named = dict(zip(_names(job_overrides, first), job_overrides, strict=True))
    jobs = {
        name: LaunchedJob(name, Swept.command, [*flags, *map(_command_line.unmarked, overrides)])
        for name, overrides in named.items()
    }
    ends = {}
    for number, (name, overrides) in enumerate(named.items()):
        done = _done_before(config, context, overrides, first + number)
        if done is not None:
            ends[name] = JobEnd(name, value=done.value)
            logger.info("%s: done before", name)
    with Swept.users_errors():
        launched = launch(
            [job for name, job in jobs.items() if name not in ends], _composition.plain(config.hydra.launcher)
        )
    ends |= {end.name: end for end in launched}
    for end in ends.values():
        if end.error is not None:
            Swept.tell(end.name, end.error)
    return [_returned(ends[name], overrides) for name, overrides in named.items()]


def _done_before(config: DictConfig, context: HydraContext, overrides: Sequence[str], number: int) -> Trained | None:
    """The result of a training that has nothing to do."""
    if Swept.command != "train":
        return None
    from segflow.apps._finished import trained_before  # slow: it reads datasets and scores

    job = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.num = number
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(job)
    try:
        settings = _composition.record(Swept.command, job)
        use_own_reader(settings.reader)
        return trained_before(settings)
    finally:
        HydraConfig.instance().cfg = before


def _names(job_overrides: Sequence[Sequence[str]], first: int) -> list[str]:
    """A name for each job: the overrides in which jobs differ, or its number."""
    common = set(job_overrides[0]).intersection(*job_overrides) if len(job_overrides) > 1 else set()
    names = [" ".join(_typed(override) for override in own if override not in common) for own in job_overrides]
    if len(names) == 1 or len(set(names)) < len(names):
        return [f"job {first + number}" for number in range(len(names))]
    return names


def _typed(override: str) -> str:
    key, _, value = _command_line.unmarked(override).partition("=")
    quoted = value[:1] in ("'", '"') and value[-1:] == value[:1]
    return f"{key}={value[1:-1] if quoted else value}"


def _returned(end: JobEnd, overrides: Sequence[str]) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED)
    result.return_value = end.value
    return result
