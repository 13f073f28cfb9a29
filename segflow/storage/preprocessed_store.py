"""Preprocessed cases on disk: compressed arrays that can be read in part, and their properties as JSON (recipe 4.3).

``<case>.b2nd`` is the image, float32 (C, Z, Y, X), and ``<case>_seg.b2nd`` the label map, int16 (1, Z, Y, X).
``<case>_locations.npy`` holds flat indices of the foreground locations, one key after the other. ``<case>.json`` is
written last: a case without it does not exist.
"""

from __future__ import annotations

import logging
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import LabelKey, key_from_text, key_text
from segflow.core.names import safe_name, shortened
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.core.system_errors import system_error
from segflow.execution.machine import check_room, granted_threads
from segflow.storage.chunks import chunk_and_block
from segflow.storage.json_files import TEMPORARY_PREFIX, read_json, write_json, written_whole
from segflow.storage.open_files import OpenFiles

FORMAT = 1
PREDICTED_BY = "predicted_by"
"""Key in the properties of a stored case whose label is a prediction, the input of a cascade."""

# Zstandard at its lowest level writes four times as fast as LZ4HC at 5, and smaller files. Every blosc2 reads them.
_CODEC = blosc2.Codec.ZSTD
_LEVEL = 1
_IN_MEMORY = 64 * 2**20
_THREADS = "BLOSC_NTHREADS"

_ARRAYS = (".b2nd", "_seg.b2nd", "_locations.npy")
ENDS = "ends_crc32"
"""Key for the checksum of a file's first and last bytes, which say how to read it. It is checked at every opening; old
arrays lack it."""

_END_BYTES = 4096

_PLAIN = b"\xa4b2nd"
"""Name of the metadata layer that arrays of segflow have beside those of every file of the library."""

_NOT_PLAIN = (b"\xa9LazyArray", b"\xa3b2o", b"\xacproxy-source", b"\xa7vlarray", b"\xa9listarray", b"\xaabatcharray")
"""Names of metadata layers that refer to other files or to code, which the library would open and run."""

log = logging.getLogger(__name__)


class ForegroundLocations:
    """Voxels that a patch may be centred on, read one at a time from the file.

    Attributes:
        keys: Labels and regions that the case has voxels of.
    """

    def __init__(self, case: StoredCase, counts: Mapping[LabelKey, int]) -> None:
        self._case = case
        self._counts = {key: count for key, count in counts.items() if count > 0}
        self._starts: dict[LabelKey, int] = {}
        start = 0
        for key, count in counts.items():
            self._starts[key] = start
            start += count
        self._total = start

    @property
    def keys(self) -> tuple[LabelKey, ...]:
        """Labels and regions that the case has voxels of, in the order of the dataset."""
        return tuple(self._counts)

    def count(self, key: LabelKey) -> int:
        """Number of its voxels that were drawn; 0 if the case has none."""
        return self._counts.get(key, 0)

    def location(self, key: LabelKey, index: int) -> tuple[int, int, int]:
        """One voxel of a key as (z, y, x); ``0 <= index < count(key)``."""
        if not 0 <= index < self.count(key):
            raise IndexError(f"location {index} of {self.count(key)} of label {key}")
        indices = self._case._open_locations(self._total)
        _, rows, columns = self._case.shape
        z, rest = divmod(int(indices[self._starts[key] + index]), rows * columns)
        y, x = divmod(rest, columns)
        return z, y, x


