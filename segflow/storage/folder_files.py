"""Images that are folders, such as OME-Zarr. They are listed, stamped, copied, moved and removed like files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segflow.storage.json_files import TEMPORARY_PREFIX, process_mark, replace
from segflow.storage.whole_folder import folder_written_whole

FOLDER_ENDINGS = (".zarr",)
"""Endings of folders that are one image each, in lower case; .ome.zarr is among them."""


def names_a_folder(name: str) -> bool:
    """Whether an image of this name is a folder."""
    return name.lower().endswith(FOLDER_ENDINGS)


def is_image_path(path: Path) -> bool:
    """Whether a path is a file, or a folder that is one image."""
    return path.is_file() or (names_a_folder(path.name) and path.is_dir())


def images_within(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders below it; a folder that is one image counts as one."""
    for path in folder.iterdir():
        if path.is_dir() and not names_a_folder(path.name):
            yield from images_within(path)
        else:
            yield path


def files_within(folder: Path) -> list[Path]:
    """All files in a folder and the folders below it, sorted. Links to folders are not followed."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names)


def copy_image(source: Path, target: Path) -> None:
    """Copy a file or a folder that is one image, byte for byte."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def remove_image(path: Path) -> None:
    """Delete a file or a folder that is one image, if it exists. Of a link, only the link is deleted."""
    if path.is_dir() and not path.is_symlink():
        parting = path.with_name(f"{TEMPORARY_PREFIX}{process_mark()}-parting-{path.name}")
        with suppress(FileNotFoundError):  # another process may delete the same
            path.rename(parting)  # a part of it must not look like the whole
        shutil.rmtree(parting, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def move_image(source: Path, target: Path) -> None:
    """Move a file or folder within a file system, in place of an image of that name."""
    if source.is_dir():
        remove_image(target)
        source.rename(target)
    else:
        replace(source, target)


@contextmanager
def image_folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which takes the place of ``folder`` if the block succeeds.

    Raises:
        NoSpaceError: The disk is full or read-only.
        SegflowError: The folder cannot be written. The error names it.
    """
    made = folder.with_name(f"{TEMPORARY_PREFIX}{process_mark()}-new-{folder.name}")
    shutil.rmtree(made, ignore_errors=True)
    try:
        with folder_written_whole(made) as temporary:
            yield temporary
        move_image(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
