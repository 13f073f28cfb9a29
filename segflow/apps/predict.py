"""``segflow predict``: images and a trained run → label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segflow.apps import _edge, _terminal
from segflow.core.errors import CaseErrors, SegflowError
from segflow.inference.predict_cases import PredictReport, predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.network.cpu.allocation import tune_cpu


def run(config: DictConfig) -> None:
    """Predict, and say what became of the cases."""
    for name in ("model", "input", "output"):
        if not config[name]:
            raise SegflowError(f"{name}= is missing", fix="Use: segflow predict model=RUN_FOLDER input=DIR output=DIR")
    source = [str(s) for s in config.input] if OmegaConf.is_list(config.input) else str(config.input)
    report = predict(config, str(config.model), source, Path(config.output).expanduser())
    skipped = f", {len(report.skipped)} were there already" if report.skipped else ""
    _terminal.say(f"Predicted {_terminal.cases(len(report.done))}{skipped}. Written to {config.output}.")
    if not report.ok:
        raise CaseErrors("some cases could not be predicted", list(report.failed.values()))


def predict(
    config: DictConfig, model: str, source: str | Sequence[str], output: Path, *, own: bool = False
) -> PredictReport:
    """Open the inference door with the settings of a composed configuration; ``own``: see `predict_cases`."""
    tune_cpu()
    with _terminal.progress() as progress:
        return predict_cases(
            Path(model).expanduser(),
            Path(source).expanduser() if isinstance(source, str) else [Path(s).expanduser() for s in source],
            output,
            _edge.read(PredictSettings, config.inference),
            progress=progress,
            build=_edge.build(config.network),
            build_previous=_edge.build(config.previous_network) if config.get("previous_network") else None,
            own=own,
        )
