"""``segflow plan``: raw dataset → fingerprint, plans and splits."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.command_line import command_line
from segflow.planning.explain import TABLE_HEADER
from segflow.planning.plan_dataset import PlanReport, plan_dataset
from segflow.planning.planner_settings import PlannerSettings


def run(config: DictConfig) -> None:
    """Plan, and print what was decided and why."""
    same = _datasets.as_settings(_datasets.announce(config, "plan"))
    report = plan(config)
    show(report)
    following = command_line("preprocess", **same, plans=report.plans.plans_name)
    _terminal.say(f"Written to {report.folder}. Next: {following}")


def plan(config: DictConfig) -> PlanReport:
    """Open the planning door with the settings of a composed configuration."""
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
    settings = _edge.read(PlannerSettings, config.planner)
    fold = _edge.read(_datasets.FoldSettings, config.fold)
    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, paths, make=True, progress=progress)
        return plan_dataset(
            raw,
            _datasets.preprocessed_folder(raw, paths),
            settings,
            splits=fold,
            fingerprint=Path(config.from_fingerprint).expanduser() if config.from_fingerprint else None,
            clean=config.clean,
            replace_splits=config.replace_splits,
            processes=config.processes,
            progress=progress,
        )


def show(report: PlanReport) -> None:
    """The table of configurations, and why each was or was not made."""
    rows = [configuration.row() for configuration in report.configurations]
    _terminal.table(f"Plans '{report.plans.plans_name}' of {report.plans.dataset_name}", TABLE_HEADER, rows)
    for configuration in report.configurations:
        _terminal.say(f"  {configuration.name}: {configuration.reason}")
    if report.kept:
        _terminal.say(f"  Kept from the earlier plans: {', '.join(report.kept)}")
    if report.dropped:
        _terminal.say(f"  No longer in the plans: {', '.join(report.dropped)}")
