"""The engines that run jobs: this machine, joblib, SLURM by submitit, Ray.

Each is a function of jobs and options that yields the end of each job as it comes, and None whenever it has looked and
nothing has ended. Closing it ends the jobs that are left. What the options mean stands in ``conf/hydra/launcher``.
"""

from __future__ import annotations

import io
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from importlib.util import find_spec
from typing import Any

from segflow.apps._launched_child import Child, JobEnd, RunningChild, run_child, wait_for
from segflow.apps._synonyms import LAUNCHERS
from segflow.core.errors import SegflowError
from segflow.execution.machine import PROCESSORS_VARIABLE, processor_count

Options = Mapping[str, Any]
Events = Generator[JobEnd | None, None, None]
Engine = Callable[[Sequence[Child], Options], Events]

OWN = ("_target_", "engine", "folder", "retries")
"""Options that concern no engine."""

DEVICES = "CUDA_VISIBLE_DEVICES"
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
KILL_WAIT_SECONDS = 120.0
"""How long SLURM may take to end a job after its SIGTERM."""

ANSWER_SECONDS = 25.0
"""How long a cluster may take to answer."""


def one_by_one(children: Sequence[Child], options: Options) -> Events:
    """On this machine, one job after another."""
    return _in_places(children, [{}])


def gpus(children: Sequence[Child], options: Options) -> Events:
    """On this machine, one job for each visible GPU; the next job when one ends."""
    devices = visible_devices()
    size = int(options.get("gpus_per_job") or 1)
    groups = [",".join(devices[start : start + size]) for start in range(0, len(devices) - size + 1, size)]
    if not groups:
        raise SegflowError(
            "hydra/launcher=gpus finds too few GPUs on this machine",
            found=f"{len(devices)} ({DEVICES}={os.environ[DEVICES]})" if DEVICES in os.environ else len(devices),
            expected=f"at least {size}",
            fix="Several jobs at once on the CPU: hydra/launcher=joblib hydra.launcher.n_jobs=2",
        )
    share = share_of(min(len(groups), len(children)))
    return _in_places(children, [{DEVICES: group, **share} for group in groups])


