"""A reader of a user's own, as short as one can be, and ways in which one can be none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader


class NumpyIO(ImageFormat):
    """One array (Z, Y, X) in a file; ``spacing`` in mm along z, y, x is that of every image."""

    name = "NumpyIO"
    endings = (".npy",)

    def __init__(self, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        self.spacing = spacing

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return np.load(file)[None], Geometry(self.spacing)

    def read_header(self, file: Path) -> ImageHeader:
        voxels = np.load(file, mmap_mode="r")
        return ImageHeader(voxels.shape, 1, Geometry(self.spacing), str(voxels.dtype))

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        np.save(file, values)


class OtherIO(NumpyIO):
    """For the ending of a shipped reader."""

    name = "OtherIO"
    endings = (".nii.gz",)


class Minimal:
    """All of the contract, written by hand; each attribute can be replaced by a wrong one."""

    def __init__(self, **wrong: Any) -> None:
        self.name, self.endings = "Minimal", [".min"]
        vars(self).update(wrong)

    def read_image(self, files: Any) -> Any:
        return np.ones((len(files), 2, 3, 4), dtype=np.float64), Geometry((1.0, 2.0, 3.0))

    def read_label(self, file: Any) -> Any:
        return np.ones((2, 3, 4), dtype=np.float64), Geometry((1.0, 2.0, 3.0))

    def read_header(self, file: Any) -> Any:
        return ImageHeader((2, 3, 4), 1, Geometry((1.0, 2.0, 3.0)), "float64")

    def write_label(self, label: Any, geometry: Any, file: Path) -> None:
        file.write_bytes(b"label")

    def write_map(self, values: Any, geometry: Any, file: Path) -> None:
        file.write_bytes(b"map")


class Answers(Minimal):
    """Gives one answer to whatever it is asked; an exception is raised."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def _answer(self, *_: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    read_image = read_label = read_header = write_label = write_map = _answer
