"""Whether the raw dataset is still the one that a training's arrays were made from, where it is at hand."""

from __future__ import annotations

import logging
from pathlib import Path

from segflow.apps import _datasets
from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.preprocessing.check_arrays import check_files
from segflow.storage.case_files import discover
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import check_planned_description, read_description

logger = logging.getLogger(__name__)


def check_sources(
    record: RunRecord,
    prepared: Path,
    references: Path,
    dataset: _datasets.DatasetSettings,
    paths: _datasets.PathSettings,
    remedy: str,
) -> None:
    """Refuse to train on arrays of images or labels that were replaced since, or to score with other labels.

    A machine that trains need not have the raw dataset: only the copied labels are looked at then. A case that the
    dataset no longer has is warned of.

    Args:
        record: What is to be trained.
        prepared: Folder of plans and arrays.
        references: Folder of the copied labels.
        dataset, paths: Where the raw dataset may lie.
        remedy: The command that makes the arrays anew.

    Raises:
        SegflowError: Files changed, or dataset.json did; says what to do.
    """
    store = PreprocessedStore(prepared / record.plan.data_identifier)
    wanted = {*record.train_cases, *record.val_cases}
    ending = record.dataset.file_ending
    copies = {case_id: references / f"{case_id}{ending}" for case_id in record.val_cases}
    raw = _datasets.present_raw_folder(dataset, paths)
    check_files(store, [] if raw is None else _raw_cases(raw, prepared, wanted), copies, remedy)


def _raw_cases(raw: Path, prepared: Path, wanted: set[str]) -> list[CaseFiles]:
    """The files of the cases, as far as the dataset has them."""
    description = read_description(raw)
    check_planned_description(prepared, description)
    try:
        found = [case for case in discover(raw, description).cases if case.case_id in wanted]
    except SegflowError as error:  # such as a dataset.json alone
        logger.info("the files of %s cannot be compared with the arrays: %s", raw, error)
        return []
    gone = sorted(wanted - {case.case_id for case in found})
    if gone and found:
        logger.warning(
            "%d cases are trained on or validated that %s no longer has: %s", len(gone), raw, ", ".join(gone[:5])
        )
    return found
