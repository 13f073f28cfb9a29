"""Reading of a Zarr array box by box. Each chunk that a box touches is unpacked; recent ones are kept."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.storage.image_formats.contract import RESAVE
from segflow.storage.image_formats.ome_zarr.array_metadata import ABSENT, ArrayMetadata
from segflow.storage.regular_files import open_regular

KEPT_BYTES = 320 << 20
"""Most bytes of unpacked chunks that are kept. It is enough for planes of 2048 x 2048 voxels of one byte in chunks 64
planes deep."""
PLACE = np.dtype("<u8")


class ChunkedArray:
    """An array of any number of axes in a folder.

    Args:
        folder: The array's folder.
        metadata: How it is stored.
        axis: The axis along which it will be read plane by plane. All chunks of a plane are kept, if they are not too
            many, since the next plane needs them again.
    """

    def __init__(self, folder: Path, metadata: ArrayMetadata, axis: int) -> None:
        self.metadata = metadata
        self._folder = folder
        self._kept: OrderedDict[tuple[int, ...], np.ndarray | None] = OrderedDict()
        self._kept_bytes = 0
        grid = zip(metadata.shape, metadata.chunk, strict=True)
        sizes = [c if k == axis else -(-n // c) * c for k, (n, c) in enumerate(grid)]
        self._most_bytes = min(math.prod(sizes) * metadata.dtype.itemsize, KEPT_BYTES)
        self._tables: OrderedDict[tuple[int, ...], np.ndarray | None] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        """The values of a box, of any shape.

        Raises:
            SegflowError: A chunk is damaged, or is missing from an array that has no value for it.
        """
        result = np.empty(box.shape, self.metadata.dtype)
        chunk = self.metadata.chunk
        ranges = [
            range(start // size, -(-stop // size)) for start, stop, size in zip(box.start, box.stop, chunk, strict=True)
        ]
        for index in itertools.product(*ranges):
            corner = [number * size for number, size in zip(index, chunk, strict=True)]
            starts = [max(a, b) for a, b in zip(box.start, corner, strict=True)]
            stops = [min(a, b + n) for a, b, n in zip(box.stop, corner, chunk, strict=True)]
            here = tuple(slice(a - b, c - b) for a, b, c in zip(starts, box.start, stops, strict=True))
            values = self._chunk(index)
            if values is None:
                result[here] = self.metadata.fill
            else:
                result[here] = values[tuple(slice(a - b, c - b) for a, b, c in zip(starts, corner, stops, strict=True))]
        return result

    def missing_files(self) -> int:
        """Number of files of chunks that do not exist."""
        expected, present = self.metadata.files, 0
        for place, _, names in os.walk(self._folder):
            start = Path(place).relative_to(self._folder).parts
            present += sum(self._is_chunk("/".join((*start, name)), expected) for name in names)
        return math.prod(expected) - present

    def _is_chunk(self, name: str, files: Sequence[int]) -> bool:
        key, separator = self.metadata.key, self.metadata.separator
        numbers = name.removeprefix(f"{key}{separator}" if key else "").split(separator)
        return len(numbers) == len(files) and all(
            text.isdecimal() and int(text) < n for text, n in zip(numbers, files, strict=True)
        )

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray | None:
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            values = self._read_chunk(index)
            self._kept[index] = values
            self._kept_bytes += 0 if values is None else values.nbytes
            while self._kept_bytes > self._most_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._kept_bytes -= 0 if oldest is None else oldest.nbytes
            return values

    def _read_chunk(self, index: tuple[int, ...]) -> np.ndarray | None:
        metadata = self.metadata
        if metadata.shards is None:
            file = self._file(index)
            content = _content(file)
        else:
            per_file = [n // c for n, c in zip(metadata.shards.shape, metadata.chunk, strict=True)]
            outer = tuple(number // n for number, n in zip(index, per_file, strict=True))
            file = self._file(outer)
            content = self._within_shard(file, outer, tuple(k % n for k, n in zip(index, per_file, strict=True)))
        if content is None:
            if metadata.fill is None:
                raise SegflowError(f"{file} is missing, and the array has no value for missing chunks", fix=RESAVE)
            return None
        try:
            return metadata.chain.decode(content, metadata.chunk)
        except SegflowError:
            raise
        except Exception as error:  # each library has errors of its own
            raise _damaged(file, error) from error

    def _within_shard(self, file: Path, outer: tuple[int, ...], inner: tuple[int, ...]) -> bytes | None:
        if outer not in self._tables:
            self._tables[outer] = self._table(file)
            while len(self._tables) > 64:
                self._tables.popitem(last=False)
        table = self._tables[outer]
        if table is None:
            return None
        start, length = (int(n) for n in table[inner])
        if start == length == ABSENT:
            return None
        return _content(file, start, length)

    def _table(self, file: Path) -> np.ndarray | None:
        """Place and length of each chunk in a file, (…, 2); None if there is no file."""
        metadata = self.metadata
        shards = metadata.shards
        assert shards is not None
        shape = (*(n // c for n, c in zip(shards.shape, metadata.chunk, strict=True)), 2)
        length = math.prod(shape) * PLACE.itemsize + 4 * len(shards.table.packings)
        content = _content(file, 0 if shards.table_first else -length, length)
        if content is None:
            return None
        try:
            return shards.table.decode(content, shape)
        except SegflowError:
            raise
        except Exception as error:
            raise _damaged(file, f"the table of its chunks: {error}") from error

    def _file(self, index: tuple[int, ...]) -> Path:
        key = [self.metadata.key] if self.metadata.key else []
        return self._folder / self.metadata.separator.join([*key, *(str(number) for number in index)])


def _content(file: Path, start: int = 0, length: int | None = None) -> bytes | None:
    """Bytes of a file; None if it does not exist. A negative start counts from its end."""
    if not os.path.lexists(file):
        return None
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        begin = start if start >= 0 else size + start
        end = size if length is None else begin + length
        if not 0 <= begin <= end <= size:
            raise _damaged(file, f"it has {size} bytes in place of {max(end, -start)} or more")
        stream.seek(begin)
        try:
            return stream.read(end - begin)
        except OSError as error:
            raise _damaged(file, error.strerror) from error


def _damaged(file: Path, reason: object) -> SegflowError:
    return SegflowError(f"cannot read the chunk {file}: {reason}", fix=RESAVE)
