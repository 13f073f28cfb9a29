"""Prediction of many cases, which are read, predicted and written at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.case_part import part_of
from segflow.core.errors import SegflowError
from segflow.execution.elsewhere import Elsewhere, failures
from segflow.execution.progress import Progress, silent
from segflow.inference.case_pipeline import PredictReport
from segflow.inference.dicom_input import dicom_input
from segflow.inference.dicom_output import dicom_output
from segflow.inference.dicom_settings import DicomOutputSettings
from segflow.inference.find_cases import Input, find_cases
from segflow.inference.lacking_cases import do_without, holds_all, tell_missing
from segflow.inference.load_model import Build
from segflow.inference.origins import described, record_digest, weights_digest, window_choices
from segflow.inference.predict_settings import AUTO, IGNORE, PredictSettings
from segflow.inference.predict_stage import PredictStage
from segflow.inference.predictor import Predictor
from segflow.network.build import build_network
from segflow.preprocessing.own_normalizations import Normalizations, check_normalizations, check_planned
from segflow.storage.dicom.choose_series import SeriesChoice
from segflow.storage.find_folds import named_checkpoint
from segflow.storage.images import readable_endings, reader_by_name
from segflow.storage.links import within

PREVIOUS_STAGE_FOLDER = "previous_stage"


def predict_cases(
    model: str | Path,
    source: Input,
    output: str | Path,
    settings: PredictSettings | None = None,
    *,
    progress: Progress = silent,
    build: Build = build_network,
    build_previous: Build | None = None,
    normalizations: Normalizations | None = None,
    own: bool = False,
    elsewhere: Elsewhere | None = None,
    series: SeriesChoice | None = None,
    dicom_settings: DicomOutputSettings | None = None,
) -> PredictReport:
    """Predict a folder, a CSV table, a list of files, or series of DICOM.

    Beside ``<case><ending>``, the output folder gets the model's ``dataset.json`` and ``plans.json``, and
    ``predict.json`` with the arguments. Every file is written under a temporary name and then renamed. A case that
    fails is reported, and the others are done. Each case gets a stamp of its origin, see ``storage/stamps.py``.

    Args:
        model: See `Predictor.load`.
        source: See `find_cases`; or a folder or files of DICOM, see `dicom_input`.
        output: Folder for the label maps.
        settings: See `PredictSettings`.
        progress: Called after each case.
        build: See `Predictor.load`.
        build_previous: See `Predictor.load`.
        normalizations: See `Predictor.load`.
        own: Only segflow writes into the output folder, so predictions of another model are replaced.
        elsewhere: Has the cases predicted by other processes, which call this without it and without ``own``. The
            model is then loaded on the CPU, to know what is done. None predicts here.
        dicom_settings: Label maps as DICOM-SEG too; None writes none.
        series: Which series of DICOM are the channels; None goes by the names of the model's channels.

    Raises:
        SegflowError: The model cannot be loaded, there is no input, or the output folder cannot be written or holds
            predictions of another model or files that segflow did not write.
    """
    settings = PredictSettings() if settings is None else settings
    output = Path(output)
    if isinstance(source, (str, Path)) and Path(source).resolve() == output.resolve():
        raise SegflowError("the predictions need a folder of their own", found=f"input and output are both {output}")
    model, checkpoint = named_checkpoint(Path(model), settings.checkpoint)
    settings = replace(settings, checkpoint=checkpoint)
    here = settings if elsewhere is None else replace(settings, devices=None, device="cpu", precision=AUTO)
    predictor = Predictor.load(
        model,
        folds=settings.folds,
        checkpoint=settings.checkpoint,
        configuration=settings.configuration,
        device=here.device,
        settings=here.window,
        previous_stage=settings.previous_stage,
        with_previous_stage=settings.previous_stage_predictions is None,
        build=build,
        build_previous=build_previous,
        normalizations=normalizations,
        on_unlike=settings.on_unlike,
    )
    _check_parts(predictor)
    dicom = dicom_input(source, output, predictor.record, SeriesChoice() if series is None else series)
    objects = dicom_output(dicom_settings or DicomOutputSettings(), dicom, predictor.record)
    given = _find(source, predictor) if dicom is None else dicom.files
    everything, empty = do_without(given, settings.missing_channels, predictor.record)
    cases = part_of(everything, settings.part)
    failed = {case.case_id: empty[case.case_id] for case in part_of(given, settings.part) if case.case_id in empty}
    decisive = _decisive(predictor, model, settings, build, build_previous)
    before = None if settings.previous_stage_predictions is None else Path(settings.previous_stage_predictions)
    if predictor.plan.previous_stage and before is None:
        before = within(output, PREVIOUS_STAGE_FOLDER)
    family = {case.case_id for case in everything}
    last = PredictStage("predict", predictor, output, settings, decisive, before, family, own, objects)
    arguments = {"input": _text(source), **asdict(settings), **decisive}
    if lacking := tell_missing(everything, predictor.record):
        arguments["missing_in_cases"] = lacking
    del arguments["devices"]  # they say who predicts, not what
    failed |= {} if dicom is None else dicom.stage(cases, progress)
    cases = [case for case in cases if case.case_id not in failed]
    if elsewhere is not None:
        report = _run_elsewhere(last, cases, arguments, elsewhere)
    else:
        report = _run(last, cases, arguments, progress)
    return replace(report, failed={**failed, **report.failed})


def _check_parts(predictor: Predictor) -> None:
    """Refuse normalisations of a user's own that cannot be used, or that differ from the planned ones."""
    check_normalizations(predictor.normalizations)
    for stage in (predictor, predictor.previous_stage):
        if stage is not None:
            check_planned(stage.record.plans, stage.plan, predictor.normalizations)


