"""Folders and zips of exported models, written as a whole or not at all."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.storage.json_files import written_whole
from segflow.storage.whole_folder import folder_written_whole


@contextmanager
def exported_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target``, or a zip if its name ends in ``.zip``, if the block succeeds.

    Args:
        target: The folder or zip. In a zip the files lie in a folder of the zip's name.

    Raises:
        SegflowError: It exists, or cannot be written.
    """
    if target.exists():
        raise SegflowError(f"{target} exists already", fix="Remove it, or choose another name.")
    if not is_zip_name(target):
        with folder_written_whole(target) as folder:
            yield folder
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=target.parent) as temporary:
            folder = Path(temporary) / target.stem
            folder.mkdir()
            yield folder
            write_zip(Path(temporary), target)
    except OSError as error:
        raise system_error(error, f"cannot write {target}", place=target.parent) from error


def is_zip_name(target: Path) -> bool:
    """Whether a zip is asked for."""
    return target.suffix.lower() == ".zip"


def write_zip(folder: Path, target: Path) -> None:
    """Write all files below a folder into a zip, by their paths in the folder."""
    with written_whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
