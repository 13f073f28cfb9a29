"""Arrays in a file without a name, for what is needed again soon but would take too much memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.system_errors import system_error

_BLOCK = 2**22


class ScratchArray:
    """An array that lies in a file. `release` makes memory forget its voxels; the file keeps them.

    The file has no name, so the system removes it with the process, however that ends. Its space is taken at once,
    since a full disk could not be told later.

    Args:
        shape: Of the array, which begins with zeros.
        dtype: Of the array.
        folder: Folder of the file, which is made; None takes the system's for temporary files.

    Attributes:
        array: The array, writable.

    Raises:
        NoSpaceError: The disk has no room for it.
        SegflowError: The folder cannot be written.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, folder: Path | None = None) -> None:
        size = max(math.prod(shape) * np.dtype(dtype).itemsize, 1)
        place = Path(tempfile.gettempdir()) if folder is None else folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place) as file:
                _take_space(file.fileno(), size)
                self._mapping = mmap.mmap(file.fileno(), size)
        except OSError as error:
            doing = f"cannot keep {size / 2**30:.1f} GiB in a temporary file in {place}"
            raise system_error(error, doing, place=place, needed=size) from error
        self.array: np.ndarray = np.frombuffer(self._mapping, dtype, count=math.prod(shape)).reshape(tuple(shape))

    def release(self) -> None:
        """Free the memory that holds voxels, as far as the system lets a process say so."""
        if hasattr(mmap, "MADV_DONTNEED") and hasattr(self._mapping, "madvise"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _take_space(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    zeros = bytes(_BLOCK)
    for start in range(0, size, _BLOCK):
        os.write(file, zeros[: min(_BLOCK, size - start)])
