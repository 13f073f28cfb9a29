"""From a raw dataset to its fingerprint, plans and splits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.label_meaning import what_cases_lack
from segflow.core.own_part import OwnPart
from segflow.core.plans import Plans
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import Split
from segflow.execution.progress import Progress, silent
from segflow.planning.explain import ConfigurationReport, report_configurations
from segflow.planning.measure_dataset import (
    Measured,
    fingerprint_origin,
    measure_dataset,
    read_fingerprint,
    write_fingerprint,
)
from segflow.planning.move_plans import move_plans, read_plans_to_move
from segflow.planning.own_planner import plans_by_own, with_own_normalizations
from segflow.planning.planner import CONFIGURATIONS, PlannerSettings, decide
from segflow.planning.plans_page import PlannedDataset, plans_page
from segflow.planning.split_dataset import split_dataset
from segflow.planning.workings import Workings
from segflow.storage.case_files import discover, find_training_cases
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, reader_of
from segflow.storage.json_files import read_json, read_json_as, write_json, written_whole
from segflow.storage.label_mapping import in_classes
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.raw_dataset import read_description

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanReport:
    """Result of planning a dataset.

    Attributes:
        folder: Folder of the written files.
        plans: The plans, user-made configurations included.
        fingerprint: The fingerprint that they were made from.
        splits: The folds; empty if there are too few cases or none at all.
        configurations: Each configuration, made or not, and why.
        page: File that explains the plans with the numbers of the dataset.
        measured: Whether images were read; False if the fingerprint was given or is up to date.
        kept: Names of user-made configurations of earlier plans that were kept.
        dropped: Names of configurations of earlier plans that were not kept.
    """

    folder: Path
    plans: Plans
    fingerprint: Fingerprint
    splits: tuple[Split, ...]
    configurations: tuple[ConfigurationReport, ...]
    page: Path
    measured: bool
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What planning starts from, and how it uses the machine.

    Attributes:
        planner: A planner of your own, which is given them: see `own_planner.CONTRACT`.
        normalizations: Name of channels → normalisation of your own.
        fingerprint: A fingerprint to plan from; no image is opened, and the dataset needs no images at all.
        plans: Plans of another dataset, which become those of this one; see `move_plans`.
        clean: Measure again even if nothing has changed.
        replace_splits: Make splits anew even if there are some.
        processes: Worker processes for measuring; 0 measures in this one, None takes one per processor.
    """

    planner: OwnPart | None = None
    normalizations: Mapping[str, OwnPart] = field(default_factory=dict)
    fingerprint: Path | None = None
    plans: Path | None = None
    clean: bool = False
    replace_splits: bool = False
    processes: int | None = None


def plan_dataset(
    dataset_folder: str | Path,
    output_folder: str | Path,
    settings: PlannerSettings,
    *,
    splits: SplitSettings | None = None,
    options: PlanOptions | None = None,
    progress: Progress = silent,
) -> PlanReport:
    """Measure, plan and split a dataset.

    Writes ``dataset.json``, ``dataset_fingerprint.json``, ``<plans_name>.json``, ``splits_final.json``, and a page that
    explains the plans, ``<plans_name>.md``. Each is written as a whole or not at all.

    Args:
        dataset_folder: The raw dataset.
        output_folder: Folder for the files; nnU-Net's preprocessed folder of the dataset.
        settings: The planner's constants.
        splits: How to divide the cases into folds; None divides as nnU-Net does.
        options: See `PlanOptions`.
        progress: Called after each measured case.

    Raises:
        SegflowError: The dataset, the fingerprint or a setting cannot be used. All problems of the
            cases are listed together.
    """
    dataset_folder, output_folder = Path(dataset_folder), Path(output_folder)
    options, prepared = options or PlanOptions(), PreparedDataset(output_folder)
    fingerprint = options.fingerprint
    source = _plans_to_move(options)
    description = read_description(dataset_folder)
    cases = _find_cases(dataset_folder, description, required=fingerprint is None)
    for told in what_cases_lack(description, cases):
        logger.info("%s", told)
    stored = reader_of((case.images[0] for case in cases), description.file_ending, description.reader)
    reader = in_classes(stored, description.labels)
    if fingerprint is not None:
        found, measured = read_json_as(fingerprint, Fingerprint.from_json), False
    else:
        _check_whole(dataset_folder, description, len(cases))
        measure = partial(measure_dataset, processes=options.processes, progress=progress)
        found, measured = _measured(output_folder, cases, reader, description, measure, clean=options.clean)
    if source is None:
        plans, reasons, workings = _plan(found, description, settings, reader, options.planner)
    else:
        plans = move_plans(source, found, description, reader=reader.name, plans_name=settings.plans_name)
        reasons = dict.fromkeys(plans.configurations, f"taken over from '{source.plans_name}' of {source.dataset_name}")
        workings = None
    plans = with_own_normalizations(plans, description, options.normalizations)
    merged = _with_user_configurations if source is None else _replacing_no_others
    plans, kept, dropped = merged(plans, prepared.plans_file(plans.plans_name))
    reports = report_configurations(plans, reasons, found, description, settings)
    folds: list[Split] = []
    if cases:
        ids = [case.case_id for case in cases]
        folds = split_dataset(
            output_folder,
            ids,
            splits or SplitSettings(),
            raw_folder=dataset_folder,
            replace=options.replace_splits,
            groups=description.groups,
        )
    if fingerprint is not None:
        write_fingerprint(output_folder, found, Origin("given fingerprint", 1, {}, {"fingerprint": fingerprint}))
    with written_whole(prepared.description_file) as temporary:
        shutil.copyfile(dataset_folder / DESCRIPTION_FILE, temporary)
    write_json(prepared.plans_file(plans.plans_name), plans.to_json())
    page = prepared.plans_page(plans.plans_name)
    planned = PlannedDataset(
        fingerprint=found, description=description, settings=settings, plans=plans, reports=reports, workings=workings
    )
    with written_whole(page) as temporary:
        temporary.write_text(plans_page(planned), encoding="utf-8")
    return PlanReport(output_folder, plans, found, tuple(folds), reports, page, measured, kept, dropped)


