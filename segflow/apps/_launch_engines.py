"""The engines that run jobs: this machine, joblib, SLURM by submitit, Ray.

Each is a function of jobs and options that yields the end of each job as it comes, and None whenever it has looked and
nothing has ended. Closing it ends the jobs that are left. What the options mean stands in ``conf/hydra/launcher``.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from segflow.apps._launch_contract import OWN, Engine, Events, Options, is_in_this_process
from segflow.apps._launch_ray import ray
from segflow.apps._launch_slurm import slurm
from segflow.apps._launched_child import Child, JobEnd, RunningChild, run_child
from segflow.apps._synonyms import LAUNCHERS
from segflow.core.errors import SegflowError
from segflow.execution.machine import PROCESSORS_VARIABLE, processor_count

DEVICES = "CUDA_VISIBLE_DEVICES"


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
    name = str(launcher.get("engine", "basic" if is_in_this_process(target) else None))
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
