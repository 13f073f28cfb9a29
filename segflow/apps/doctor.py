"""``segflow doctor``: everything that is wrong with a raw dataset, all cases at once."""

from __future__ import annotations

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.errors import SegflowError
from segflow.execution.machine import processor_count
from segflow.storage.case_files import discover
from segflow.storage.images import reader_of
from segflow.storage.raw_dataset import check_dataset, read_description


def run(config: DictConfig) -> None:
    """Check, and list what was found; fails where there are errors."""
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _datasets.announce(config, "doctor")
    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, paths, progress=progress)
        description = read_description(raw)
        images = (case.images[0] for case in discover(raw, description).cases)
        reader = reader_of(images, description.file_ending, description.reader)
        processes = processor_count() if config.processes is None else config.processes
        problems = check_dataset(raw, description, reader, processes=processes, progress=progress)
    if not problems:
        _terminal.say(f"{raw}: nothing is wrong.")
        return
    rows = [(p.severity, p.case or "", p.message, p.fix) for p in problems]
    _terminal.table(f"{raw}", ("severity", "case", "what", "what to do"), rows)
    errors = sum(p.severity == "error" for p in problems)
    if errors:
        raise SegflowError(f"{'1 error' if errors == 1 else f'{errors} errors'} must be mended before planning")
