"""``segflow doctor``: all problems of a raw dataset at once."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from segflow.apps import _datasets, _next, _terminal
from segflow.apps._records import DatasetCommand, within_memory
from segflow.core.errors import SegflowError

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Doctor(DatasetCommand):
    """Settings of ``segflow doctor``.

    Attributes:
        processes: Cases at once; null uses all processors, 0 works in this process.
    """

    processes: int | None = None


@within_memory
def run(settings: Doctor) -> None:
    """Check the dataset and list its problems. The command fails if there are errors."""
    dataset = _datasets.announce(settings, "doctor")
    from segflow.core.label_meaning import label_meaning
    from segflow.execution.machine import processor_count
    from segflow.storage.case_files import discover
    from segflow.storage.images import reader_of
    from segflow.storage.raw_dataset import check_dataset, read_description

    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, settings.paths, progress=progress)
        description = read_description(raw)
        for told in label_meaning(description):
            log.info("%s", told)
        images = (case.images[0] for case in discover(raw, description).cases)
        reader = reader_of(images, description.file_ending, description.reader)
        processes = processor_count() if settings.processes is None else settings.processes
        problems = check_dataset(raw, description, reader, processes=processes, progress=progress)
    if not problems:
        _terminal.say(f"{raw}: nothing is wrong.")
        _next.say(_next.after_doctor(settings))
        return
    rows = [(p.severity, p.case or "", p.message, p.fix) for p in problems]
    _terminal.table(f"{raw}", ("severity", "case", "what", "what to do"), rows)
    errors = sum(p.severity == "error" for p in problems)
    if errors:
        raise SegflowError(f"{'1 error' if errors == 1 else f'{errors} errors'} must be corrected before planning")
    _next.say(_next.after_doctor(settings))
