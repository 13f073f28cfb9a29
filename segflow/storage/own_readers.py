"""A user's own readers: checked against the contract of `ImageIO`, and found in installed packages."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.names import why_unsafe
from segflow.core.own_part import check_travels, described_failure
from segflow.core.system_errors import system_error
from segflow.storage.folder_files import is_image_path
from segflow.storage.image_formats.contract import ImageHeader, ImageIO, as_label, check_spacing

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "segflow.readers"
"""Group of entry points of installed packages. The name of an entry point is that of its reader."""

METHODS = {"read_image": 1, "read_label": 1, "read_header": 1, "write_label": 3, "write_map": 3}
"""Method → number of its arguments."""

CONTRACT = (
    "an object with a name, endings such as ('.own',), and the methods read_image, read_label, read_header, "
    "write_label and write_map: see ImageIO in segflow.storage.image_formats.contract, and ImageFormat for a start"
)
_READ_IMAGE = "read_image(files) → float32 array (C, Z, Y, X), and a Geometry with the spacing in mm along z, y, x"
_READ_LABEL = "read_label(file) → whole numbers (Z, Y, X), and a Geometry with the spacing in mm along z, y, x"
_READ_HEADER = "read_header(file) → ImageHeader with three voxel counts (z, y, x) and at least one channel"


@dataclass(frozen=True, slots=True)
class OwnReader:
    """A user's own reader, whose results are checked before they are used. See `ImageIO`.

    Attributes:
        reader: The user's object.
        where: The setting or package that names it, for messages.
    """

    reader: Any
    where: str

    @property
    def name(self) -> str:
        """The reader's."""
        return str(self.reader.name)

    @property
    def endings(self) -> tuple[str, ...]:
        """The reader's."""
        return tuple(self.reader.endings)

    def read_image(self, files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """See `ImageIO.read_image`."""
        files = list(files)
        voxels, geometry = self._read("read_image", files, files[0] if files else None, axes=4, contract=_READ_IMAGE)
        return voxels.astype(np.float32, copy=False), geometry

    def read_label(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """See `ImageIO.read_label`."""
        voxels, geometry = self._read("read_label", file, file, axes=3, contract=_READ_LABEL)
        return as_label(voxels, file), geometry

    def read_header(self, file: Path) -> ImageHeader:
        """See `ImageIO.read_header`."""
        header = self._call("read_header", f"cannot read {file}", _READ_HEADER, file)
        if not isinstance(header, ImageHeader):
            raise self._refused(file, type(header).__name__, _READ_HEADER)
        self._check_geometry(header.geometry, file, _READ_HEADER)
        shape = header.shape
        if len(shape) != 3 or not all(int(n) == n and n > 0 for n in shape) or not header.channels >= 1:
            raise self._refused(file, f"shape {shape}, {header.channels} channels", _READ_HEADER)
        return header

    def write_label(self, label: np.ndarray, geometry: Geometry, file: Path) -> None:
        """See `ImageIO.write_label`."""
        self._write("write_label", label, geometry, file)

    def write_map(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        """See `ImageIO.write_map`."""
        self._write("write_map", values, geometry, file)

    def _read(
        self, method: str, source: Any, file: Path | None, *, axes: int, contract: str
    ) -> tuple[np.ndarray, Geometry]:
        answer = self._call(method, f"cannot read {file}", contract, source)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._refused(file, type(answer).__name__, contract)
        voxels, geometry = answer
        if not isinstance(voxels, np.ndarray) or voxels.ndim != axes or voxels.dtype.kind not in "biuf":
            is_array = isinstance(voxels, np.ndarray)
            found = f"array {voxels.shape} of {voxels.dtype}" if is_array else type(voxels).__name__
            raise self._refused(file, found, contract)
        self._check_geometry(geometry, file, contract)
        return voxels, geometry

    def _check_geometry(self, geometry: object, file: Path | None, contract: str) -> None:
        if not isinstance(geometry, Geometry) or len(geometry.spacing) != 3:
            raise self._refused(file, f"{geometry!r} as geometry", contract)
        check_spacing(geometry.spacing, file or self.name)
        try:
            json.dumps(dict(geometry.header))
        except (TypeError, ValueError) as error:
            raise self._refused(file, f"a header of the geometry that is not plain JSON: {error}", contract) from error

    def _write(self, method: str, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        contract = f"{method}(values, geometry, file) → nothing; the file exists, complete"
        self._call(method, f"cannot write {file}", contract, values, geometry, file)
        if not is_image_path(file):
            raise self._refused(file, f"no file {file.name}", contract)

    def _call(self, method: str, doing: str, contract: str, *arguments: Any) -> Any:
        try:
            return getattr(self.reader, method)(*arguments)
        except (SegflowError, MemoryError):
            raise
        except OSError as error:
            raise system_error(error, doing) from error
        except Exception as error:
            raise SegflowError(
                f"{doing}: the reader '{self.name}' ({self.where}) failed",
                found=described_failure(error),
                expected=contract,
            ) from error

    def _refused(self, file: Path | None, found: str, contract: str) -> SegflowError:
        return SegflowError(
            f"the reader '{self.name}' ({self.where}) does not keep its contract for {file}",
            found=found,
            expected=contract,
        )


def checked_reader(reader: object, where: str, *, taken: Container[str]) -> OwnReader:
    """Check that an object is a reader, and wrap it.

    Args:
        reader: Any object.
        where: The setting or package that names it, for messages.
        taken: Names that it cannot have.

    Raises:
        SegflowError: It is not a reader. The error says why.
    """
    reason = _why_no_reader(reader, taken)
    if reason is not None:
        raise SegflowError(f"{where}: {type(reader).__name__} is not an image reader", found=reason, expected=CONTRACT)
    check_travels(reader, where)
    return OwnReader(reader, where)


def _why_no_reader(reader: object, taken: Container[str]) -> str | None:
    if isinstance(reader, type):
        return f"the class {reader.__name__} itself, not an object of it"
    name, endings = getattr(reader, "name", None), getattr(reader, "endings", None)
    reason = why_unsafe(name)
    if reason is not None:
        return f"name {name!r}, which {reason}"
    if name in taken:
        return f"name {name!r}, which one of the shipped readers has"
    if not isinstance(endings, (tuple, list)) or not endings or not all(map(_is_ending, endings)):
        return f"endings {endings!r}, which are not file endings in lower case, each with its dot"
    for method, arguments in METHODS.items():
        call = getattr(reader, method, None)
        if not callable(call):
            return f"no method {method}"
        if not _takes(call, arguments):
            return f"{method}{inspect.signature(call)}, which does not take {arguments} arguments"
    return None


def _is_ending(ending: object) -> bool:
    return isinstance(ending, str) and ending.startswith(".") and len(ending) > 1 and ending == ending.lower()


def _takes(call: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(call).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:  # built in C, without a signature
        return True
    return True


def _entries() -> Iterable[EntryPoint]:
    """The readers in installed packages."""
    from importlib.metadata import entry_points  # slow to load

    return entry_points(group=GROUP)


def installed_names() -> list[str]:
    """Names of the readers in installed packages, sorted. Nothing is imported."""
    return sorted({entry.name for entry in _entries()})


def installed_reader(name: str, *, taken: Container[str]) -> ImageIO | None:
    """The reader of this name in an installed package, or None.

    Raises:
        SegflowError: It cannot be loaded, is not a reader, or several packages have one of this name.
    """
    found = {entry.value: entry for entry in _entries() if entry.name == name}
    if len(found) > 1:
        raise SegflowError(
            f"several installed packages have a reader '{name}'",
            found=", ".join(_origin(entry) for entry in found.values()),
            fix="Uninstall all but one.",
        )
    return _load(next(iter(found.values())), taken) if found else None


def installed_readers(*, taken: Container[str]) -> tuple[list[ImageIO], list[str]]:
    """All readers in installed packages, and a message for each that cannot be used."""
    readers: list[ImageIO] = []
    broken: list[str] = []
    for name in installed_names():
        try:
            reader = installed_reader(name, taken=taken)
        except SegflowError as error:
            broken.append(str(error))
            continue
        readers += [] if reader is None else [reader]
    return readers, broken


def _load(entry: EntryPoint, taken: Container[str]) -> OwnReader:
    try:
        made = entry.load()
        reader = made() if isinstance(made, type) else made
    except Exception as error:
        raise SegflowError(
            f"the reader '{entry.name}' of {_origin(entry)} cannot be loaded", found=described_failure(error)
        ) from error
    own = checked_reader(reader, _origin(entry), taken=taken)
    if own.name != entry.name:
        raise SegflowError(
            f"the entry point '{entry.name}' of {_origin(entry)} has another name than its reader",
            found=own.name,
            expected=entry.name,
        )
    return own


def _origin(entry: EntryPoint) -> str:
    package = f"the package {entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
    return f"{package} ({GROUP}: {entry.value})"
