"""``segflow preprocess``: raw dataset and plans → arrays for training."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.command_line import command_line
from segflow.core.errors import CaseErrors
from segflow.core.plans import Plans
from segflow.preprocessing.preprocess_dataset import preprocess_dataset
from segflow.preprocessing.preprocess_report import PreprocessReport
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.json_files import read_json_as


def run(config: DictConfig) -> None:
    """Preprocess, and say what was done."""
    same = _datasets.as_settings(_datasets.announce(config, "preprocess"))
    report = preprocess(config)
    following = command_line("train", **same, plans=str(config.plans), fold=0)
    _terminal.say(f"Written to {report.folder}. Next: {following}")


def preprocess(config: DictConfig) -> PreprocessReport:
    """Open the preprocessing door with the settings of a composed configuration.

    Raises:
        CaseErrors: Some cases failed; the others are done.
    """
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
    settings = _edge.read(PreprocessSettings, config.preprocessing)
    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, paths, progress=progress)
        folder = _datasets.preprocessed_folder(raw, paths)
        file = folder / f"{config.plans}.json"
        plans = read_json_as(
            file, Plans.from_json, fix=f"Plan first: {command_line('plan', **_datasets.as_settings(dataset))}"
        )
        asked = config.configurations or list(plans.configurations)
        names = [asked] if isinstance(asked, str) else list(asked)
        report = preprocess_dataset(
            Path(raw), plans, names, folder, settings, plans_name=str(config.plans), progress=progress
        )
    _terminal.say(report.text())
    if report.failed:
        raise CaseErrors("some cases could not be preprocessed", list(report.failed.values()))
    return report
