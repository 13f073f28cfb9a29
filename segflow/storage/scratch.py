"""Copies of preprocessed cases on a disk of this machine, so that a training does not read over the network.

The copies of one folder of arrays are shared by all jobs of a user on a machine, whichever folds they train. One job
copies at a time, and the others wait for it. A case is copied if its properties, which have checksums of its arrays,
are not those of the original. It exists in the copy when its properties do, which are written last.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

from segflow.core.errors import SegflowError
from segflow.core.system_errors import size_text, system_error
from segflow.storage.file_stamps import digest_of
from segflow.storage.json_files import TEMPORARY_PREFIX, parse_json, written_whole
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.stored_case import ARRAY_ENDINGS, listed_files

THREADS = 4
"""Cases that are copied at once, since a file system of a network is slow for one file and quick for several."""

LOCK = ".lock"

logger = logging.getLogger(__name__)


def copy_to_scratch(store: PreprocessedStore, case_ids: Sequence[str], scratch: Path) -> PreprocessedStore:
    """Copy cases to a disk of this machine, as far as they are not there yet.

    Args:
        store: The original cases.
        case_ids: The cases to copy.
        scratch: A folder on that disk. It is made if it is missing.

    Returns:
        The copies; or ``store`` itself, after a warning, if they do not fit or the folder cannot be used.

    Raises:
        SegflowError: An original is missing or damaged.
    """
    try:
        folder = _own_folder(scratch) / _name_of(store.folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder):
            for left in folder.glob(f"{TEMPORARY_PREFIX}*"):
                left.unlink(missing_ok=True)  # of a killed process
            return _copied(store, sorted(set(case_ids)), PreprocessedStore(folder))
    except OSError as error:
        reason = str(system_error(error, f"paths.scratch={scratch} cannot be used"))
    except _UnusableError as error:
        reason = str(error)
    logger.warning("%s; the training reads its arrays from %s", reason, store.folder)
    return store


class _UnusableError(Exception):
    """Why the training must read the originals."""


def _own_folder(scratch: Path) -> Path:
    """The user's folder in a place that other users may write to as well."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = scratch / f"segflow-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and status.st_uid != user):
        raise _UnusableError(f"paths.scratch={scratch} cannot be used: {folder} is not a folder of this user")
    return folder


def _name_of(folder: Path) -> str:
    """A name for the copy, different for originals of the same name in different places."""
    return f"{folder.parent.name}-{folder.name}-{digest_of(str(folder.resolve()))[:12]}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other job of this machine copies into the folder, and keep others out."""
    with (folder / LOCK).open("a") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                logger.info("waiting for another job, which copies arrays to %s", folder)
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _copied(store: PreprocessedStore, case_ids: Sequence[str], copy: PreprocessedStore) -> PreprocessedStore:
    waiting = [case_id for case_id in case_ids if not _is_current(store, case_id, copy)]
    needed = sum(_size_of(store, case_id) for case_id in waiting)
    free = shutil.disk_usage(copy.folder).free + sum(_size_on_disk(copy, case_id) for case_id in waiting)
    if needed > free:
        raise _UnusableError(
            f"{len(waiting)} cases do not fit into {copy.folder}: they need {size_text(needed)}, "
            f"and {size_text(free)} are free"
        )
    if not waiting:
        logger.info("all %d cases are already in %s", len(case_ids), copy.folder)
        return copy
    logger.info("copying %d of %d cases, %s, to %s", len(waiting), len(case_ids), size_text(needed), copy.folder)
    begun = time.monotonic()
    try:
        _copy_all(store, waiting, copy)
    except (SegflowError, OSError) as error:
        for case_id in waiting:  # a full disk of a machine hinders others
            copy.remove(case_id)
        if isinstance(error, _DamagedError):
            raise
        raise _UnusableError(str(error)) from error
    logger.info("copied in %.0f s", time.monotonic() - begun)
    return copy


def _copy_all(store: PreprocessedStore, case_ids: Sequence[str], copy: PreprocessedStore) -> None:
    with ThreadPoolExecutor(THREADS, "scratch") as pool:
        futures = [pool.submit(_copy_case, store, case_id, copy) for case_id in case_ids]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _is_current(store: PreprocessedStore, case_id: str, copy: PreprocessedStore) -> bool:
    """Whether a copy has the properties of its original, and all of its arrays."""
    try:
        same = copy.properties_file(case_id).read_bytes() == _properties(store, case_id)
    except FileNotFoundError:
        return False
    return same and copy.is_whole(case_id)


def _properties(store: PreprocessedStore, case_id: str) -> bytes:
    file = store.properties_file(case_id)
    store.open(case_id)  # for its errors
    try:
        return file.read_bytes()
    except OSError as error:
        raise _DamagedError(str(system_error(error, f"cannot read {file}")), case=case_id) from error


def _size_of(store: PreprocessedStore, case_id: str) -> int:
    listed = listed_files(case_id, store.open(case_id).properties)
    return sum(int(file["bytes"]) for file in listed.values()) + store.properties_file(case_id).stat().st_size


def _size_on_disk(store: PreprocessedStore, case_id: str) -> int:
    files = [store.folder / f"{case_id}{ending}" for ending in ARRAY_ENDINGS]
    return sum(file.stat().st_size for file in files if file.is_file())


class _DamagedError(SegflowError):
    """An original is not what was written, which another place cannot mend."""


def _copy_case(store: PreprocessedStore, case_id: str, copy: PreprocessedStore) -> None:
    properties = _properties(store, case_id)
    listed = listed_files(case_id, parse_json(store.properties_file(case_id), properties))
    copy.remove(case_id)
    for name, expected in listed.items():
        try:
            original = (store.folder / name).open("rb")
        except OSError as error:
            raise _DamagedError(str(system_error(error, f"cannot read {store.folder / name}")), case=case_id) from error
        with original, written_whole(copy.folder / name, needed=expected["bytes"]) as temporary:
            found = _copy_file(original, temporary)
            if found != expected["crc32"]:
                raise _DamagedError(
                    f"the preprocessed arrays are damaged: {name} is not what was written",
                    case=case_id,
                    found=store.folder,
                    fix=f"Delete {case_id}.json there and run `segflow preprocess` again: only this case is made anew.",
                )
    with written_whole(copy.properties_file(case_id)) as temporary:
        temporary.write_bytes(properties)


def _copy_file(original: BinaryIO, target: Path) -> int:
    """Copy a file, and return the CRC-32 of its content."""
    value = 0
    with target.open("wb") as file:
        while part := original.read(1 << 22):
            value = zlib.crc32(part, value)
            file.write(part)
    return value
