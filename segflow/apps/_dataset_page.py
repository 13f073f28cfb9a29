"""The page of a raw dataset, for ``segflow report dataset=…``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segflow.apps import _datasets, _terminal
from segflow.apps._records import DatasetSettings, PathSettings
from segflow.core.errors import SegflowError
from segflow.execution.machine import processor_count

if TYPE_CHECKING:
    from segflow.core.dataset import DatasetDescription
    from segflow.core.fingerprint import Fingerprint
    from segflow.storage.images import ImageIO

PAGE = "raw_data.html"


def write(
    dataset: DatasetSettings, page: Path | None, paths: PathSettings, *, channel: int, processes: int | None
) -> tuple[Path, int]:
    """Write the page.

    Args:
        dataset: The dataset. It is made, downloaded or converted if it is not there.
        page: The file to write; None takes ``PAGE`` in the dataset's folder of outputs.
        paths: Folders of datasets.
        channel: Channel of the images to show first.
        processes: Cases at once; None uses all processors, 0 works in this process.

    Returns:
        The page, and the number of errors that it names.
    """
    from segflow.reporting.dataset_page import write_dataset_page
    from segflow.storage.case_files import discover
    from segflow.storage.images import reader_of
    from segflow.storage.raw_dataset import read_description

    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, paths, make=True, progress=progress)
        description = read_description(raw)
        images = (case.images[0] for case in discover(raw, description).cases)
        reader = reader_of(images, description.file_ending, description.reader)
        page = page or paths.outputs / raw.name / PAGE
        errors = write_dataset_page(
            page,
            raw,
            description,
            reader,
            fingerprint=_fingerprint(_datasets.preprocessed_folder(raw, paths), raw, description, reader),
            channel=channel,
            processes=processor_count() if processes is None else processes,
            progress=progress,
        )
    return page, errors


def _fingerprint(folder: Path, raw: Path, description: DatasetDescription, reader: ImageIO) -> Fingerprint | None:
    """The dataset's fingerprint, if there is one that is still right."""
    from segflow.planning.measure_dataset import fingerprint_origin, read_fingerprint
    from segflow.storage.raw_dataset import find_training_cases

    try:
        return read_fingerprint(folder, fingerprint_origin(find_training_cases(raw, description), reader, description))
    except SegflowError:
        return None  # such a dataset cannot be planned, which is why somebody looks at the page