class StoredCase:
    """A case of the store. Its arrays are opened when they are first read.

    Args:
        folder: Folder of the store.
        case_id: Name of the case.
        properties: Content of its JSON file.
        files: Open arrays of all cases of the store.

    Attributes:
        case_id: Name of the case.
        shape: Voxels along z, y, x in plan space.
        channels: Channels of the image.
        spatial: How it got here from image space.
        properties: Content of its JSON file.
        foreground: See `ForegroundLocations`.
    """

    def __init__(self, folder: Path, case_id: str, properties: Mapping[str, Any], files: OpenFiles) -> None:
        self._folder = folder
        self._files = files
        self.case_id = case_id
        self.properties = properties
        try:
            self.spatial = SpatialRecord.from_json(properties)
            self.channels = index(properties["channels"])
            if self.channels < 0:
                raise ValueError(f"{self.channels} channels")
            counts = {key_from_text(key): index(n) for key, n in properties["foreground_locations"].items()}
            self._listed = _listed_files(case_id, properties)
        except UNUSABLE as error:
            raise self._damaged(f"its properties in {case_id}.json cannot be used ({shortened(error, 200)})") from error
        self.shape: tuple[int, int, int] = self.spatial.shape_plan  # type: ignore[assignment]
        self.foreground = ForegroundLocations(self, counts)

    def read_image(self, box: Box | None = None) -> np.ndarray:
        """The image within a box, float32 (C, *box.shape); None reads all of it.

        Raises:
            SegflowError: The file is missing or damaged.
        """
        box = self._inside(box)
        if self.channels == 0:
            return np.empty((0, *box.shape), np.float32)
        check_room(4 * self.channels * math.prod(box.shape), "the array", found=f"{box.shape}", case=self.case_id)
        return self._read(f"{self.case_id}.b2nd", (slice(None), *box.slices))

    def read_label(self, box: Box | None = None) -> np.ndarray:
        """The label map within a box, int16 (Z, Y, X); None reads all of it.

        Raises:
            SegflowError: The file is missing or damaged, or the case has no reference.
        """
        return self._read(f"{self.case_id}_seg.b2nd", (0, *self._inside(box).slices))

    def _inside(self, box: Box | None) -> Box:
        if box is None:
            return Box.whole(self.shape)
        if box.clip(self.shape) != box:
            raise ValueError(f"case '{self.case_id}': {box} sticks out of {self.shape}")
        return box

    def _read(self, name: str, part: tuple[int | slice, ...]) -> np.ndarray:
        try:
            values: np.ndarray = self._files.get(name, lambda: self._open_array(name))[part]
        except Exception as error:  # a damaged file may cause any error in the library
            raise self._unreadable(name, error) from error
        return values

    def _open_array(self, name: str) -> Any:
        self._check_size(name)
        mapping = {} if os.name == "nt" else {"mmap_mode": "r"}
        file = self._folder / name
        ends = self._listed[name].get(ENDS)
        if ends is not None and _checksum_of_ends(file) != ends:  # some damage there makes the library end the process
            raise self._damaged(f"{name} is not what was written")
        _refuse_objects(file)
        array = blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1}, **mapping)
        is_label = name == f"{self.case_id}_seg.b2nd"
        shape, kind = (1 if is_label else self.channels, *self.shape), np.int16 if is_label else np.float32
        if not isinstance(array, blosc2.NDArray) or array.shape != shape or array.dtype != kind:
            raise self._damaged(f"{name} holds something else than {np.dtype(kind)} {shape}")
        return array

    def _open_locations(self, count: int) -> np.ndarray:
        name = f"{self.case_id}_locations.npy"

        def open_file() -> np.ndarray:
            self._check_size(name)
            indices: np.ndarray = np.load(self._folder / name, mmap_mode="r", allow_pickle=False)
            if indices.shape != (count,) or indices.dtype.kind != "i":
                raise self._damaged(f"{name} holds {indices.shape} entries instead of {count}")
            return indices

        try:
            locations: np.ndarray = self._files.get(name, open_file)
        except Exception as error:  # see `_read`
            raise self._unreadable(name, error) from error
        return locations

    def _unreadable(self, name: str, error: Exception) -> SegflowError:
        """The error for a file: damage, or a refusal of the system, which libraries do not pass on."""
        if isinstance(error, SegflowError):
            return error
        file = self._folder / name
        try:
            if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
                raise error
            whole = _checksum(file) == self._listed[name]["crc32"]
        except FileNotFoundError:
            whole = False
        except OSError as refused:
            return system_error(refused, f"cannot read {file}").of_case(self.case_id)
        if whole:
            return SegflowError(f"cannot read {file}, though it is whole: {shortened(error, 200)}", case=self.case_id)
        return self._damaged(f"{name} cannot be read ({shortened(error, 200)})")

    def _check_size(self, name: str) -> None:
        expected = self._listed.get(name)
        if expected is None:
            raise SegflowError(
                f"the preprocessed case has no {name}",
                case=self.case_id,
                fix="Was it preprocessed without a reference label?",
            )
        found = (self._folder / name).stat().st_size
        if found != expected["bytes"]:
            raise self._damaged(f"{name} has {found} bytes instead of {expected['bytes']}")

    def _damaged(self, problem: str) -> SegflowError:
        return SegflowError(
            f"the preprocessed arrays are damaged: {problem}",
            case=self.case_id,
            found=self._folder,
            fix=f"Delete {self.case_id}.json there and run `segflow preprocess` again: only this case is made anew.",
        )


