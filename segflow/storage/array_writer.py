"""Compressed arrays that are written a few slices at a time, so that they need not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.geometry import Box
from segflow.execution.machine import granted_threads
from segflow.storage.array_files import array_options, checks_of, middle_block
from segflow.storage.array_library import array_library
from segflow.storage.chunks import chunk_and_block
from segflow.storage.json_files import written_whole
from segflow.storage.scratch_array import ScratchArray

IN_MEMORY = 1 << 28
"""Bytes of slices that wait for their chunk in memory; more wait in a file."""

AT_ONCE = 1 << 24
"""Values that are read at once."""

Read = Callable[[Box], np.ndarray]
"""Gives the values (C, z, y, x) of a box of slices."""


def write_array_as_read(
    path: Path, shape: Sequence[int], dtype: np.dtype, read: Read, patch_size: Sequence[int]
) -> dict[str, int]:
    """Like `write_array`, for a compressed array whose values are read slab by slab, in order along z.

    Args:
        path: Ends in ``.b2nd``.
        shape: (C, Z, Y, X).
        dtype: Type of the values.
        read: Reads them. The block in the middle is read first.
        patch_size: See `write_array`.

    Returns:
        See `write_array`.
    """
    starts, stops = middle_block(shape, patch_size, dtype.itemsize)
    sample = read(Box(tuple(starts[1:]), tuple(stops[1:])))[starts[0] : stops[0]]
    with written_whole(path, needed=math.prod(shape) * dtype.itemsize) as temporary:
        options = array_options(shape, patch_size, sample.astype(dtype, copy=False), granted_threads())
        array = array_library().empty(tuple(shape), dtype, urlpath=str(temporary), mode="w", **options)
        depth, rows = options["chunks"][1:3]
        with _waiting((shape[0], depth, *shape[2:]), dtype, path.parent) as (slices, release):
            for first in range(0, shape[1], depth):
                last = min(first + depth, shape[1])
                for start, stop in _steps(first, last, shape):
                    slices[:, start - first : stop - first] = read(Box((start, 0, 0), (stop, *shape[2:])))
                    release()
                _write_chunks(array, slices[:, : last - first], first, rows)
                release()
        return checks_of(temporary)


def waiting_bytes(shape: Sequence[int], patch_size: Sequence[int]) -> int:
    """Memory for the slices of a float32 array (C, Z, Y, X) that wait for their chunk, and for the chunks of some rows.

    Args:
        shape: Of the array.
        patch_size: See `write_array`.
    """
    (_, depth, rows, _), _ = chunk_and_block(shape, patch_size, 4)
    slices = 4 * shape[0] * depth * shape[2] * shape[3]
    return (slices if slices <= IN_MEMORY else 4 * AT_ONCE) + 2 * 4 * depth * rows * shape[3]


def _steps(first: int, last: int, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    at_once = max(1, AT_ONCE // (shape[0] * shape[2] * shape[3]))
    for start in range(first, last, at_once):
        yield start, min(start + at_once, last)


def _write_chunks(array: Any, slices: np.ndarray, first: int, rows: int) -> None:
    """Write whole chunks, each once: slices (C, n, Y, X) from number ``first`` on."""
    for number, channel in enumerate(slices):
        for y in range(0, channel.shape[1], rows):
            values = np.ascontiguousarray(channel[:, y : y + rows])
            array[number : number + 1, first : first + len(channel), y : y + rows] = values[None]


@contextmanager
def _waiting(shape: Sequence[int], dtype: np.dtype, folder: Path) -> Iterator[tuple[np.ndarray, Callable[[], None]]]:
    """Room for slices (C, n, Y, X), and a function that frees its memory where they lie in a file."""
    if math.prod(shape) * dtype.itemsize <= IN_MEMORY:
        yield np.empty(tuple(shape), dtype), lambda: None
        return
    scratch = ScratchArray(shape, dtype, folder)
    yield scratch.array, scratch.release


class WrittenLabel:
    """The label map of a case as it was just written. A `LabelSource`.

    Args:
        file: Its file.
    """

    def __init__(self, file: Path) -> None:
        self._array = array_library().open(urlpath=str(file), mode="r", dparams={"nthreads": 1})

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LabelSource`."""
        _, z, y, x = self._array.shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """Labels (Z, Y, X) of a box, see `LabelSource`."""
        values: np.ndarray = self._array[(0, *box.slices)]
        return values