def share_of(jobs: int) -> dict[str, str]:
    """The variables that give each of some jobs on this machine its share of the processors."""
    return {PROCESSORS_VARIABLE: str(max(1, processor_count() // max(1, jobs)))}


def at_once(children: Sequence[Child], options: Options) -> Events:
    """On this machine, all jobs at once, since each has a device of its own."""
    return _in_places(children, [{} for _ in children])


def visible_devices() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` writes them, which is believed."""
    if (given := os.environ.get(DEVICES)) is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _in_places(children: Sequence[Child], places: Sequence[Mapping[str, str]]) -> Events:
    """At most one job in each place, which is a set of variables for it."""
    free = list(places)
    waiting = list(children)
    running: list[tuple[RunningChild, Mapping[str, str]]] = []
    try:
        while waiting or running:
            while waiting and free:
                job = waiting.pop(0)
                try:
                    running.append((RunningChild(job, free[0]), free[0]))
                    free.pop(0)
                except (OSError, SegflowError) as error:
                    yield JobEnd(job.name, str(error))
            for child, place in list(running):
                if (end := child.end()) is not None:
                    running.remove((child, place))
                    free.append(place)
                    yield end
            yield None
    finally:
        for child, _ in running:  # all at once, so that they end side by side
            child.signal(signal.SIGTERM)
        for child, _ in running:
            child.stop()


def joblib(children: Sequence[Child], options: Options) -> Events:
    """On this machine, several jobs at once by joblib, whose threads wait for the jobs' processes."""
    from joblib import Parallel, delayed

    ends: queue.SimpleQueue[JobEnd | BaseException] = queue.SimpleQueue()
    stop = threading.Event()
    own = {key: value for key, value in options.items() if key not in OWN}
    wanted = int(own.get("n_jobs", 1))
    share = share_of(min(wanted if wanted > 0 else processor_count(), len(children)))

    def work() -> None:
        try:
            parallel = Parallel(**own, backend="threading", return_as="generator_unordered", batch_size=1)
            for end in parallel(delayed(run_child)(child, share, stop) for child in children):
                ends.put(end)
        except BaseException as error:
            ends.put(error)

    thread = threading.Thread(target=work, name="joblib", daemon=True)
    thread.start()
    left = len(children)
    try:
        while left:
            try:
                end = ends.get_nowait()
            except queue.Empty:
                yield None
                continue
            if isinstance(end, BaseException):
                raise SegflowError(f"joblib: {end}", fix="Check the options hydra.launcher.*") from end
            left -= 1
            yield end
    finally:
        stop.set()
        thread.join()


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
    looked = time.monotonic()
    while waiting:
        for job, child in list(waiting.items()):
            if job.paths.result_pickle.exists():
                del waiting[job]
                error = job.exception()
                yield job.results()[0] if error is None else JobEnd(child.name, _last_line(_trace_of(error)))
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


def ray(children: Sequence[Child], options: Options) -> Events:
    """On a Ray cluster."""
    import ray as engine

    own = dict(options.get("ray") or {})
    init = {"log_to_driver": False, "logging_level": "warning", **dict(own.get("init") or {})}
    address = init.get("address")
    try:
        if address is not None and ":" in address:
            _knock(address, engine.util.get_node_ip_address())
        engine.init(**init)
    except Exception as error:
        raise SegflowError(
            f"no Ray cluster answers at {address}" if address else "Ray does not start",
            found=_last_line(str(error)),
            fix="Start one with ray start --head, and give hydra.launcher.ray.init.address=HOST:6379",
        ) from error
    remote = engine.remote(**dict(own["remote"]))(run_child) if own.get("remote") else engine.remote(run_child)
    waiting = {remote.remote(child): child for child in children}
    try:
        while waiting:
            for reference in engine.wait(list(waiting), timeout=0)[0]:
                child = waiting.pop(reference)
                try:
                    yield engine.get(reference)
                except engine.exceptions.RayError as error:
                    yield JobEnd(child.name, f"Ray lost the job: {_last_line(str(error))}")
            yield None
    finally:
        for reference in waiting:
            engine.cancel(reference)
        engine.shutdown()


def _knock(address: str, own_address: str) -> None:
    """Connect to an address once. Ray itself would try for minutes, and looks for ``localhost`` at its own address.

    Raises:
        OSError, ValueError: Nothing answers, or it is no address.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    at = own_address if host in ("localhost", "127.0.0.1") else host.strip("[]")
    socket.create_connection((at, int(port)), timeout=ANSWER_SECONDS).close()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no cause given"


ENGINES: Mapping[str, Engine] = {
    "basic": one_by_one,
    "at_once": at_once,
    "gpus": gpus,
    "joblib": joblib,
    "slurm": slurm,
    "ray": ray,
}


def engine_of(launcher: Options) -> Engine:
    """The engine that a composed launcher names.

    Raises:
        SegflowError: It is a launcher of Hydra's that takes no command lines, or it is not installed.
    """
    target = str(launcher.get("_target_", "BasicLauncher"))
    name = str(launcher.get("engine", "basic" if target.endswith("BasicLauncher") else None))
    if name not in ENGINES:
        raise SegflowError(
            "this launcher runs the jobs of a sweep only",
            found=f"hydra.launcher._target_={target}",
            expected=[f"hydra/launcher={engine}" for engine in ENGINES if engine != "at_once"],
        )
    module, package = LAUNCHERS.get(name, ("", ""))
    if module and find_spec(module) is None:
        raise SegflowError(f"hydra/launcher={name} needs {module}", fix=f"Install it: pip install '{package}'")
    return ENGINES[name]
