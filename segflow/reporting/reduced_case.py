"""A case made small enough for a page: cut to its labels, with fewer voxels, which are read slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from segflow.core.cropping import extent_of
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.image_look import SLAB_VALUES
from segflow.core.voxels import ArrayLabel, ArraySource, LabelSource, VoxelSource, boxes_in_order
from segflow.execution.machine import check_room
from segflow.storage.image_formats.placement import FLAT_SPACING_FACTOR, array_affine, file_ndim
from segflow.storage.images import ImageIO
from segflow.storage.open_volumes import open_label_source, open_source

MARGIN_MM, MARGIN_SHARE = 15.0, 0.25
"""Surroundings of the labels that are kept along each axis: the larger of a length and a share of their extent."""
TO_SCREEN = ("L", "P", "S")
"""Directions in which x, y and z of a reduced case grow: axial slices then show the patient as radiologists do."""


@dataclass(frozen=True, slots=True)
class ReducedCase:
    """A case as a page holds it.

    Attributes:
        image: float32 (C, Z, Y, X).
        labels: Name of a label map → its classes (Z, Y, X).
        spacing: mm along z, y, x.
        oriented: Whether the axes run as `TO_SCREEN` says; otherwise they are those of the file.
        notes: What was left out, in one sentence each.
    """

    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    spacing: tuple[float, ...]
    oriented: bool
    notes: tuple[str, ...]


def is_flat(shape: Sequence[int], spacing: Sequence[float]) -> bool:
    """Whether an image is 2D, by its voxels and its spacing in mm along z, y, x, which then means nothing."""
    return shape[0] == 1 and spacing[0] > FLAT_SPACING_FACTOR / 2 * max(spacing[1:])


def reduce_case(
    images: Sequence[Path], maps: Mapping[str, Path], reader: ImageIO, *, most_values: int, ignored: int | None = None
) -> ReducedCase:
    """Read a case, cut it to its labels, and reduce it by averaging.

    Args:
        images: Files of the image.
        maps: Name → file of a label map.
        reader: How to read them.
        most_values: Values of the image to keep at most, over all channels. An image with fewer is kept whole.
        ignored: Class that does not count as a label when the case is cut.

    Raises:
        SegflowError: A file cannot be read or does not fit into memory, or the image and a label map differ in shape.
    """
    with _opened(images, maps, reader) as (image, labels, geometry):
        channels, *shape = image.shape
        for name, label in labels.items():
            if label.shape != tuple(shape):
                raise SegflowError(f"image and {name} differ in shape", found=f"{tuple(shape)} and {label.shape}")
        box = Box.whole(shape)
        if math.prod(image.shape) > most_values:
            box = _with_margin(_extent(labels.values(), ignored), shape, geometry.spacing)
        reduced = _reduced_shape(box.shape, geometry.spacing, max(1, most_values // channels))
        values = _averaged(image, box, reduced)
        classes = {name: _picked(label, box, reduced) for name, label in labels.items()}
    new_spacing = tuple(s * n / m for s, n, m in zip(geometry.spacing, box.shape, reduced, strict=True))
    notes = _notes(shape, box, geometry.spacing, new_spacing)
    return _turned(ReducedCase(values, classes, new_spacing, False, notes), geometry)


@contextmanager
def _opened(
    images: Sequence[Path], maps: Mapping[str, Path], reader: ImageIO
) -> Iterator[tuple[VoxelSource, dict[str, LabelSource], Geometry]]:
    """The image and its label maps, to be read box by box, and the image's geometry."""
    with ExitStack() as stack:
        opened = open_source(images, reader)
        image: VoxelSource
        if opened is None:
            _check_whole(images[0], len(images), reader)
            array, geometry = reader.read_image(images)
            image = ArraySource(array)
        else:
            image, geometry = stack.enter_context(opened), opened.geometry
        labels: dict[str, LabelSource] = {}
        for name, file in maps.items():
            label = open_label_source(file, reader)
            labels[name] = ArrayLabel(reader.read_label(file)[0]) if label is None else stack.enter_context(label)
        yield image, labels, geometry


def _check_whole(file: Path, files: int, reader: ImageIO) -> None:
    header = reader.read_header(file)
    values = math.prod(header.shape) * header.channels * files
    check_room(8 * values, "the picture of a case", found=f"{' × '.join(map(str, header.shape))} voxels")


def _extent(labels: Iterable[LabelSource], ignored: int | None) -> Box | None:
    """The box of all voxels that carry a label in any map."""
    found: list[Box] = []
    for label in labels:
        for box in boxes_in_order(label.shape, SLAB_VALUES):
            classes = label.read(box)
            within = extent_of(classes > 0 if ignored is None else (classes > 0) & (classes != ignored))
            if within is not None:
                found.append(within.moved(box.start))
    if not found:
        return None
    starts, stops = (np.array([getattr(box, side) for box in found]) for side in ("start", "stop"))
    return Box(tuple(starts.min(0).tolist()), tuple(stops.max(0).tolist()))


