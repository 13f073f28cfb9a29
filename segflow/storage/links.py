"""Folders and files within an output folder: a link that leads out of it is not followed."""

from __future__ import annotations

from pathlib import Path

from segflow.core.errors import SegflowError


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path lies within a folder, wherever links lead; the folder itself may be one."""
    return path.resolve().is_relative_to(folder.resolve())


def within(folder: Path, *parts: str) -> Path:
    """A folder that belongs below another one.

    Args:
        folder: The output folder; may be a link itself.
        parts: Names of folders below it.

    Raises:
        SegflowError: A link on the way leads out of the output folder.
    """
    place = folder.joinpath(*parts)
    if not is_below(place, folder):
        raise SegflowError(
            f"{place} is a link that leads out of {folder}", fix="Remove the link, or choose another folder."
        )
    return place


def refuse_link(file: Path) -> Path:
    """A file that is opened to be added to: unlike one that is replaced, it would be changed where a link leads.

    Raises:
        SegflowError: It is a link.
    """
    if file.is_symlink():
        raise SegflowError(f"{file} is a link: it would be written where that leads", fix="Remove the link.")
    return file
