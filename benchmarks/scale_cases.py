"""Tiny cases for ``scale.py``: a raw dataset of any number of them."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import struct
from pathlib import Path

import numpy as np

EDGE = 24
"""Voxels of a case along each axis."""
NAME = "Dataset900_Scale"
_BYTES_OF_HEADER = 352
_CODES = {np.dtype(np.int16): (4, 16), np.dtype(np.uint8): (2, 8)}
"""NIfTI's number of a type, and its bits."""


def write_dataset(root: Path, count: int, processes: int) -> Path:
    """Write a raw dataset of small balls in noise, two labels, gzipped NIfTI.

    Args:
        root: The dataset's folder is made in here.
        count: Number of cases. A case depends on its number only.
        processes: That write at once.
    """
    folder = root / NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.starmap(_write_case, ((folder, number) for number in range(count)), chunksize=50)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1, "core": 2},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")  # last: the dataset is complete
    return folder


def _write_case(folder: Path, number: int) -> None:
    generator = np.random.default_rng(number)
    grid = np.indices((EDGE,) * 3) - generator.uniform(9, EDGE - 9, (3, 1, 1, 1))
    distance = np.sqrt((grid**2).sum(0))
    label = (distance < 6).astype(np.uint8) + (distance < 3)
    image = (100 * label + generator.normal(300, 20, label.shape)).astype(np.int16)
    name = f"scale_{number:05d}"
    _write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", image)
    _write_nifti(folder / "labelsTr" / f"{name}.nii.gz", label)


def _write_nifti(file: Path, array: np.ndarray) -> None:
    """Write an array (Z, Y, X) of 1 mm voxels as NIfTI-1."""
    header = bytearray(_BYTES_OF_HEADER)
    code, bits = _CODES[array.dtype]
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<3f", header, 108, _BYTES_OF_HEADER, 1.0, 0.0)
    header[123] = 2  # mm
    struct.pack_into("<2h", header, 252, 1, 1)
    for row in range(3):
        struct.pack_into("<4f", header, 280 + 16 * row, *(float(row == column) for column in range(4)))
    header[344:348] = b"n+1\0"
    file.write_bytes(gzip.compress(bytes(header) + array.tobytes(), compresslevel=1, mtime=0))
