"""A synthetic dataset: small CT-like abdomens with a liver and tumours.

Nothing is downloaded and no patient is involved. Organs are deformed ellipsoids and tubes, drawn on a finer grid and
averaged, so that borders show partial volume. A threshold cannot find the labels: the spleen is as bright as the
liver; muscle, stomach and the liver's blurred border are as bright as a tumour.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.channel_names import channel_name
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.image_formats.nifti_files import write_nifti
from segflow.storage.image_formats.placement import ItkPlacement, affine_of
from segflow.storage.json_files import read_json_as, write_json
from segflow.storage.whole_folder import folder_written_whole

VERSION = 3
STAGE = "phantom"
LIVER, TUMOUR = 1, 2
HELD_OUT = 4
WITHOUT_TUMOUR_EVERY = 8
SLICE_MM = 3.0
FINER = (2, 2, 2)
"""Samples per voxel along z, y, x; the voxel is their mean."""

HU = {
    "air": -1000.0,
    "fat": -90.0,
    "muscle": 50.0,
    "liver": 115.0,
    "tumour": 45.0,
    "vein": 165.0,
    "spleen": 125.0,
    "kidney": 175.0,
    "stomach": 40.0,
    "aorta": 190.0,
    "bone": 420.0,
}
NOISE_HU = 13.0
ROUNDING_MM = 0.01
"""More than distances in single precision are off."""

Array = np.ndarray
Point = tuple[float, float, float]


def make_phantom(
    folder: str | Path, *, cases: int = 16, held_out: int = HELD_OUT, seed: int = 0, progress: Progress = silent
) -> Path:
    """Make the phantom dataset in raw layout, unless it exists.

    Args:
        folder: Folder of the dataset; its name should be ``DatasetXXX_Name``.
        cases: Training cases in imagesTr and labelsTr.
        held_out: Further cases in imagesTs and labelsTs.
        seed: Another seed gives other patients.
        progress: Called after each case.

    Returns:
        The folder. The same arguments always give the same bytes.

    Raises:
        SegflowError: The folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    recipe = {"version": VERSION, "cases": cases, "held_out": held_out, "seed": seed}
    if folder.exists():
        _check_is(folder, recipe)
        return folder
    total = cases + held_out
    progress(ProgressEvent(STAGE, "", 0, total))
    try:
        with folder_written_whole(folder) as partial:
            for index in range(total):
                part = "Tr" if index < cases else "Ts"
                case_id = f"phantom_{index:03d}"
                image, label, geometry = phantom_case(index, seed)
                affine, spacing = affine_of(geometry), geometry.spacing[::-1]
                write_nifti(image, affine, spacing, partial / f"images{part}" / channel_name(case_id, 0, ".nii.gz"))
                write_nifti(label, affine, spacing, partial / f"labels{part}" / f"{case_id}.nii.gz")
                progress(ProgressEvent(STAGE, case_id, index + 1, total))
            write_json(partial / DESCRIPTION_FILE, _description(cases, recipe))
    except FileExistsError:  # another process was quicker
        _check_is(folder, recipe)
    return folder


def phantom_case(index: int, seed: int = 0) -> tuple[Array, Array, Geometry]:
    """One patient.

    Args:
        index: Number of the patient; every eighth has no tumour.
        seed: Seed of the dataset.

    Returns:
        Image int16 (Z, Y, X) in HU, label uint8 (Z, Y, X) with liver 1 and tumour 2, and the geometry.
    """
    generator = np.random.default_rng([seed, index])
    shape = (int(generator.integers(24, 33)), *(int(n) for n in generator.integers(56, 65, size=2)))
    in_plane = float(generator.choice([1.45, 1.5, 1.5, 1.55]))
    spacing = (SLICE_MM, in_plane, in_plane)
    fine_shape = tuple(n * f for n, f in zip(shape, FINER, strict=True))
    body = _Body(_millimetres(fine_shape, spacing), generator)
    tumours = 0 if index % WITHOUT_TUMOUR_EVERY == WITHOUT_TUMOUR_EVERY - 3 else int(generator.integers(1, 4))
    density, liver, tumour = body.draw(tumours)
    image = _mean(density, shape) + _noise(shape, generator)
    label = np.zeros(shape, dtype=np.uint8)
    label[_mean(liver, shape) > 0.5] = LIVER
    label[_mean(tumour, shape) > 0.5] = TUMOUR
    origin = tuple(round(float(v), 2) for v in generator.uniform(-60, -40, size=3))
    placement = ItkPlacement((in_plane, in_plane, SLICE_MM), origin, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16), label, placement.to_geometry()


