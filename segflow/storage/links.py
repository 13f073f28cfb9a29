"""Paths within an output folder. Links that lead out of it are not followed."""

from __future__ import annotations

from pathlib import Path

from segflow.core.errors import SegflowError


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path lies within a folder after links are resolved. The folder itself may be a link."""
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
    """Refuse a link as a file to append to, which would change the file that the link leads to.

    Raises:
        SegflowError: It is a link.
    """
    if file.is_symlink():
        raise SegflowError(f"{file} is a link: the file that it leads to would be changed", fix="Remove the link.")
    return file