class PreprocessedStore:
    """A folder of preprocessed cases of one configuration.

    Args:
        folder: ``<preprocessed>/<dataset>/<data_identifier>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._opened: dict[str, StoredCase] = {}
        self._files = OpenFiles()

    def __reduce__(self) -> tuple[Any, ...]:
        return (PreprocessedStore, (self.folder,))  # open files cannot go to other processes

    def case_ids(self) -> list[str]:
        """Names of all complete cases, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.json") if not path.name.startswith("."))

    def properties_file(self, case_id: str) -> Path:
        """The file with all properties of a case. It has checksums of the arrays, so it stands for their content."""
        return self.folder / f"{case_id}.json"

    def open(self, case_id: str) -> StoredCase:
        """The case of this name. Opening it again costs nothing.

        Raises:
            SegflowError: There is none, or its properties are damaged.
        """
        if case_id not in self._opened:
            safe_name(case_id, "the name of a case")
            file = self.properties_file(case_id)
            if not file.is_file():
                raise SegflowError(
                    "the case is not among the preprocessed ones",
                    case=case_id,
                    found=f"no {file}",
                    fix="Run `segflow preprocess` first.",
                )
            fix = f"Delete {file} and run `segflow preprocess` again: only this case is made anew."
            self._opened[case_id] = StoredCase(self.folder, case_id, read_json(file, fix), self._files)
        return self._opened[case_id]

    def write(
        self, case: PreprocessedCase, patch_size: Sequence[int], properties: Mapping[str, Any] | None = None
    ) -> None:
        """Write or replace a case. It does not exist until its last file is written.

        Args:
            case: Its image may have no channels and its label may be None; such arrays are left out.
            patch_size: Patch size of the training that will read it (two entries in 2D), which decides the chunks.
            properties: Further plain JSON to store with it.

        Raises:
            NoSpaceError: The disk is full or read-only. The error names the case.
            SegflowError: The folder cannot be written. The error names the case.
        """
        name = case.case_id
        marker = self.folder / f"{name}.json"
        arrays: dict[str, np.ndarray] = {}
        if case.image.shape[0]:
            arrays[f"{name}.b2nd"] = np.ascontiguousarray(case.image, np.float32)
        if case.label is not None:
            arrays[f"{name}_seg.b2nd"] = np.ascontiguousarray(case.label, np.int16)[None]
        locations = dict(case.foreground_locations)
        arrays[f"{name}_locations.npy"] = _flat_indices(locations.values(), case.spatial.shape_plan)
        self._forget(name)
        counts = {key_text(key): len(voxels) for key, voxels in locations.items()}
        content = {
            "format": FORMAT,
            "case_id": name,
            "channels": int(case.image.shape[0]),
            **case.spatial.to_json(),
            "foreground_locations": counts,
            "files": {},
            **(properties or {}),
        }
        try:
            marker.unlink(missing_ok=True)
            files = {file: self._write_array(self.folder / file, array, patch_size) for file, array in arrays.items()}
            write_json(marker, content | {"files": files})
        except SegflowError as error:
            raise error.of_case(name) from error
        except OSError as error:
            raise system_error(error, f"cannot write {marker}", place=self.folder).of_case(name) from error
        except RuntimeError as error:  # raised by the library without a reason
            raise SegflowError(f"cannot write into {self.folder}: {error}", case=name) from error

    def remove(self, case_id: str) -> None:
        """Delete a case's files, the JSON file first, so that the rest is not taken for a case."""
        self._forget(case_id)
        for ending in (".json", *_ARRAYS):
            (self.folder / f"{case_id}{ending}").unlink(missing_ok=True)

    def _forget(self, case_id: str) -> None:
        self._opened.pop(case_id, None)
        for ending in _ARRAYS:
            self._files.forget(f"{case_id}{ending}")

    def is_whole(self, case_id: str) -> bool:
        """Whether the case's files are still as they were written.

        Sizes are compared. Contents are compared only if a file was touched after the case was finished.
        """
        marker = self.folder / f"{case_id}.json"
        try:
            finished = marker.stat().st_mtime_ns
            files = _listed_files(case_id, read_json(marker))
            for name, expected in files.items():
                status = (self.folder / name).stat()
                if status.st_size != expected["bytes"]:
                    return False
                if status.st_mtime_ns > finished and _checksum(self.folder / name) != expected["crc32"]:
                    return False
        except (OSError, *UNUSABLE):
            return False
        return True

    def clear_unfinished(self, older_than_seconds: float = 3600.0) -> None:
        """Delete unfinished files of killed processes. Recent ones may still be in use and are kept."""
        newest = max((path.stat().st_mtime for path in self.folder.glob("*.json")), default=0.0)
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            if path.stat().st_mtime + older_than_seconds < newest:
                path.unlink(missing_ok=True)

    def _write_array(self, path: Path, array: np.ndarray, patch_size: Sequence[int]) -> dict[str, int]:
        with written_whole(path, needed=array.nbytes) as temporary:
            if path.suffix == ".npy":
                np.save(temporary, array, allow_pickle=False)
            else:
                _write_b2nd(temporary, array, patch_size)
            size = temporary.stat().st_size
            return {"bytes": size, "crc32": _checksum(temporary), ENDS: _checksum_of_ends(temporary)}


