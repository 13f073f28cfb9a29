"""What a page about a dataset tells of one case: grid, labels with volumes and components, and a small picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.cropping import extent_of
from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey, Labels
from segflow.reporting.overlays import best_slice, draw_overlay
from segflow.reporting.reduced_case import is_flat, reduce_case
from segflow.storage.images import ImageIO, orientation

PICTURE_VALUES = 300_000
"""Values of each channel of the reduced case that the picture is drawn from."""
PICTURE_SIDE = 224
"""Pixels of the longer side of the picture."""
BYTES_PER_VOXEL = 12
"""Memory for a label map and its components."""


@dataclass(frozen=True, slots=True)
class LookedCase:
    """Measurements of a case.

    Attributes:
        case_id: Its name.
        shape: Voxels along z, y, x.
        spacing: mm along z, y, x.
        flat: Whether it is a 2D image, whose spacing means nothing.
        orientation: Directions in which x, y and z grow, such as ``RAS``; empty for oblique grids and files
            that do not say.
        volumes: Label or region → ml; pixels of a 2D image. Those that do not occur have 0.
        components: Label or region → parts that do not touch, corners included.
        picture: A JPEG of the slice that shows most of the labels, or None.
        problem: Why a part is missing, or None.
    """

    case_id: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    flat: bool
    orientation: str
    volumes: Mapping[LabelKey, float] = field(default_factory=dict)
    components: Mapping[LabelKey, int] = field(default_factory=dict)
    picture: bytes | None = None
    problem: str | None = None


def look_at_case(files: CaseFiles, reader: ImageIO, labels: Labels, channel: int = 0) -> LookedCase:
    """Measure a case.

    Args:
        files: Its files.
        reader: How to read them; label maps hold classes.
        labels: Of the dataset.
        channel: Channel of the picture; the last one of images with fewer.

    Raises:
        SegflowError: The header of its image cannot be read. What else is wrong stands in the result.
    """
    header = reader.read_header(files.images[0])
    geometry = header.geometry
    flat = is_flat(header.shape, geometry.spacing)
    grid = (files.case_id, tuple(header.shape), geometry.spacing, flat, orientation(geometry) or "")
    volumes: dict[LabelKey, float] = {}
    components: dict[LabelKey, int] = {}
    picture = None
    try:
        if files.label is not None:
            label, _ = reader.read_label(files.label)
            unit = 1.0 if flat else math.prod(geometry.spacing) / 1000
            volumes, components = _of_labels(label, labels, unit)
            del label
        picture = _picture(files, reader, labels, channel)
    except SegflowError as error:
        return LookedCase(*grid, volumes, components, picture, str(error))
    return LookedCase(*grid, volumes, components, picture)


def _of_labels(label: np.ndarray, labels: Labels, unit: float) -> tuple[dict[LabelKey, float], dict[LabelKey, int]]:
    """Volumes and components of each label or region of a label map (Z, Y, X) of classes."""
    import cc3d  # slow to load

    keys = labels.foreground_keys
    box = extent_of(label > 0)
    if box is None:
        return dict.fromkeys(keys, 0.0), dict.fromkeys(keys, 0)
    classes = np.where(label[box.slices] > 0, label[box.slices], 0).astype(np.uint16)
    counts = np.bincount(classes.ravel(), minlength=max(labels.classes) + 1)
    parts = cc3d.connected_components(classes, connectivity=26)
    label_of = np.zeros(int(parts.max()) + 1, np.uint16)
    label_of[parts.ravel()] = classes.ravel()
    number = np.bincount(label_of[1:], minlength=len(counts))
    volumes: dict[LabelKey, float] = {}
    components: dict[LabelKey, int] = {}
    for key in keys:
        if isinstance(key, int):
            volumes[key], components[key] = float(counts[key]) * unit, int(number[key])
        else:
            volumes[key] = float(counts[list(key)].sum()) * unit
            region = np.isin(classes, key)
            components[key] = int(cc3d.connected_components(region, connectivity=26, return_N=True)[1])
    return volumes, components


def _picture(files: CaseFiles, reader: ImageIO, labels: Labels, channel: int) -> bytes:
    maps = {} if files.label is None else {"reference": files.label}
    channels = len(files.images)
    case = reduce_case(files.images, maps, reader, most_values=PICTURE_VALUES * channels, ignored=labels.ignore_label)
    label = case.labels.get("reference", np.zeros(case.image.shape[1:], np.int32))
    index = best_slice(label)
    drawn = Image.fromarray(
        draw_overlay(case.image[min(channel, len(case.image) - 1)][index], label[index], case.spacing[1:])
    )
    drawn.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    stream = io.BytesIO()
    drawn.save(stream, format="JPEG", quality=85)
    return stream.getvalue()