def _plans_to_move(options: PlanOptions) -> Plans | None:
    """The plans of another dataset, read before anything is measured."""
    if options.plans is None:
        return None
    if options.planner is not None:
        raise SegflowError(
            "from_plans and planner.own are both given", fix="Leave one out: moved plans are not planned again."
        )
    return read_plans_to_move(options.plans)


def _measured(
    folder: Path,
    cases: Sequence[CaseFiles],
    reader: ImageIO,
    description: DatasetDescription,
    measure: Callable[[Sequence[CaseFiles], ImageIO, DatasetDescription], Measured],
    *,
    clean: bool,
) -> tuple[Fingerprint, bool]:
    """The fingerprint in the folder, which is written if it is missing or out of date; and whether it was."""
    origin = fingerprint_origin(cases, reader, description)
    stored = None if clean else read_fingerprint(folder, origin)
    if stored is not None:
        return stored, False
    made = measure(cases, reader, description)
    write_fingerprint(folder, made.fingerprint, origin, made.inputs)  # kept even if a later step fails
    return made.fingerprint, True


def _find_cases(folder: Path, description: DatasetDescription, *, required: bool) -> list[CaseFiles]:
    """The training cases; none if they are not required and there are no images."""
    if not required and "dataset" not in description.raw and not (folder / "imagesTr").is_dir():
        return []
    return find_training_cases(folder, description)


def _check_whole(folder: Path, description: DatasetDescription, cases: int) -> None:
    if cases != description.num_training:
        lonely = [p.message for p in discover(folder, description).problems if "has no image" in p.message]
        raise SegflowError(
            f"dataset.json claims {description.num_training} training cases",
            found=f"{cases}; {lonely[0]}" if lonely else cases,
            fix="Correct numTraining, or look for missing or misnamed files: segflow doctor.",
        )


def _plan(
    fingerprint: Fingerprint,
    description: DatasetDescription,
    settings: PlannerSettings,
    reader: ImageIO,
    planner: OwnPart | None,
) -> tuple[Plans, dict[str, str], Workings | None]:
    if planner is None:
        decision = decide(fingerprint, description, settings, reader=reader.name)
        return decision.plans, decision.reasons, decision.workings
    plans = plans_by_own(planner, fingerprint, description, settings, reader.name)
    return plans, dict.fromkeys(plans.configurations, "made by your own planner"), None


def _with_user_configurations(plans: Plans, file: Path) -> tuple[Plans, tuple[str, ...], tuple[str, ...]]:
    """Take over configurations that a user added to earlier plans of this name; a planner's are not kept."""
    if not file.is_file():
        return plans, (), ()
    earlier = read_json_as(file, Plans.from_json, fix="Mend the file, or remove it.").configurations
    own = {name: value for name, value in earlier.items() if name not in {*CONFIGURATIONS, *plans.configurations}}
    merged = replace(plans, configurations={**plans.configurations, **own})
    dropped = [name for name in earlier if name not in merged.configurations]
    for name in own:
        try:
            merged.configuration(name).check()
        except SegflowError as error:
            logger.warning("'%s' of the earlier plans is not kept: %s", name, error)
            dropped.append(name)
    if dropped:
        logger.warning("%s: configurations of the earlier plans were dropped: %s", file.name, ", ".join(dropped))
    kept = {name: value for name, value in merged.configurations.items() if name not in dropped}
    return replace(plans, configurations=kept), tuple(name for name in own if name in kept), tuple(dropped)


def _replacing_no_others(plans: Plans, file: Path) -> tuple[Plans, tuple[str, ...], tuple[str, ...]]:
    """Like `_with_user_configurations`, for plans of another dataset, which replace no other plans of their name."""
    if not file.is_file() or read_json(file) == plans.to_json():
        return plans, (), ()
    raise SegflowError(
        f"from_plans: there are other plans of this name: {file}",
        fix=f"Name the moved ones, such as planner.plans_name={plans.plans_name}Moved, and give plans= of that name to "
        "preprocess and train; or remove the file.",
    )
