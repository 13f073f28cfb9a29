"""``segflow preprocess``: raw dataset and plans → arrays for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _datasets, _next, _shards, _terminal
from segflow.apps._job_results import keep_failed
from segflow.apps._own_parts import own_normalizations
from segflow.apps._parts import Part
from segflow.apps._records import DatasetCommand, Sharded, within_memory
from segflow.core.command_line import command_line
from segflow.core.errors import CaseErrors
from segflow.preprocessing.preprocess_settings import PreprocessSettings

if TYPE_CHECKING:
    from segflow.preprocessing.preprocess_report import PreprocessReport


@dataclass(kw_only=True)
class Preprocess(Sharded, DatasetCommand):
    """Settings of ``segflow preprocess``.

    Attributes:
        plans: Name of the plans.
        configurations: One or several of the plans' configurations; null makes the arrays of all.
        normalization: Channel name in dataset.json → normalisation of your own, as when planning: ``{_target_: …}``.
        preprocessing: How preprocessing uses the machine.
    """

    SECTION: ClassVar = "preprocessing"

    plans: str = "nnUNetPlans"
    configurations: str | list[str] | None = None
    normalization: dict[str, Part | None] = field(default_factory=dict)
    preprocessing: PreprocessSettings = field(default_factory=PreprocessSettings)


@within_memory
def run(settings: Preprocess) -> None:
    """Preprocess, and print the result."""
    _datasets.announce(settings, "preprocess")
    report = preprocess(settings)
    _terminal.say(f"Written to {report.folder}.")
    _next.say(_next.after_preprocess(settings, report.folder))


def preprocess(settings: Preprocess) -> PreprocessReport:
    """Make the arrays of configurations.

    Raises:
        CaseErrors: Some cases failed; the others are done.
    """
    from segflow.storage.prepared_dataset import PreparedDataset

    shards = _shards.of_jobs("preprocess", settings, "preprocessing")
    with _shards.progress(shards) as progress:
        raw = _datasets.raw_folder(settings.dataset, settings.paths, progress=progress)
        folder = _datasets.preprocessed_folder(raw, settings.paths)
        first = command_line("plan", **_datasets.as_settings(settings.dataset))
        plans = PreparedDataset(folder).read_plans(settings.plans, f"Plan first: {first}")
        from segflow.preprocessing.preprocess_dataset import preprocess_dataset  # slow; missing plans are told before

        asked = settings.configurations or list(plans.configurations)
        names = [asked] if isinstance(asked, str) else asked
        report = preprocess_dataset(
            raw,
            plans,
            names,
            folder,
            settings.preprocessing,
            plans_name=settings.plans,
            normalizations=own_normalizations(settings.normalization),
            progress=progress,
            elsewhere=shards,
        )
    _terminal.say(report.text())
    if report.failed:
        keep_failed(report.failed)
        raise CaseErrors("some cases could not be preprocessed", _shards.problems(report.failed.values()))
    return report
