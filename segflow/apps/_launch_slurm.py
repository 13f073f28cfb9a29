"""Jobs on a SLURM cluster, by submitit."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from typing import Any

from segflow.apps._launch_contract import ANSWER_SECONDS, OWN, Events, Options, last_line
from segflow.apps._launched_child import Child, JobEnd, RunningChild, wait_for
from segflow.core.errors import SegflowError

SUBMITIT_ONLY = ("max_num_timeout",)

LOST_SECONDS = 30.0
"""How long a job may be absent from SLURM's queue without a result, before it counts as lost."""

BAD_ENDS = {
    "CANCELLED": "it was cancelled in SLURM's queue",
    "TIMEOUT": "SLURM ended it at its time limit (hydra.launcher.timeout_min) without a warning",
    "OUT_OF_MEMORY": "it needed more memory than SLURM gave it (hydra.launcher.mem_gb)",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "SLURM's deadline for it passed",
    "PREEMPTED": "SLURM preempted it and does not queue it again",
    "FAILED": "SLURM could not run it",
}
"""State of a job that SLURM ended → what that means."""

QUEUE_EVERY_SECONDS = 10.0
RESULTS_EVERY_SECONDS = 1.0
"""Seconds between two looks for results, since a cluster's folders may be slow."""

KILL_WAIT_SECONDS = 120.0
"""How long SLURM may take to end a job after its SIGTERM."""


class OnSlurm:
    """What runs on a node of SLURM. At the time limit the job keeps its checkpoint and is queued again."""

    def __init__(self) -> None:
        self._running: RunningChild | None = None

    def __call__(self, child: Child) -> JobEnd:
        """Run the job to its end."""
        try:
            self._running = RunningChild(child)
        except (OSError, SegflowError) as error:
            return JobEnd(child.name, str(error))
        from submitit.core.utils import UncompletedJobError

        try:
            end = wait_for(self._running)
        except UncompletedJobError:  # from within submitit's answer to SLURM's warning
            more = "hydra.launcher.max_num_timeout allows no more; to go on, run the same command again"
            return JobEnd(child.name, f"it met its time limit, and {more} (log: {child.log})")
        if self._running.was_interrupted:  # SLURM ends or requeues this job, which must not count as ended before
            time.sleep(KILL_WAIT_SECONDS)
        return end

    def checkpoint(self, child: Child) -> Any:
        """Called by submitit before the job is queued again."""
        from submitit.helpers import DelayedSubmission

        if self._running is not None:
            self._running.stop()
        return DelayedSubmission(OnSlurm(), child)


def slurm(children: Sequence[Child], options: Options) -> Events:
    """On a SLURM cluster, all jobs as one array."""
    import submitit

    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise SegflowError(
                f"hydra/launcher=slurm needs {program}, which is not on PATH",
                fix="Run it on a login node of the cluster, or choose another launcher: joblib, gpus.",
            )
    folder = children[0].log.parent
    init = {f"slurm_{key}": options[key] for key in SUBMITIT_ONLY if key in options}
    own = {key: value for key, value in options.items() if key not in (*OWN, *SUBMITIT_ONLY) and value is not None}
    general = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
    own["additional_parameters"] = {"requeue": True, **dict(own.get("additional_parameters") or {})}
    parameters = {key if key in general else f"slurm_{key}": value for key, value in own.items()}
    try:
        executor = submitit.AutoExecutor(folder / "slurm-%j", cluster="slurm", **init)
        executor.update_parameters(**parameters, stderr_to_stdout=True)
        with redirect_stderr(io.StringIO()):  # submitit also prints what it raises
            jobs = executor.map_array(OnSlurm(), children)
    except (OSError, submitit.core.utils.FailedJobError, AssertionError, ValueError, TypeError) as error:
        raise SegflowError(
            "SLURM does not take the jobs",
            found="; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines()),
            fix="Check hydra.launcher.partition, account, time and memory; sinfo shows what there is.",
        ) from error
    waiting = {job.task(0): child for job, child in zip(jobs, children, strict=True)}  # its first process tells the end
    absent: dict[Any, float] = {}
    try:
        yield from _ends_on_slurm(waiting, absent)
    finally:
        for job in waiting:
            with suppress(OSError):
                job.cancel(check=False)


def _ends_on_slurm(waiting: dict[Any, Child], absent: dict[Any, float]) -> Events:
    looked, sought = time.monotonic(), -RESULTS_EVERY_SECONDS
    while waiting:
        if time.monotonic() - sought < RESULTS_EVERY_SECONDS:
            yield None
            continue
        sought = time.monotonic()
        for job, child in list(waiting.items()):
            if job.paths.result_pickle.exists():
                del waiting[job]
                error = job.exception()
                yield job.results()[0] if error is None else JobEnd(child.name, last_line(_trace_of(error)))
        if waiting and time.monotonic() - looked >= QUEUE_EVERY_SECONDS:
            looked = time.monotonic()
            present = _in_queue(next(iter(waiting)).job_id.partition("_")[0])
            for job, child in list(waiting.items()):
                if present is None or job.job_id in present or job.paths.result_pickle.exists():
                    absent.pop(job, None)
                elif (missing := looked - absent.setdefault(job, looked)) > 0:
                    cause = BAD_ENDS.get(_state_of(job.job_id))
                    if cause or missing >= LOST_SECONDS:
                        del waiting[job]
                        cause = cause or "it left SLURM's queue without a result: was it cancelled?"
                        yield JobEnd(child.name, f"{cause} (SLURM's job {job.job_id}, log: {child.log})")
        yield None


def _in_queue(array: str) -> set[str] | None:
    """Ids of an array's jobs that wait or run, such as ``12_0``; None if SLURM does not answer."""
    command = ["squeue", "--noheader", "--array", "--format=%F_%K", f"--jobs={array}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return {line.strip().removesuffix("_N/A") for line in answer.stdout.splitlines()}


def _state_of(job: str) -> str:
    """State of a job that SLURM still remembers, such as ``CANCELLED``; empty if it does not."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bJobState=(\w+)", answer.stdout)
    return found[1] if found else ""


def _trace_of(error: BaseException) -> str:
    """The traceback within a message of submitit, which stands between two lines of dashes."""
    parts = re.split(r"^-{10,}$", str(error), flags=re.MULTILINE)
    return parts[1] if len(parts) > 2 else str(error)
