"""Preprocessed cases on disk: compressed arrays that can be read in part, and their properties as JSON (recipe 4.3).

``<case>.b2nd`` is the image, float32 (C, Z, Y, X), and ``<case>_seg.b2nd`` the label map, int16 (1, Z, Y, X).
``<case>_locations.npy`` holds flat indices of the foreground locations, one key after the other. ``<case>.json`` is
written last: a case without it does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import LabelKey, key_text
from segflow.core.missing_channels import MISSING_CHANNELS
from segflow.core.names import safe_name
from segflow.core.preprocessed_case import PreprocessedCase, PreprocessedSources, SpatialRecord
from segflow.core.system_errors import system_error
from segflow.core.voxels import LabelSource
from segflow.storage.array_files import checksum, write_array
from segflow.storage.array_writer import WrittenLabel, write_array_as_read
from segflow.storage.case_facts import CaseFacts, facts_of
from segflow.storage.case_index import CaseIndex
from segflow.storage.json_files import read_json, write_json_lines
from segflow.storage.open_files import OpenFiles
from segflow.storage.stored_case import ARRAY_ENDINGS, StoredCase, listed_files

FORMAT = 1
PREDICTED_BY = "predicted_by"
"""Key in the properties of a stored case whose label is a prediction, the input of a cascade."""

Locations = Mapping[LabelKey, np.ndarray]
"""Foreground locations, see `PreprocessedCase`."""

_KEPT_CASES = 256
"""Cases that stay open, the most recent ones. Many small objects in memory slow down all others."""


class PreprocessedStore:
    """A folder of preprocessed cases of one configuration.

    Args:
        folder: ``<preprocessed>/<dataset>/<data_identifier>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._opened = OpenFiles(_KEPT_CASES)
        self._files = OpenFiles()
        self._index: CaseIndex | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (PreprocessedStore, (self.folder,))  # open files cannot go to other processes

    def read_index(self) -> PreprocessedStore:
        """Look at all cases at once, which is quicker than one by one. Returns this store.

        From now on the store has the cases that there are now, and opens none of their JSON files; see `CaseIndex`.

        Raises:
            SegflowError: The folder cannot be listed.
        """
        self._opened = OpenFiles(_KEPT_CASES)
        self._index = CaseIndex.of(self.folder, self._index)
        return self

    def read_since(self, case_id: str) -> None:
        """Read a case that another process has just written, while others are at work: `read_index` then need not."""
        if self._index is not None:
            self._index.read_since(self.folder, case_id)

    def case_ids(self) -> list[str]:
        """Names of all complete cases, sorted."""
        if self._index is not None:
            return list(self._index.states)
        return sorted(path.stem for path in self.folder.glob("*.json") if not path.name.startswith("."))

    def has(self, case_id: str) -> bool:
        """Whether there is a complete case of this name."""
        if self._index is not None:
            return case_id in self._index.states
        return self.properties_file(case_id).is_file()

    def properties(self, case_id: str) -> Any:
        """The content of a case's JSON file.

        Raises:
            SegflowError: There is no such case, or its JSON file is damaged.
        """
        known = None if self._index is None else self._index.properties(case_id)
        if known is not None:
            return known
        safe_name(case_id, "the name of a case")
        file = self.properties_file(case_id)
        if not file.is_file():
            raise SegflowError(
                "the case is not among the preprocessed ones",
                case=case_id,
                found=f"no {file}",
                fix="Run `segflow preprocess` first.",
            )
        return read_json(file, f"Delete {file} and run `segflow preprocess` again: only this case is made anew.")

    def properties_file(self, case_id: str) -> Path:
        """The file with all properties of a case. It has checksums of the arrays, so it stands for their content."""
        return self.folder / f"{case_id}.json"

    def facts(self, case_id: str) -> CaseFacts:
        """What is asked of every case at once, quicker than from `open`.

        Raises:
            SegflowError: There is no such case, or its properties are damaged.
        """
        known = None if self._index is None else self._index.facts(case_id)
        return facts_of(self.open(case_id)) if known is None else known

    def open(self, case_id: str) -> StoredCase:
        """The case of this name. Opening it again costs nothing.

        Raises:
            SegflowError: There is none, or its properties are damaged.
        """
        case: StoredCase = self._opened.get(
            case_id, lambda: StoredCase(self.folder, case_id, self.properties(case_id), self._files)
        )
        return case

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
        name, patch = case.case_id, patch_size

        def write_arrays() -> tuple[dict[str, dict[str, int]], Locations]:
            files = {}
            if case.image.shape[0]:
                image = np.ascontiguousarray(case.image, np.float32)
                files[f"{name}.b2nd"] = write_array(self.folder / f"{name}.b2nd", image, patch)
            if case.label is not None:
                label = np.ascontiguousarray(case.label, np.int16)[None]
                files[f"{name}_seg.b2nd"] = write_array(self.folder / f"{name}_seg.b2nd", label, patch)
            return files, case.foreground_locations

        self._write(name, case.spatial, case.image.shape[0], write_arrays, _with_missing(properties, case.missing))

    def write_as_read(
        self,
        case: PreprocessedSources,
        patch_size: Sequence[int],
        locate: Callable[[LabelSource], Locations],
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Like `write`, for a case that is prepared as it is read: slab by slab, so that it need not fit into memory.

        Args:
            case: The case.
            patch_size: See `write`.
            locate: Draws the foreground locations from the label map as it was written.
            properties: Further plain JSON to store with it.

        Raises:
            NoSpaceError: The disk is full or read-only. The error names the case.
            SegflowError: The case cannot be read, or the folder cannot be written. The error names the case.
        """
        name, source = case.case_id, case.label

        def write_arrays() -> tuple[dict[str, dict[str, int]], Locations]:
            place, kind = self.folder / f"{name}.b2nd", np.dtype(np.float32)
            files = {place.name: write_array_as_read(place, case.image.shape, kind, case.image.read, patch_size)}
            if source is None:
                return files, {}
            place, shape = self.folder / f"{name}_seg.b2nd", (1, *source.shape)

            def read(box: Box) -> np.ndarray:
                return source.read(box)[None]

            files[place.name] = write_array_as_read(place, shape, np.dtype(np.int16), read, patch_size)
            return files, locate(WrittenLabel(place))

        self._write(name, case.spatial, case.image.shape[0], write_arrays, _with_missing(properties, case.missing))

    def _write(
        self,
        name: str,
        spatial: SpatialRecord,
        channels: int,
        write_arrays: Callable[[], tuple[dict[str, dict[str, int]], Locations]],
        properties: Mapping[str, Any] | None,
    ) -> None:
        """Write a case's files, its JSON file last."""
        marker = self.folder / f"{name}.json"
        self._forget(name)
        try:
            marker.unlink(missing_ok=True)
            files, locations = write_arrays()
            indices = _flat_indices(locations.values(), spatial.shape_plan)
            file = f"{name}_locations.npy"
            files[file] = write_array(self.folder / file, indices, ())
            content = {
                "format": FORMAT,
                "case_id": name,
                "channels": int(channels),
                **spatial.to_json(),
                "foreground_locations": {key_text(key): len(voxels) for key, voxels in locations.items()},
                "files": {},
                **(properties or {}),
            }
            write_json_lines(marker, content | {"files": files})
        except SegflowError as error:
            raise error.of_case(name) from error
        except OSError as error:
            raise system_error(error, f"cannot write {marker}", place=self.folder).of_case(name) from error
        except RuntimeError as error:  # raised by the library without a reason
            raise SegflowError(f"cannot write into {self.folder}: {error}", case=name) from error

    def remove(self, case_id: str) -> None:
        """Delete a case's files, the JSON file first, so that the rest is not taken for a case."""
        self._forget(case_id)
        for ending in (".json", *ARRAY_ENDINGS):
            (self.folder / f"{case_id}{ending}").unlink(missing_ok=True)

    def _forget(self, case_id: str) -> None:
        self._opened.forget(case_id)
        if self._index is not None:
            self._index.forget(case_id)
        for ending in ARRAY_ENDINGS:
            self._files.forget(f"{case_id}{ending}")

    def is_whole(self, case_id: str) -> bool:
        """Whether the case's files are still as they were written.

        Sizes are compared. Contents are compared only if a file was touched after the case was finished.
        """
        marker = self.folder / f"{case_id}.json"
        try:
            known = None if self._index is None else self._index.states.get(case_id)
            finished = marker.stat().st_mtime_ns if known is None else known.time_ns
            files = listed_files(case_id, self.properties(case_id))
            for name, expected in files.items():
                status = os.stat(f"{self.folder}/{name}")
                if status.st_size != expected["bytes"]:
                    return False
                if status.st_mtime_ns > finished and checksum(self.folder / name) != expected["crc32"]:
                    return False
        except (OSError, *UNUSABLE):
            return False
        return True

    def clear_unfinished(self, older_than_seconds: float = 3600.0) -> None:
        """Delete unfinished files of killed processes. Recent ones may still be in use and are kept."""
        index = self._index or CaseIndex.listed(self.folder)
        newest = max((state.time_ns for state in index.states.values()), default=0) / 1e9
        for name in index.unfinished:
            path = self.folder / name
            if 0.0 < _time_of(path) < newest - older_than_seconds:
                path.unlink(missing_ok=True)


def _with_missing(properties: Mapping[str, Any] | None, missing: Sequence[int]) -> dict[str, Any]:
    """The properties, with the channels that the case lacks, if it lacks any."""
    return {**(properties or {}), **({MISSING_CHANNELS: list(missing)} if missing else {})}


def _time_of(path: Path) -> float:
    """Time of a file's last change; 0 if another process has just deleted or renamed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _flat_indices(locations: Any, shape: Sequence[int]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    kind = np.int32 if size < 2**31 else np.int64
    parts = [np.ravel_multi_index(tuple(voxels.T), tuple(shape)).astype(kind) for voxels in locations if len(voxels)]
    return np.concatenate(parts) if parts else np.empty(0, kind)
