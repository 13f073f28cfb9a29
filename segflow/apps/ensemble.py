"""``segflow ensemble``: probabilities of several predictions → label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _edge, _terminal
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.plans import Plans
from segflow.inference.case_pipeline import PredictReport
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.storage.json_files import read_json_as
from segflow.storage.raw_dataset import read_dataset_json


def run(config: DictConfig) -> None:
    """Average the members, and say what became of the cases."""
    if not config.members or not config.output:
        raise SegflowError(
            "members= and output= are needed", fix="Use: segflow ensemble members=[DIR,DIR] output=DIR weights=[2,1]"
        )
    members = [Path(member).expanduser() for member in _edge.several(config.members)]
    output = Path(config.output).expanduser()
    settings = _edge.read(EnsembleSettings, {"weights": config.weights, "resume": config.resume})
    report = average(members, output, settings)
    _terminal.say(
        f"Averaged {_terminal.cases(len(report.done))}, {len(report.skipped)} were there. Written to {output}."
    )
    if not report.ok:
        raise CaseErrors("some cases could not be averaged", list(report.failed.values()))


def average(members: Sequence[Path], output: Path, settings: EnsembleSettings, *, own: bool = False) -> PredictReport:
    """Open the ensemble door, with labels and reader as the first member was predicted; ``own``: see there."""
    made_by = "Predict it with inference.probabilities=true."
    description = read_dataset_json(members[0] / "dataset.json", "ensemble", made_by)
    plans = read_json_as(members[0] / "plans.json", Plans.from_json, fix=made_by)
    with _terminal.progress() as progress:
        return ensemble_cases(
            members,
            output,
            description.labels,
            settings,
            file_ending=description.file_ending,
            reader=plans.reader,
            own=own,
            progress=progress,
        )
