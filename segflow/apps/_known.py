"""Public datasets of ``dataset=…``: told, downloaded or taken from a path, and converted."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from segflow.apps import _terminal
from segflow.apps._records import DatasetSettings
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError
from segflow.exchange.known_datasets import KNOWN, KnownDataset
from segflow.execution.progress import Progress

DOWNLOADS = ".downloads"
"""Folder of downloads and of what is unpacked, below that of the raw datasets."""

logger = logging.getLogger(__name__)


def make_known(dataset: DatasetSettings, place: Path, progress: Progress) -> Path:
    """Make the raw dataset of a public one. Its licence and citation are printed.

    Args:
        dataset: The dataset; its source is ``download`` or a path.
        place: The new folder.
        progress: Called after each block and case.

    Raises:
        SegflowError: It can only be got by a person, the download failed, or the source does not hold it.
    """
    if dataset.known is None:
        raise SegflowError(
            "dataset.source is a path, but of which dataset?",
            found=dataset.source,
            expected=f"dataset={' | '.join(KNOWN)}",
            fix="Another one is converted first: segflow convert source=PATH, or used as it is: dataset.path=PATH",
        )
    known = KNOWN[dataset.known]
    _terminal.say(f"{known.title}. Licence: {known.licence} ({known.page}). Cite: {known.citation}.")
    from segflow.exchange.convert_known import convert_known

    downloads = place.parent / DOWNLOADS
    own = None if dataset.source == "download" else Path(dataset.source).expanduser()
    folder = _source(known, own, downloads / dataset.known, progress)
    made = convert_known(known, folder, place, progress)
    if own is None and known.layout == "decathlon":  # whose files are copied
        shutil.rmtree(folder, ignore_errors=True)
    return made


def _source(known: KnownDataset, own: Path | None, unpacked: Path, progress: Progress) -> Path:
    """The folder of a dataset as it is given away: the user's, or what an archive was unpacked to."""
    from segflow.storage.archives import is_archive, unpack

    if own is not None and own.is_dir():
        return own
    if own is not None and not is_archive(own):
        raise SegflowError(f"dataset.source: there is no folder or archive {own}", expected="a folder, .tar or .zip")
    if unpacked.is_dir():
        return unpacked
    archive = own or _downloaded(known, unpacked.parent, progress)
    logger.info("unpacking %s", archive)
    unpack(archive, unpacked)
    if own is None:
        archive.unlink()
    return unpacked


def _downloaded(known: KnownDataset, folder: Path, progress: Progress) -> Path:
    from segflow.storage.downloads import download

    if known.url is None:
        raise SegflowError(
            f"segflow cannot download {known.title}",
            expected=f"its files, which are given away at {known.page}",
            fix=f"Then: {command_line('plan', dataset=known.layout, dataset__source='PATH')}",
        )
    return download(known.url, folder / known.url.rsplit("/", 1)[1], known.checksum, progress)