def _find(source: Input, predictor: Predictor) -> list[CaseFiles]:
    record, reader = predictor.record, reader_by_name(predictor.record.plans.reader)
    endings, channels = readable_endings(reader, record.dataset.file_ending), len(record.dataset.channels)
    may_lack = () if record.missing is None else record.missing.may_lack
    cases = find_cases(source, endings, channels, may_lack=may_lack)
    return [holds_all(case, reader, channels) for case in cases]


def _run(
    last: PredictStage, cases: Sequence[CaseFiles], arguments: dict[str, Any], progress: Progress
) -> PredictReport:
    """Predict with a model, for a cascade with the previous stage's first."""
    done = last.prepare(cases)
    last.write_documents(arguments)
    failed: dict[str, str] = {}
    if (first := _first_stage(last)) is not None:
        failed.update(first.run(cases, first.prepare(cases), progress).failed)
        cases = [case for case in cases if case.case_id not in failed]
        done = last.prepare(cases)  # again, since it depends on the predictions of the previous stage
    report = last.run(cases, done, progress)
    return replace(report, failed={**failed, **report.failed})


def _first_stage(last: PredictStage) -> PredictStage | None:
    """The previous stage of a cascade; None if its predictions are given, or there is none."""
    before, settings = last.predictor.previous_stage, last.settings
    if before is None or last.previous is None or settings.previous_stage_predictions is not None:
        return None
    plain = replace(settings, probabilities=False, entropy=False, disagreement=False)
    name = f"predict {last.predictor.plan.previous_stage}"
    return replace(last, name=name, predictor=before, output=last.previous, settings=plain, previous=None, dicom=None)


def _run_elsewhere(
    last: PredictStage, cases: Sequence[CaseFiles], arguments: dict[str, Any], elsewhere: Elsewhere
) -> PredictReport:
    """Have the cases predicted by other processes. Here is done what only one process may do."""
    last.prepare(cases)
    last.write_documents(arguments)
    first = _first_stage(last)
    stages = [last] if first is None else [first, last]
    done = {case.case_id for case in cases}
    for stage in stages:
        done &= stage.prepare(cases)
        stage.clear_way(cases)
        stage.predictor.networks = ()  # frees their memory for the other processes
    names = [case.case_id for case in cases]
    waiting = [name for name in names if name not in done]
    told = elsewhere(names, waiting) if waiting else {}
    last.write_documents(arguments)  # each process wrote its own arguments
    made = last.finished([case for case in cases if case.case_id not in done])
    return PredictReport(
        done=tuple(name for name in waiting if name in made),
        skipped=tuple(name for name in names if name in done),
        failed=failures([name for name in waiting if name not in made], told),
    )


def _decisive(
    predictor: Predictor, model: str | Path, settings: PredictSettings, build: Build, build_previous: Build | None
) -> dict[str, Any]:
    """Plain JSON of everything that decides label maps beside the images; equal for all predictions of a folder."""
    stages = [predictor] if predictor.previous_stage is None else [predictor, predictor.previous_stage]
    schemes = {scheme for stage in stages for scheme in stage.plan.normalization_schemes}
    own = {name: dict(part.description) for name, part in predictor.normalizations.items() if name in schemes}
    return {
        "model": str(Path(model).resolve()),
        "configuration": predictor.plan.name,
        "folds": list(predictor.folds),
        "checkpoint": settings.checkpoint,
        "weights": weights_digest(network for stage in stages for network in stage.networks),
        "plans": record_digest(*(stage.record for stage in stages)),
        "network": [described(build), None if build_previous is None else described(build_previous)],
        "previous_stage_predictions": settings.previous_stage_predictions,
        **({"normalizations": own} if own else {}),
        **({"turned": False} if settings.on_unlike == IGNORE and predictor.record.images is not None else {}),
        **window_choices(settings),
    }


def _text(source: Input) -> str | list[str]:
    return str(source) if isinstance(source, (str, Path)) else [str(file) for file in source]
