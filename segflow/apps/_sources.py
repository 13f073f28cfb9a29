"""Check that the raw dataset, if it exists, is still the one that the arrays were made from."""

from __future__ import annotations

import logging
from pathlib import Path

from segflow.apps import _datasets
from segflow.apps._inputs import Inputs
from segflow.apps._records import DatasetSettings, PathSettings
from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.preprocessing.check_arrays import check_files
from segflow.storage.case_files import discover
from segflow.storage.raw_dataset import check_planned_description, read_description

logger = logging.getLogger(__name__)


def check_sources(inputs: Inputs, dataset: DatasetSettings, paths: PathSettings) -> None:
    """Refuse to train on arrays of images or labels that were replaced since, or to score with other labels.

    A machine that trains need not have the raw dataset; then only the copied labels are checked. A warning names cases
    that the dataset no longer has.

    Args:
        inputs: The input of the training.
        dataset, paths: Possible place of the raw dataset.

    Raises:
        SegflowError: Files or dataset.json have changed. The error says what to do.
    """
    record = inputs.record
    wanted = {*record.train_cases, *record.val_cases}
    ending = record.dataset.label_ending
    copies = {case_id: inputs.references / f"{case_id}{ending}" for case_id in record.val_cases}
    raw = _datasets.present_raw_folder(dataset, paths)
    cases = [] if raw is None else _raw_cases(raw, inputs.prepared.path, wanted)
    check_files(inputs.store, cases, copies, inputs.preprocess)


def _raw_cases(raw: Path, prepared: Path, wanted: set[str]) -> list[CaseFiles]:
    """The files of those cases that the dataset has."""
    description = read_description(raw)
    check_planned_description(prepared, description)
    try:
        found = [case for case in discover(raw, description).cases if case.case_id in wanted]
    except SegflowError as error:  # such as a folder with only a dataset.json
        logger.info("the files of %s cannot be compared with the arrays: %s", raw, error)
        return []
    gone = sorted(wanted - {case.case_id for case in found})
    if gone and found:
        logger.warning(
            "%d cases are trained on or validated that %s no longer has: %s", len(gone), raw, ", ".join(gone[:5])
        )
    return found