def _listed_files(case_id: str, properties: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """File → bytes and checksum, as listed in a case's properties, but only files of the case."""
    own = [f"{case_id}{ending}" for ending in _ARRAYS]
    files = properties["files"]
    return {
        name: {key: index(files[name][key]) for key in ("bytes", "crc32", ENDS) if key != ENDS or key in files[name]}
        for name in own
        if name in files
    }


def _refuse_objects(file: Path) -> None:
    """Refuse a file that holds more than an array, such as an expression over other files.

    Raises:
        ValueError: It does, or its header is invalid.
    """
    with file.open("rb") as stream:
        start = stream.read(15)
        size = int.from_bytes(start[11:15], "big", signed=True)
        head = start + stream.read(min(max(size - len(start), 0), 1 << 16))
    if _PLAIN not in head or any(name in head for name in _NOT_PLAIN):
        raise ValueError("it is not a plain array")


def _write_b2nd(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> None:
    chunk, block = chunk_and_block(array.shape, patch_size, array.itemsize)
    is_small = array.nbytes <= _IN_MEMORY
    threads = 1 if is_small else granted_threads()
    _limit_threads(threads)
    options = {
        "chunks": chunk,
        "blocks": block,
        "cparams": {
            "codec": _CODEC,
            "clevel": _LEVEL,
            "filters": [_better_filter(array, block)],
            "nthreads": threads,
        },
        "dparams": {"nthreads": 1},
    }
    if is_small:  # on disk the library writes once per chunk, and a 2D configuration has one per slice
        path.write_bytes(blosc2.asarray(array, contiguous=True, **options).to_cframe())
    else:
        blosc2.asarray(array, urlpath=str(path), mode="w", **options)


def _better_filter(array: np.ndarray, block: Sequence[int]) -> blosc2.Filter:
    """The filter that makes a block from the middle smaller: shuffle or none (recipe 4.3 tries a whole chunk)."""
    starts = [(n - b) // 2 for n, b in zip(array.shape, block, strict=True)]
    sample = np.ascontiguousarray(array[tuple(slice(s, s + b) for s, b in zip(starts, block, strict=True))])

    def length(choice: blosc2.Filter) -> int:
        return len(
            blosc2.compress2(sample, codec=_CODEC, clevel=_LEVEL, filters=[choice], typesize=array.itemsize, nthreads=1)
        )

    plain, shuffled = length(blosc2.Filter.NOFILTER), length(blosc2.Filter.SHUFFLE)
    return blosc2.Filter.SHUFFLE if shuffled < plain else blosc2.Filter.NOFILTER


def _limit_threads(threads: int) -> None:
    """Limit the threads that the library uses beside compressing.

    It starts new ones for each chunk that it appends and ignores its own options. Only the environment limits them.
    """
    if os.environ.get(_THREADS) != str(threads):
        os.environ[_THREADS] = str(threads)


def _flat_indices(locations: Any, shape: Sequence[int]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    kind = np.int32 if size < 2**31 else np.int64
    parts = [np.ravel_multi_index(tuple(voxels.T), tuple(shape)).astype(kind) for voxels in locations if len(voxels)]
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


def _checksum_of_ends(path: Path) -> int:
    with path.open("rb") as file:
        value = zlib.crc32(file.read(_END_BYTES))
        file.seek(max(file.tell(), file.seek(0, os.SEEK_END) - _END_BYTES))
        return zlib.crc32(file.read(), value)
