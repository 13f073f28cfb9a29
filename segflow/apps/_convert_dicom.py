"""``segflow convert`` for a tree of DICOM: what was found is listed, and what could not be converted."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segflow.apps import _terminal
from segflow.apps._records import needed
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.wording import some
from segflow.execution.machine import processor_count

if TYPE_CHECKING:
    from segflow.apps.convert import Convert
    from segflow.exchange.dicom_dataset import Converted
    from segflow.execution.progress import Progress

logger = logging.getLogger(__name__)


def convert_tree(settings: Convert, source: Path, progress: Progress) -> Converted:
    """List the series of a tree, and convert those that are chosen.

    Raises:
        SegflowError: The choice of series or labels cannot be used, or no case can be converted.
    """
    from segflow.exchange.dicom_dataset import COLUMNS, DicomDataset, choose_cases, convert_dicom, find_dicom
    from segflow.exchange.dicom_labels import LabelChoice

    if settings.regions_class_order:
        raise SegflowError("regions_class_order is not for DICOM", fix="The order of regions follows from inclusion.")
    number = needed(settings.dataset_id, "dataset_id", "The new dataset needs a number: dataset_id=42")
    name = settings.name or re.sub(r"[^\w.-]+", "_", source.resolve().name)
    labels = LabelChoice(settings.label, settings.labels or None, settings.segments or None, settings.overlaps)
    found = find_dicom(source, progress)
    try:
        chosen = choose_cases(found, settings.series_choice)
    except SegflowError:
        _terminal.table("Found", COLUMNS, found.rows())
        raise
    _terminal.table("Found", COLUMNS, found.rows(chosen))
    new = DicomDataset(settings.paths.raw, number, name, labels, settings.resample)
    processes = processor_count() if settings.processes is None else settings.processes
    return convert_dicom(found, chosen, new, processes=processes, progress=progress)


def tell_missing(converted: Converted) -> None:
    """Say which cases have no labels, and end the command with those that could not be converted.

    Raises:
        CaseErrors: There are some, or files cannot be read.
    """
    if converted.unlabelled:
        logger.warning("No labels, so in imagesTs: %s", some(converted.unlabelled))
    problems = [*sorted(converted.failed.values()), *sorted(converted.damaged)]
    if problems:
        what = "some cases could not be converted" if converted.failed else "some files could not be read"
        raise CaseErrors(what, problems)
