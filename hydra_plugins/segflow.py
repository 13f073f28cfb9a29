"""segflow's launchers, in the package where Hydra looks for launchers.

Every Hydra application of this environment loads it, so that it loads nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class InTurn(BasicLauncher):
    """Runs the jobs of a sweep in this process, one after another, and shows their states."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs. Called by sweepers.

        Args:
            job_overrides: The overrides of each job.
            initial_job_idx: Number of the first one.
        """
        from segflow.apps._launch_sweep import in_turn

        with in_turn(job_overrides, initial_job_idx):
            return super().launch(job_overrides, initial_job_idx)


class Jobs(Launcher):
    """Runs the jobs of a sweep by an engine, each as a process of its own.

    Args:
        options: The options of ``conf/hydra/launcher``.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs and wait for them. Called by sweepers.

        Args:
            job_overrides: The overrides of each job.
            initial_job_idx: Number of the first one.
        """
        from segflow.apps._launch_sweep import run_jobs

        return run_jobs(self._config, self._context, job_overrides, initial_job_idx)
