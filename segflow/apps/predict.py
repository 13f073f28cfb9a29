"""``segflow predict``: images and a trained run → label maps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _shards, _terminal
from segflow.apps._job_results import keep_failed
from segflow.apps._own_parts import own_normalizations
from segflow.apps._parts import Part
from segflow.apps._records import Command, ReadsDicom, Sharded, needed, within_memory
from segflow.core.errors import CaseErrors
from segflow.inference.dicom_settings import DicomOutputSettings
from segflow.inference.predict_settings import PredictSettings
from segflow.storage.find_folds import refuse_missing

if TYPE_CHECKING:
    from segflow.inference.case_pipeline import PredictReport

USE = "Use: segflow predict model=RUN_FOLDER input=DIR output=DIR"


@dataclass(kw_only=True)
class Predict(ReadsDicom, DicomOutputSettings, Sharded, Command):
    """Settings of ``segflow predict``.

    Attributes:
        model: Folder of a run or a fold, bundle, or model of nnU-Net v2.
        input: Folder of images, one image file, a list of them, a CSV of cases, or a folder with series of DICOM.
        output: Folder for the label maps.
        inference: How the model is chosen and applied.
        network: The network; needed only for a user's own.
        previous_network: The network of a cascade's previous stage, if it is another one:
            ``network@previous_network=mine``.
        normalization: Channel name in dataset.json → normalisation of your own, as when planning: ``{_target_: …}``.
    """

    SECTION: ClassVar = "inference"
    PLACES: ClassVar[tuple[str, ...]] = ("output", "input", "inference.part")

    model: Path | None = None
    input: list[Path] | None = None
    output: Path | None = None
    inference: PredictSettings = field(default_factory=PredictSettings)
    network: Part
    previous_network: Part | None = None
    normalization: dict[str, Part | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Sharded.__post_init__(self)
        DicomOutputSettings.__post_init__(self)


@within_memory
def run(settings: Predict) -> None:
    """Predict, and print the result."""
    for name in ("model", "input", "output"):
        needed(getattr(settings, name), name, USE)
    refuse_missing(needed(settings.model, "model", USE))
    _refuse_missing_input(needed(settings.input, "input", USE))
    report = predict(settings)
    skipped = f", {len(report.skipped)} were there already" if report.skipped else ""
    _terminal.say(f"Predicted {_terminal.cases(len(report.done))}{skipped}. Written to {settings.output}.")
    _next.say(_next.after_predict(settings) if report.ok else [])
    if not report.ok:
        keep_failed(report.failed)
        raise CaseErrors("some cases could not be predicted", _shards.problems(report.failed.values()))


def _refuse_missing_input(sources: list[Path]) -> None:
    """Refuse one source that is not there, before torch is loaded. Files of a list are told together later."""
    from segflow.inference.find_cases import refuse_missing_source

    if len(sources) == 1:
        refuse_missing_source(sources[0])


def predict(settings: Predict, *, own: bool = False) -> PredictReport:
    """Predict, with jobs or devices that share the cases if asked for; for ``own`` see `predict_cases`."""
    from segflow.inference.predict_cases import predict_cases  # slow: torch
    from segflow.network.cpu.allocation import tune_cpu

    tune_cpu()
    previous, sources = settings.previous_network, needed(settings.input, "input", USE)
    shards = _shards.of_jobs("predict", settings, "inference") or _shards.of_devices(settings)
    with _shards.progress(shards) as progress:
        return predict_cases(
            needed(settings.model, "model", USE),
            sources[0] if len(sources) == 1 else sources,
            needed(settings.output, "output", USE),
            settings.inference if shards is not None else _on_one_device(settings.inference),
            progress=progress,
            build=settings.network.build(),
            build_previous=previous.build() if previous is not None else None,
            normalizations=own_normalizations(settings.normalization),
            own=own,
            elsewhere=shards,
            series=settings.series_choice,
            dicom_settings=settings,
        )


def _on_one_device(inference: PredictSettings) -> PredictSettings:
    """The settings with the only device of a list as the device."""
    devices = _shards.named_devices(inference.devices)
    return replace(inference, devices=None, device=devices[0]) if len(devices) == 1 else inference
