"""A preprocessed case on disk: its arrays are read in part, and checked as they are opened."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import LabelKey, key_from_text
from segflow.core.missing_channels import MISSING_CHANNELS
from segflow.core.names import shortened
from segflow.core.preprocessed_case import SpatialRecord
from segflow.core.system_errors import system_error
from segflow.execution.machine import check_room
from segflow.storage.array_files import ENDS, checksum, checksum_of_ends, refuse_objects
from segflow.storage.array_library import array_library
from segflow.storage.open_files import OpenFiles

ARRAY_ENDINGS = (".b2nd", "_seg.b2nd", "_locations.npy")
"""Endings of the files of a case's arrays."""


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
        missing: Numbers of the channels that are missing, which are 0.
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
            self._counts = {key_from_text(key): index(n) for key, n in properties["foreground_locations"].items()}
            self._listed = listed_files(case_id, properties)
            self.missing = tuple(index(number) for number in properties.get(MISSING_CHANNELS, ()))
        except UNUSABLE as error:
            raise self._damaged(f"its properties in {case_id}.json cannot be used ({shortened(error, 200)})") from error
        self.shape: tuple[int, int, int] = self.spatial.shape_plan  # type: ignore[assignment]

    @property
    def foreground(self) -> ForegroundLocations:
        """Voxels that a patch may be centred on. They are not kept here: a circle of two would outlive the case."""
        return ForegroundLocations(self, self._counts)

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

    def close(self) -> None:
        """Close the case's files. Reading opens them again."""
        for ending in ARRAY_ENDINGS:
            self._files.forget(f"{self.case_id}{ending}")

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
        with file.open("rb") as stream:
            # Some damage there makes the library end the process.
            if ends is not None and checksum_of_ends(stream) != ends:
                raise self._damaged(f"{name} is not what was written")
            refuse_objects(stream)
        blosc2 = array_library()
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
            with (self._folder / name).open("rb") as stream:  # `np.load` would open it three times
                if npy.read_magic(stream) != (1, 0):
                    raise self._damaged(f"{name} is not what was written")
                shape, _, kind = npy.read_array_header_1_0(stream)
                if shape != (count,) or kind.kind != "i":
                    raise self._damaged(f"{name} holds {shape} entries instead of {count}")
                return np.memmap(stream, kind, "r", stream.tell(), shape)

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
            whole = checksum(file) == self._listed[name]["crc32"]
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


def listed_files(case_id: str, properties: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """File → bytes and checksum, as listed in a case's properties, but only files of the case."""
    own = [f"{case_id}{ending}" for ending in ARRAY_ENDINGS]
    files = properties["files"]
    return {
        name: {key: index(files[name][key]) for key in ("bytes", "crc32", ENDS) if key != ENDS or key in files[name]}
        for name in own
        if name in files
    }
