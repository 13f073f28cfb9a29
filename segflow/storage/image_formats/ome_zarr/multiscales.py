"""OME-Zarr's description of an image: which array, which axes, and where its voxels lie (versions 0.4 and 0.5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.names import shortened, why_unsafe
from segflow.storage.image_formats.contract import check_spacing
from segflow.storage.image_formats.placement import FLAT_SPACING_FACTOR
from segflow.storage.json_files import build_as, read_json

KEY = "ome"
"""Key of a geometry's header."""
SPACE = ("z", "y", "x")
CHANNEL, TIME = "c", "t"
DEFAULT_VERSION = "0.4"
MM = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "micron": 1e-3,
    "um": 1e-3,
    "µm": 1e-3,
    "nm": 1e-6,
    "millimeter": 1.0,
    "mm": 1.0,
    "centimeter": 10.0,
    "cm": 10.0,
    "decimeter": 100.0,
    "meter": 1000.0,
    "m": 1000.0,
    "inch": 25.4,
}
"""Unit of length → mm. The names of OME-Zarr, and short ones that programs write in their place."""

log = logging.getLogger(__name__)
_told: set[Path] = set()


@dataclass(frozen=True, slots=True)
class Axis:
    """A spatial axis of an image.

    Attributes:
        name: z, y or x.
        unit: As written, or None.
        scale: Distance of voxels, in the unit.
        translation: Position of the first voxel, in the unit.
    """

    name: str
    unit: str | None
    scale: float
    translation: float

    @property
    def mm(self) -> float:
        """mm of the unit; without one, lengths are taken to be in mm."""
        return 1.0 if self.unit is None else MM[self.unit]


@dataclass(frozen=True, slots=True)
class Multiscale:
    """An image in a group.

    Attributes:
        version: Of OME-Zarr.
        path: Of the array with the finest voxels, within the group.
        names: The array's axes, in lower case.
        space: Its spatial axes, in the array's order.
    """

    version: str
    path: str
    names: tuple[str, ...]
    space: tuple[Axis, ...]

    def geometry(self) -> Geometry:
        """Spacing and position in mm, and the description that label maps of the image repeat."""
        by_name = {axis.name: axis for axis in self.space}
        zyx = [by_name[name].scale * by_name[name].mm for name in SPACE if name in by_name]
        xyz = [by_name[name].translation * by_name[name].mm for name in reversed(SPACE) if name in by_name]
        flat = [] if len(zyx) == 3 else [max(zyx) * FLAT_SPACING_FACTOR]
        z, y, x = [*flat, *zyx]
        described = [[axis.name, axis.unit, axis.scale, axis.translation] for axis in self.space]
        header = {"ndim": len(zyx), "origin": xyz, KEY: {"version": self.version, "axes": described}}
        return Geometry((z, y, x), header)


def read_multiscale(folder: Path) -> Multiscale:
    """Read the description of an image.

    Raises:
        SegflowError: There is none, or it has no spacing, unknown axes or units. The error names the file.
    """
    for name in ("zarr.json", ".zattrs"):
        if (folder / name).exists():
            found: Multiscale = build_as(folder / name, read_json(folder / name), lambda value: _parse(value))
            check_spacing([axis.scale for axis in found.space], folder)
            if folder not in _told and any(axis.unit is None for axis in found.space):
                _told.add(folder)
                log.warning("%s gives no unit of its spacing: mm is assumed", folder)
            return found
    raise SegflowError(
        f"{folder} is not an OME-Zarr image", expected="zarr.json or .zattrs in it", fix="Was it copied completely?"
    )


def attributes_of(axes: Sequence[Axis], version: str, name: str, *, is_label: bool) -> dict[str, Any]:
    """The attributes of a group with one array '0'."""
    entries = [
        {"name": axis.name, "type": "space", **({} if axis.unit is None else {"unit": axis.unit})} for axis in axes
    ]
    steps = [
        {"type": "scale", "scale": [axis.scale for axis in axes]},
        {"type": "translation", "translation": [axis.translation for axis in axes]},
    ]
    multiscale = {"axes": entries, "datasets": [{"path": "0", "coordinateTransformations": steps}], "name": name}
    if version == "0.5":
        label: dict[str, Any] = {"image-label": {}} if is_label else {}
        return {"ome": {"version": version, "multiscales": [multiscale], **label}}
    label = {"image-label": {"version": version}} if is_label else {}
    return {"multiscales": [{"version": version, **multiscale}], **label}


