"""Reading of DICOM objects that are no images: segmentations and sets of contours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.storage.dicom.file_header import reading

if TYPE_CHECKING:
    from pydicom import Dataset


@contextmanager
def object_file(file: Path) -> Iterator[Dataset]:
    """The content of a file, which every error of the block names.

    Values are decoded when they are asked for, so a damaged file may be noticed anywhere in the block.

    Raises:
        SegflowError: It cannot be read, or the block met a value that cannot be used.
    """
    with reading(file, voxels=True) as dataset:
        try:
            yield dataset
        except SegflowError as error:
            raise error.changed(problem=f"{file}: {error.problem}") from error


def first_of(dataset: Dataset, sequence: str) -> Dataset | None:
    """The first item of a sequence, or None."""
    items = dataset.get(sequence)
    return items[0] if items else None


def items_of(dataset: Dataset | None, sequence: str) -> list[Dataset]:
    """The items of a sequence; none if it is missing."""
    return list((dataset.get(sequence) if dataset is not None else None) or ())


def numbers_of(dataset: Dataset, name: str, count: int) -> np.ndarray:
    """The numbers of an attribute, float64 (count,).

    Raises:
        SegflowError: It is missing, of another length, or not finite.
    """
    value = dataset.get(name)
    many = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else ()
    numbers = np.array([float(one) for one in many])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise SegflowError(f"{name} cannot be used", found=shortened(value), expected=f"{count} numbers")
    return numbers
