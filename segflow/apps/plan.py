"""``segflow plan``: raw dataset → fingerprint, plans and splits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _datasets, _next, _terminal
from segflow.apps._own_parts import own_normalizations, own_part
from segflow.apps._parts import Part
from segflow.apps._records import DatasetCommand, FoldSettings, within_memory
from segflow.core.errors import SegflowError
from segflow.execution.progress import ProgressEvent
from segflow.planning.planner_settings import PlannerSettings

if TYPE_CHECKING:
    from segflow.planning.plan_dataset import PlanReport


@dataclass(kw_only=True, slots=True)
class PlannerSection(PlannerSettings):
    """The planner's constants, or a planner of one's own.

    Attributes:
        own: A planner of your own, which is given these constants: ``{_target_: …}``.
    """

    own: Part | None = None


@dataclass(kw_only=True)
class Plan(DatasetCommand):
    """Settings of ``segflow plan``.

    Attributes:
        planner: The planner's constants.
        normalization: Channel name in dataset.json → normalisation of your own: ``{_target_: …}``.
        fold: How cases are split. The index of the fold is not used.
        from_fingerprint: A dataset_fingerprint.json to plan from, without opening an image.
        from_plans: Plans of another dataset to take over, as a plans file or a run.json. The networks are then equal,
            and weights go from one dataset to the other. Of the planner only ``plans_name`` is used.
        clean: Measure the dataset again.
        replace_splits: Make the folds again. Folds trained on the old ones are then void.
        processes: Cases at once; null uses all processors, 0 works in this process.
        estimate_time: Seconds for measuring steps of each planned network on this machine, to say how long a training
            takes, such as 60; 0 measures nothing.
    """

    PLACES: ClassVar[tuple[str, ...]] = (
        "planner.plans_name",
        "paths.preprocessed",
        "dataset.source",
        "dataset.name",
        "dataset.path",
    )

    planner: PlannerSection = field(default_factory=PlannerSection)
    normalization: dict[str, Part | None] = field(default_factory=dict)
    fold: FoldSettings = field(default_factory=FoldSettings)
    from_fingerprint: Path | None = None
    from_plans: Path | None = None
    clean: bool = False
    replace_splits: bool = False
    processes: int | None = None
    estimate_time: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.estimate_time < math.inf:
            raise SegflowError("estimate_time is a number of seconds", found=self.estimate_time, expected="0 or more")
        super().__post_init__()


@within_memory
def run(settings: Plan) -> None:
    """Plan, and print the decisions with their reasons."""
    _datasets.announce(settings, "plan")
    report = plan(settings)
    show(report, settings.estimate_time)
    _terminal.say(f"Written to {report.folder}. Why so, with this dataset's numbers: {report.page}")
    _next.say(_next.after_plan(settings, report.plans.plans_name))


def plan(settings: Plan) -> PlanReport:
    """Measure and plan. A missing dataset is made or downloaded, if its source says how."""
    from segflow.planning.plan_dataset import PlanOptions, plan_dataset

    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(settings.dataset, settings.paths, make=True, progress=progress)
        return plan_dataset(
            raw,
            _datasets.preprocessed_folder(raw, settings.paths),
            settings.planner,
            splits=settings.fold,
            options=PlanOptions(
                planner=None if settings.planner.own is None else own_part("planner.own", settings.planner.own),
                normalizations=own_normalizations(settings.normalization),
                fingerprint=settings.from_fingerprint,
                plans=settings.from_plans,
                clean=settings.clean,
                replace_splits=settings.replace_splits,
                processes=settings.processes,
            ),
            progress=progress,
        )


def show(report: PlanReport, estimate_time: float = 0.0) -> None:
    """Print the table of configurations, with the reason for each, and what a training takes if that is asked for."""
    from segflow.planning.explain import TABLE_HEADER

    rows = [configuration.row() for configuration in report.configurations]
    _terminal.table(f"Plans '{report.plans.plans_name}' of {report.plans.dataset_name}", TABLE_HEADER, rows)
    for configuration in report.configurations:
        _terminal.say(f"  {configuration.name}: {configuration.reason}")
    if report.kept:
        _terminal.say(f"  Kept from the earlier plans: {', '.join(report.kept)}")
    if report.dropped:
        _terminal.say(f"  No longer in the plans: {', '.join(report.dropped)}")
    if estimate_time:
        _show_times(report, estimate_time)


def _show_times(report: PlanReport, limit: float) -> None:
    """Measure steps of each planned network, print what a training takes, and add it to the page of the plans."""
    from segflow.apps import _lightning  # noqa: F401  # before all that imports Lightning
    from segflow.planning.plans_page import add_times
    from segflow.storage.dataset_json import read_dataset_json
    from segflow.storage.file_names import DESCRIPTION_FILE
    from segflow.training.datamodule import TRAIN_BATCHES
    from segflow.training.time_estimate import header, measure_step  # slow: torch
    from segflow.training.training_settings import TrainerSettings

    epochs, steps = TrainerSettings().max_epochs or 1, TRAIN_BATCHES
    dataset = read_dataset_json(report.folder / DESCRIPTION_FILE, report.folder.name)
    names = [configuration.name for configuration in report.configurations if configuration.made]
    measured = {}
    with _terminal.progress() as progress:
        for number, name in enumerate(names):
            progress(ProgressEvent("measure", name, number, len(names)))
            measured[name] = measure_step(report.plans.configuration(name), dataset, limit)
        progress(ProgressEvent("measure", "", len(names), len(names)))
    rows = [time.row(name, epochs, steps) for name, time in measured.items()]
    device = next((time.device for time in measured.values() if time.device), "this machine")
    _terminal.table(f"A training of one fold on {device}", header(epochs, steps), rows)
    _terminal.say("  Reading and augmentation of patches, and validation, come on top.")
    add_times(report.page, device, header(epochs, steps), rows)