def _with_margin(box: Box | None, shape: Sequence[int], spacing: Sequence[float]) -> Box:
    if box is None:
        return Box.whole(shape)
    extra = [math.ceil(max(MARGIN_MM / s, MARGIN_SHARE * n)) for n, s in zip(box.shape, spacing, strict=True)]
    start = tuple(a - e for a, e in zip(box.start, extra, strict=True))
    stop = tuple(b + e for b, e in zip(box.stop, extra, strict=True))
    return Box(start, stop).clip(shape)


def _reduced_shape(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, ...]:
    """The shape with at most so many voxels; the finest axes are reduced first, to a common spacing."""

    def at(target: float) -> tuple[int, ...]:
        return tuple(max(1, math.floor(n * min(1.0, s / target))) for n, s in zip(shape, spacing, strict=True))

    low, high = min(spacing), max(s * n for n, s in zip(shape, spacing, strict=True))
    if math.prod(at(low)) <= most:
        return at(low)
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if math.prod(at(middle)) <= most else (middle, high)
    return at(high)


def _averaged(image: VoxelSource, box: Box, shape: Sequence[int]) -> np.ndarray:
    """The mean of the voxels that each new voxel covers: float32 (C, *shape). NaN and infinite values count as 0."""
    weights = [_cover(n, m) for n, m in zip(box.shape, shape, strict=True)]
    result = np.zeros((image.shape[0], *shape), np.float32)
    for part in boxes_in_order(box.shape, SLAB_VALUES // image.shape[0]):
        values = np.nan_to_num(image.read(part.moved(box.start)), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        z, y, x = (w[:, cut] for w, cut in zip(weights, part.slices, strict=True))
        touched = [np.flatnonzero(w.any(axis=1)) for w in (z, y)]
        where = tuple(slice(int(t[0]), int(t[-1]) + 1) for t in touched)
        values = values if x.shape[0] == x.shape[1] else values @ x.T
        values = y[where[1]] @ values
        result[(slice(None), *where)] += np.einsum("ab,cbyx->cayx", z[where[0]], values, optimize=True)
    return result


def _cover(old: int, new: int) -> np.ndarray:
    """float32 (new, old): the share of each old voxel in the mean that each new one is."""
    edges = np.arange(new + 1) * (old / new)
    first, last = np.maximum.outer(edges[:-1], np.arange(old)), np.minimum.outer(edges[1:], np.arange(1, old + 1))
    return np.asarray(np.maximum(last - first, 0) / (old / new), dtype=np.float32)


def _picked(label: LabelSource, box: Box, shape: Sequence[int]) -> np.ndarray:
    """The class in the middle of each new voxel: (\\*shape). Values without a class become 0."""
    chosen = [((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(box.shape, shape, strict=True)]
    result = np.zeros(tuple(shape), np.int32)
    for part in boxes_in_order(box.shape, SLAB_VALUES):
        inside = [np.flatnonzero((c >= a) & (c < b)) for c, a, b in zip(chosen, part.start, part.stop, strict=True)]
        if all(len(i) for i in inside):
            classes = label.read(part.moved(box.start))
            own = [c[i] - a for c, i, a in zip(chosen, inside, part.start, strict=True)]
            result[np.ix_(*inside)] = np.maximum(classes[np.ix_(*own)], 0)
    return result


def _notes(shape: Sequence[int], box: Box, spacing: Sequence[float], new_spacing: Sequence[float]) -> tuple[str, ...]:
    notes = []
    if box.shape != tuple(shape):
        notes.append(f"Cut from {_times(shape)} voxels (z, y, x) to the labels and their surroundings.")
    if not np.allclose(spacing, new_spacing):
        if is_flat(shape, spacing):
            sizes = f"Pixels are averaged, {new_spacing[1] / spacing[1]:.2g} along each axis"
        else:
            old, new = (" × ".join(f"{s:.2g}" for s in one) for one in (spacing, new_spacing))
            sizes = f"Voxels of {old} mm (z, y, x) are averaged to {new} mm"
        notes.append(f"{sizes}; small parts of labels may be missing.")
    return tuple(notes)


def _times(numbers: Sequence[int]) -> str:
    return " × ".join(map(str, numbers))


def _turned(case: ReducedCase, geometry: Geometry) -> ReducedCase:
    """The case with its axes as `TO_SCREEN` says, if the file tells how they run."""
    known = {"affine", "direction", "reoriented_affine"} & set(geometry.header)
    if file_ndim(geometry) == 2 or not known:
        return case
    own = nibabel.io_orientation(array_affine(geometry))
    if np.isnan(own).any():
        return case
    steps = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(TO_SCREEN))

    def turn(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(nibabel.apply_orientation(array.T, steps).T)

    xyz = [0.0, 0.0, 0.0]
    for axis, target in enumerate(steps[:, 0].astype(int)):
        xyz[target] = case.spacing[2 - axis]
    return ReducedCase(
        np.stack([turn(channel) for channel in case.image]),
        {name: turn(label) for name, label in case.labels.items()},
        tuple(reversed(xyz)),
        True,
        case.notes,
    )
