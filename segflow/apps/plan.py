"""``segflow plan``: raw dataset → fingerprint, plans and splits."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.machine import processor_count
from segflow.core.splits import SplitSettings
from segflow.planning.plan_dataset import PlanReport, plan_dataset
from segflow.planning.settings import PlannerSettings


def run(config: DictConfig) -> None:
    """Plan, and print what was decided and why."""
    report = plan(config)
    _terminal.table(f"Plans '{report.plans.plans_name}' of {report.plans.dataset_name}", report.columns, report.rows)
    for line in report.explanations:
        _terminal.say(f"  {line}")
    _terminal.say(f"Written to {report.folder}. Next: segflow preprocess with the same dataset.")


def plan(config: DictConfig) -> PlanReport:
    """Open the planning door with the settings of a composed configuration."""
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
    settings = _edge.read(PlannerSettings, config.planner)
    splits = _edge.read(SplitSettings, config.fold)
    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, paths, progress=progress)
        return plan_dataset(
            raw,
            _datasets.preprocessed_folder(raw, paths),
            settings,
            splits=splits,
            fingerprint=Path(config.from_fingerprint) if config.from_fingerprint else None,
            clean=config.clean,
            processes=config.processes if config.processes is not None else processor_count(),
            progress=progress,
        )
