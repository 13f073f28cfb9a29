"""Unpacking of untrusted archives: tar, compressed or not, and zip."""

from __future__ import annotations

import lzma
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.storage.scratch_files import check_space
from segflow.storage.whole_folder import folder_written_whole
from segflow.storage.zip_files import (
    ALWAYS_BYTES,
    BROKEN,
    DAMAGE,
    DEEPEST_PATH,
    LONGEST_PATH,
    MOST_TIMES,
    is_zip,
    open_zip,
)

MOST_FILES = 1_000_000
_DAMAGE = (tarfile.TarError, lzma.LZMAError, *DAMAGE)


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that `unpack` reads."""
    try:
        return path.is_file() and (is_zip(path) or tarfile.is_tarfile(path))
    except _DAMAGE:
        return False


def unpack(archive: Path, target: Path) -> Path:
    """Unpack an archive into a new folder, which appears only when it is complete.

    Args:
        archive: A tar or zip file.
        target: The new folder.

    Raises:
        SegflowError: It is no archive or damaged, the disk is too small, or it is refused: it holds a path that leads
            outside, a link, a device, or far more than its size.
    """
    with folder_written_whole(target) as partial:
        try:
            if is_zip(archive):
                _unpack_zip(archive, partial)
            else:
                _unpack_tar(archive, partial)
        except SegflowError:
            raise
        except _DAMAGE as error:
            raise SegflowError(f"cannot unpack {archive}: {shortened(error, 200)}", fix=BROKEN) from error
        if not any(partial.iterdir()):
            raise SegflowError(f"cannot unpack {archive}: there is nothing in it", fix=BROKEN)
    return target


def _unpack_zip(archive: Path, folder: Path) -> None:
    with open_zip(archive) as opened:
        entries = opened.infolist()
        _check_sizes(archive, folder, len(entries), sum(entry.file_size for entry in entries))
        for entry in entries:
            place = folder / entry.filename
            if entry.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(entry) as source, place.open("xb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        total = 0
        entries = []
        for entry in opened:
            if reason := _why_refused(entry):
                raise SegflowError(f"{archive} is refused: a file in it {reason}", found=shortened(entry.name))
            total += entry.size
            entries.append(entry)
            _check_sizes(archive, folder, len(entries), total)
        for entry in entries:
            place = folder / entry.name
            if entry.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            source = opened.extractfile(entry)
            if source is None:
                raise SegflowError(f"{archive} is refused: a file in it has no content", found=shortened(entry.name))
            with source, place.open("xb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
        if entries:
            _read_to_end(opened, archive)


def _read_to_end(opened: tarfile.TarFile, archive: Path) -> None:
    """Read what follows the last file: only at its end does a packing compare its checksum."""
    rest = 0
    while opened.fileobj is not None and (part := opened.fileobj.read(1 << 20)):
        rest += len(part)
        if rest > ALWAYS_BYTES:
            raise SegflowError(f"{archive} is refused: it goes on after its last file")


def _why_refused(entry: tarfile.TarInfo) -> str | None:
    path = PurePosixPath(entry.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in entry.name:
        return "would lie outside its folder"
    if len(entry.name) > LONGEST_PATH or len(path.parts) > DEEPEST_PATH:
        return "has an impossible path"
    if entry.issym() or entry.islnk():
        return "is a link"
    if not (entry.isreg() or entry.isdir()):
        return "is a device or pipe"
    return None


def _check_sizes(archive: Path, folder: Path, files: int, total: int) -> None:
    """Refuse an archive that holds far more than its own size, and one that the disk cannot hold."""
    size = archive.stat().st_size
    if total > max(MOST_TIMES * size, ALWAYS_BYTES) or files > MOST_FILES:
        raise SegflowError(
            f"{archive} is refused: it would unpack to far more than it is",
            found=f"{files} files of {total / 2**20:.0f} MiB in an archive of {size / 2**20:.1f} MiB",
            expected=f"at most {MOST_TIMES} times as much, in {MOST_FILES:,} files",
        )
    check_space(folder, total, folder)