def axes_of(geometry: Geometry) -> tuple[tuple[Axis, ...], str]:
    """Spatial axes and version for a file with a geometry: those of its image if that was an OME-Zarr."""
    stored = geometry.header.get(KEY)
    if stored is not None:
        return tuple(Axis(*entry) for entry in stored["axes"]), str(stored["version"])
    n = int(geometry.header.get("ndim", 3))
    origin = geometry.header.get("origin", [0.0] * n)
    lengths = zip(SPACE[-n:], geometry.spacing[-n:], list(origin)[n - 1 :: -1], strict=True)
    return tuple(
        Axis(name, "millimeter", float(length), float(start)) for name, length, start in lengths
    ), DEFAULT_VERSION


def _parse(content: Any) -> Multiscale:
    attributes = content.get("attributes", content) if "zarr_format" in content else content
    ome = attributes.get("ome", attributes)
    if not isinstance(ome.get("multiscales"), list) or not ome["multiscales"]:
        raise SegflowError(
            "it describes no image",
            found="no 'multiscales'",
            expected="OME-Zarr 0.4 or 0.5",
            fix="A Zarr array by itself gives no spacing: write it as an OME-Zarr image.",
        )
    image = ome["multiscales"][0]
    version = str(image.get("version", ome.get("version", DEFAULT_VERSION)))
    entries = image.get("axes")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise SegflowError(
            "its axes cannot be read",
            found=f"version {version}, axes {entries}",
            expected="'axes' with names, as in OME-Zarr 0.4 or 0.5",
        )
    names = tuple(str(entry["name"]).lower() for entry in entries)
    known = (*SPACE, CHANNEL, TIME)
    if len(set(names)) != len(names) or set(names) - set(known) or not {"y", "x"} <= set(names):
        raise SegflowError("its axes are unknown", found=" ".join(names), expected="y and x, and at most z, c and t")
    dataset = image["datasets"][0]
    steps = [*dataset.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]
    scale, translation = _combined(steps, len(names))
    units = [None if entry.get("unit") is None else str(entry["unit"]) for entry in entries]
    unknown = [unit for name, unit in zip(names, units, strict=True) if name in SPACE and unit not in {None, *MM}]
    if unknown:
        raise SegflowError("its unit of length is unknown", found=unknown[0], expected=" | ".join(MM))
    space = tuple(Axis(*values) for values in zip(names, units, scale, translation, strict=True) if values[0] in SPACE)
    return Multiscale("0.5" if version == "0.5" else DEFAULT_VERSION, _plain(dataset["path"]), names, space)


def _combined(steps: Sequence[Mapping[str, Any]], axes: int) -> tuple[list[float], list[float]]:
    """Scale and translation of transformations that follow one another."""
    scale, translation, is_scaled = [1.0] * axes, [0.0] * axes, False
    for step in steps:
        if step.get("type") == "identity":
            continue
        values = step.get(step.get("type", ""))
        if step.get("type") not in ("scale", "translation") or not isinstance(values, list) or len(values) != axes:
            raise SegflowError(
                "its coordinateTransformations cannot be used",
                found=step,
                expected=f"scale, translation: {axes} numbers",
            )
        numbers = [float(value) for value in values]
        if not all(math.isfinite(number) for number in numbers):
            raise SegflowError("its coordinateTransformations are not finite", found=step)
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, numbers, strict=True)]
            translation = [a * b for a, b in zip(translation, numbers, strict=True)]
            is_scaled = True
        else:
            translation = [a + b for a, b in zip(translation, numbers, strict=True)]
    if not is_scaled:
        raise SegflowError(
            "it gives no spacing",
            expected="coordinateTransformations with a scale, of the dataset or of the multiscales",
            fix="Write the distance of its voxels into it.",
        )
    return scale, translation


def _plain(path: Any) -> str:
    """The path of an array within its group."""
    parts = PurePosixPath(path).parts if isinstance(path, str) else (str(path),)
    reason = next(filter(None, map(why_unsafe, parts)), None if parts else "is empty")
    if reason is not None:
        raise SegflowError(
            f"its array lies elsewhere: a part of its path {reason}",
            found=shortened(path),
            expected="a path within the image",
        )
    return "/".join(parts)
