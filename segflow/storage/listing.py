"""The content of a folder: files to use, and files to skip with the reason. Every skipped file is reported."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.wording import counted, some
from segflow.storage.folder_files import names_a_folder

QUIET_NAMES = frozenset({"thumbs.db", "desktop.ini", "icon\r", "readme", "license", "licence", "changelog", "makefile"})
QUIET_ENDINGS = (
    *(".json", ".csv", ".tsv", ".txt", ".md", ".rst", ".log", ".xml", ".html", ".yaml", ".yml", ".toml", ".ini"),
    *(".pdf", ".xls", ".xlsx", ".docx", ".py", ".sh", ".m", ".bval", ".bvec", ".pkl", ".npz", ".pth", ".ckpt"),
)
"""Endings of files that may lie beside images: notes, tables, programs, spacings, gradients, files of models."""

EMPTY = "an empty folder"
LOST = "links to nowhere"
FETCH = "Fetch what the links point to (git annex get, datalad get, dvc pull), or put the files in their place."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """The visible content of a folder. Hidden entries are left out, since they are never data.

    Attributes:
        folder: The folder.
        files: Names of the files, of links to files, and of folders that are one image each, sorted.
        lost: Name → target of the links that lead nowhere, sorted by name.
        others: Names of pipes, devices and sockets, sorted.
        folders: Names of the folders, sorted.
    """

    folder: Path
    files: tuple[str, ...]
    lost: Mapping[str, str]
    others: tuple[str, ...]
    folders: tuple[str, ...]

    def passed_over(self, taken: Iterable[str], endings: Sequence[str]) -> dict[str, list[str]]:
        """Reason → names of skipped entries that may be data.

        Args:
            taken: Names of the files that have one of the endings.
            endings: The endings, with their dots.
        """
        known = set(taken)
        found = {
            LOST: list(self.lost),
            f"other endings than {' '.join(endings)}": [n for n in self.files if n not in known and not is_quiet(n)],
            "no regular files": list(self.others),
        }
        return {why: names for why, names in found.items() if names}

    def summary(self) -> str:
        """The content in a few words, for messages about missing files."""
        parts = []
        if self.files:
            parts.append(some(self.files))
        if self.lost:
            parts.append(f"{counted(len(self.lost), 'link')} to nowhere ({some([*self.lost])})")
        if self.folders:
            parts.append(f"{counted(len(self.folders), 'folder')} ({some(self.folders)})")
        if self.others:
            parts.append(f"{some(self.others)}, no regular file")
        return "; ".join(parts) or EMPTY


def list_folder(folder: Path) -> Listing:
    """List a folder.

    Raises:
        SegflowError: There is no such folder, or it cannot be read.
    """
    kinds: dict[str, list[str]] = {"file": [], "link": [], "other": [], "folder": []}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    kinds[_kind(entry)].append(entry.name)
    except FileNotFoundError:
        raise SegflowError(f"there is no folder {folder}", fix="Check the path.") from None
    except OSError as error:
        raise SegflowError(f"cannot list {folder}: {error.strerror or error}") from error
    lost = {name: _target(folder / name) for name in sorted(kinds["link"])}
    return Listing(
        folder, tuple(sorted(kinds["file"])), lost, tuple(sorted(kinds["other"])), tuple(sorted(kinds["folder"]))
    )


def files_ending_in(folder: Path, ending: str) -> list[str]:
    """Names of the files with an ending, sorted. Other files that may be data are logged in one line.

    Raises:
        SegflowError: There is no such folder, or it cannot be read.
    """
    listing = list_folder(folder)
    taken = [name for name in listing.files if name.endswith(ending)]
    tell_passed_over(folder, listing.passed_over(taken, [ending]))
    return taken


def tell_passed_over(folder: Path, passed: Mapping[str, Collection[str]]) -> None:
    """Log one line about skipped files, if there are any."""
    if passed:
        logger.warning("%s", describe_passed_over(folder, passed))


def describe_passed_over(folder: Path | str, passed: Mapping[str, Collection[str]]) -> str:
    """One line about the skipped entries of a folder: how many, why, and the first names.

    Args:
        folder: The folder.
        passed: Reason → names.
    """
    total = sum(len(names) for names in passed.values())
    reasons = ". ".join(f"{why[0].upper()}{why[1:]}: {len(names)} ({some([*names])})" for why, names in passed.items())
    fix = f" {FETCH}" if LOST in passed else ""
    return f"{folder}: {counted(total, 'file')} {'is' if total == 1 else 'are'} passed over. {reasons}.{fix}"


def is_quiet(name: str) -> bool:
    """Whether a visible file is a usual companion of images, which is skipped without a message."""
    return name.lower() in QUIET_NAMES or name.lower().endswith(QUIET_ENDINGS)


def missing_file(file: Path) -> SegflowError:
    """The error for a file that does not exist, or that is a link to nowhere."""
    if file.is_symlink():
        return SegflowError(f"{file} is a link to nowhere", found=f"→ {_target(file)}", fix=FETCH)
    return SegflowError(f"there is no file {file}", fix="Check the name and the folder.")


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "file" if names_a_folder(entry.name) else "folder"
        return "link" if entry.is_symlink() else "other"
    except OSError:  # a circle of links, or a target without permission
        return "link" if entry.is_symlink() else "other"


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return "?"