class _Body:
    """One patient's organs on a fine grid, in mm from the centre of the volume."""

    def __init__(self, grid: Sequence[Array], generator: np.random.Generator) -> None:
        self._generator = generator
        self._plain = grid
        size = generator.uniform(0.9, 1.1)
        angle = math.radians(generator.uniform(-8, 8))
        shift = generator.uniform(-3, 3, size=3).tolist()
        z, y, x = (
            (axis - offset + _waves(grid, generator, 2.5)) / size for axis, offset in zip(grid, shift, strict=True)
        )
        self._z = z
        self._y = math.cos(angle) * y - math.sin(angle) * x
        self._x = math.sin(angle) * y + math.cos(angle) * x
        self._ranges = [_ranges(places) for places in (self._z, self._y, self._x)]

    def draw(self, tumours: int) -> tuple[Array, Array, Array]:
        """Density in HU, float32, and bool masks of the liver with its content and of the tumours."""
        shades = {name: value + self._generator.normal(0, 5) for name, value in HU.items()}
        shades["air"] = HU["air"]
        density = np.full(self._x.shape, shades["air"], dtype=np.float32)

        def paint(where: Array, name: str) -> None:
            density[where] = shades[name]

        body = self._ellipsoid((0, 0, 0), (200, 43, 47))
        paint(body, "muscle")
        inside = self._ellipsoid((0, 0, 0), (200, 36, 40))
        paint(inside, "fat")
        paint(self._ellipsoid((-2, -12, 22), (13, 11, 12)), "stomach")
        paint(self._ellipsoid((0, 10, 31), (17, 11, 7)), "spleen")
        for side in (-1, 1):
            paint(self._ellipsoid((-12, 22, 21 * side), (15, 7, 6)), "kidney")
        paint(self._ellipsoid((0, 30, 0), (200, 8, 9)), "bone")
        paint(self._ellipsoid((0, 17, 5), (200, 4, 4)), "aorta")
        liver = (self._ellipsoid((0, 0, -20), (30, 25, 18)) | self._ellipsoid((6, -15, -2), (18, 12, 20))) & inside
        paint(liver, "liver")
        paint(liver & self._ellipsoid((2, -2, -14), (3, 3, 30)), "vein")
        tumour = self._tumours(liver, tumours)
        paint(tumour, "tumour")
        return density, liver, tumour

    def _tumours(self, liver: Array, count: int) -> Array:
        """Mask of lumpy balls with centres well within the liver."""
        found = np.zeros(liver.shape, dtype=bool)
        if count == 0:
            return found
        shape = [n // f for n, f in zip(liver.shape, FINER, strict=True)]
        places = np.argwhere(gaussian_filter(_mean(liver, shape), sigma=2) > 0.9)
        for centre in places[self._generator.integers(len(places), size=count)] * FINER:
            radius = self._generator.uniform(7, 12)
            lumps = _waves(self._plain, self._generator, 1.0)
            distance = _sum((axis - axis.flat[i]) ** 2 for axis, i in zip(self._plain, centre, strict=True))
            found |= np.sqrt(distance) + lumps < radius
        tumours: Array = found & liver
        return tumours

    def _ellipsoid(self, centre: Point, half_axes: Point) -> Array:
        """Mask of an ellipsoid. Most of the grid is too far away to be looked at."""
        box = tuple(self._near(axis, centre, half_axes) for axis in range(3))
        places = (part[box] for part in (self._z, self._y, self._x))
        parts = (((place - c) / r) ** 2 for place, c, r in zip(places, centre, half_axes, strict=True))
        mask = np.zeros(self._x.shape, dtype=bool)
        mask[box] = _sum(parts) < 1.0
        return mask

    def _near(self, axis: int, centre: Point, half_axes: Point) -> slice:
        """The planes across an axis that an ellipsoid may reach."""
        reached = np.ones(self._x.shape[axis], dtype=bool)
        for ranges, c, r in zip(self._ranges, centre, half_axes, strict=True):
            low, high = ranges[axis]
            reached &= (low < c + r + ROUNDING_MM) & (high > c - r - ROUNDING_MM)
        planes = np.flatnonzero(reached)
        return slice(planes[0], planes[-1] + 1) if len(planes) else slice(0)


def _ranges(places: Array) -> list[tuple[Array, Array]]:
    """Lowest and highest value of an array (Z, Y, X) in each plane across z, across y and across x."""
    low, high = places.min(axis=2), places.max(axis=2)
    low_of_x, high_of_x = places.min(axis=(0, 1)), places.max(axis=(0, 1))
    return [(low.min(axis=1), high.max(axis=1)), (low.min(axis=0), high.max(axis=0)), (low_of_x, high_of_x)]


def _millimetres(fine_shape: Sequence[int], spacing: Sequence[float]) -> list[Array]:
    """Open grid: distance from the centre along z, y, x, float32, one axis each."""
    axes = [
        ((np.arange(n) + 0.5 - n / 2) * s / f).astype(np.float32)
        for n, s, f in zip(fine_shape, spacing, FINER, strict=True)
    ]
    return list(np.ix_(*axes))


def _waves(grid: Sequence[Array], generator: np.random.Generator, amplitude_mm: float) -> Array:
    """A smooth random field (Z, Y, X): a few standing waves of 25 to 70 mm."""
    field = np.zeros(tuple(axis.size for axis in grid), dtype=np.float32)
    for _ in range(4):
        lengths, phases = generator.uniform(25, 70, size=3), generator.uniform(0, 2 * np.pi, size=3)
        z, y, x = (
            np.sin(2 * np.pi * axis / length + phase).astype(np.float32)
            for axis, length, phase in zip(grid, lengths, phases, strict=True)
        )
        field += z * y * (x * generator.normal(0, amplitude_mm / 2)).astype(np.float32)
    return field


def _noise(shape: Sequence[int], generator: np.random.Generator) -> Array:
    """Noise as grainy as after reconstruction: a part of it is smooth within the slice."""
    white = generator.normal(0, 1, shape)
    grain = gaussian_filter(generator.normal(0, 1, shape), sigma=(0, 0.8, 0.8))
    noise: Array = NOISE_HU * (0.7 * white + 0.7 * grain / grain.std())
    return noise


def _sum(parts: Iterable[Array]) -> Array:
    return functools.reduce(np.add, parts)


def _mean(fine: Array, shape: Sequence[int]) -> Array:
    """Mean over the samples of each voxel."""
    z, y, x = shape
    if fine.dtype == bool:  # counting is quicker, and as exact
        starts = itertools.product(*(range(n) for n in FINER))
        samples = [tuple(slice(start, None, n) for start, n in zip(at, FINER, strict=True)) for at in starts]
        counts = _sum(fine[sample].view(np.uint8) for sample in samples)
        return counts.astype(np.float32) / len(samples)
    mean: Array = fine.reshape(z, FINER[0], y, FINER[1], x, FINER[2]).mean(axis=(1, 3, 5), dtype=np.float32)
    return mean


def _description(cases: int, recipe: dict[str, int]) -> dict[str, object]:
    return {
        "name": "Phantom",
        "description": "Made by segflow: CT-like abdomens with a liver and tumours; no patient is involved.",
        "licence": "CC0",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": LIVER, "tumour": TUMOUR},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "phantom": recipe,
    }


def _check_is(folder: Path, recipe: dict[str, int]) -> None:
    file = folder / DESCRIPTION_FILE
    found = read_json_as(file, lambda content: content.get("phantom")) if file.is_file() else "another folder"
    if found != recipe:
        raise SegflowError(
            f"{folder} is not the phantom that was asked for",
            found=found,
            expected=recipe,
            fix="Remove it, or name another.",
        )
