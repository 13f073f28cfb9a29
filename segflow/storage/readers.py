"""Choice of the reader for a dataset: a shipped one, one of an installed package, or one that the settings name."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.blosc2_io import Blosc2IO
from segflow.storage.image_formats.contract import ImageIO
from segflow.storage.image_formats.natural_io import NaturalImage2DIO
from segflow.storage.image_formats.nibabel_io import NibabelIO, NibabelIOWithReorient
from segflow.storage.image_formats.nifti_files import NIFTI_ENDINGS
from segflow.storage.image_formats.ome_zarr_io import OMEZarrIO
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO, SimpleITKIOWithReorient
from segflow.storage.image_formats.tiff_io import Tiff3DIO
from segflow.storage.own_readers import GROUP, checked_reader, installed_names, installed_reader, installed_readers

log = logging.getLogger(__name__)

_SHIPPED: dict[str, ImageIO] = {
    reader.name: reader
    for reader in (
        NaturalImage2DIO(),
        SimpleITKIO(),
        Tiff3DIO(),
        NibabelIO(),
        NibabelIOWithReorient(),
        SimpleITKIOWithReorient(),
        OMEZarrIO(),
        Blosc2IO(),
    )
}
"""The shipped readers, in the order in which they are tried (recipe 1.5)."""

NNUNET_READERS = frozenset(_SHIPPED) - {"OMEZarrIO", "Blosc2IO"}
"""Readers that nnU-Net has under the same names."""

_in_use: dict[str, ImageIO] = {}
"""Setting → the reader that it names; at most one entry."""


def use_reader(reader: object | None, setting: str = "reader") -> None:
    """Read and write all images of this process with a user's own reader.

    Worker processes get the reader with the objects that read.

    Args:
        reader: See `own_readers.CONTRACT`. None returns to the other readers.
        setting: The setting that names it, for messages.

    Raises:
        SegflowError: It breaks the contract, or has the name of a shipped reader.
    """
    own = None if reader is None else checked_reader(reader, setting, taken=_SHIPPED)
    _in_use.clear()
    if own is not None:
        _in_use[setting] = own


def shipped_reader(name: str) -> ImageIO:
    """A shipped reader."""
    return _SHIPPED[name]


def is_shipped(reader: ImageIO) -> bool:
    """Whether a reader is one of segflow's own, and not a user's."""
    return type(reader) is type(_SHIPPED.get(reader.name))


def reader_by_name(name: str) -> ImageIO:
    """The reader of this name, as given in plans.

    Raises:
        SegflowError: There is none, an installed one cannot be loaded, or the settings name another.
    """
    for setting, reader in _in_use.items():
        if reader.name == name:
            return reader
        raise SegflowError(
            f"the plans were made with the reader '{name}'",
            found=f"'{reader.name}' in the setting '{setting}'",
            fix=f"Leave out '{setting}', or plan again with it.",
        )
    if name in _SHIPPED:
        return _SHIPPED[name]
    installed = installed_reader(name, taken=_SHIPPED)
    if installed is not None:
        return installed
    known = [*_SHIPPED, *installed_names()]
    near = difflib.get_close_matches(name, known, n=1)
    raise SegflowError(
        f"unknown reader '{name}'",
        expected=" | ".join(known),
        fix=f"Did you mean '{near[0]}'?"
        if near
        else f"A reader of your own is named by the setting 'reader', here as when planning, or brought by an "
        f"installed package as an entry point '{GROUP}'.",
    )


def choose_reader(file_ending: str, example: Path | None = None, name: str | None = None) -> ImageIO:
    """The reader for a dataset.

    Args:
        file_ending: Ending of its files, with the dot.
        example: One of its images. The first reader for the ending that can read it is taken.
        name: The reader that dataset.json asks for. An unknown name is ignored with a warning. A reader in the settings
            comes before it.

    Raises:
        SegflowError: No reader knows the ending; none can read the example; the settings' reader does not know the
            ending; or an installed reader that dataset.json asks for cannot be loaded.
    """
    for setting, reader in _in_use.items():
        if file_ending.lower() not in reader.endings and reader.name != name:
            raise SegflowError(
                f"the reader '{reader.name}' of the setting '{setting}' does not know these files",
                found=f"the ending {file_ending!r}",
                expected=" ".join(reader.endings),
                fix=f"Leave out '{setting}', or name the ending in the reader's 'endings'.",
            )
        return reader
    if name is not None:
        if name in installed_names():
            return reader_by_name(name)
        try:
            return reader_by_name(name)
        except SegflowError as error:
            log.warning("%s; choosing by file ending instead", error)
    candidates, broken = _for_ending(file_ending.lower())
    if not candidates:
        known = sorted({ending for reader in _SHIPPED.values() for ending in reader.endings})
        raise SegflowError(
            "no reader for files of this ending",
            found=repr(file_ending),
            expected=" ".join(known),
            fix=" ".join(broken) or None,
        )
    reasons = []
    for reader in candidates:
        if example is None:
            return reader
        try:
            reader.read_header(example)
        except SegflowError as error:
            reasons.append(f"{reader.name}: {error}")
        else:
            return reader
    raise SegflowError(f"no reader understands {example} ({'; '.join(reasons)})")


def _for_ending(ending: str) -> tuple[list[ImageIO], list[str]]:
    """Readers for an ending, and problems of installed readers that cannot be loaded.

    Installed packages are asked only if no shipped reader knows the ending. So installing one never changes how a
    dataset is read that could be read before.
    """
    shipped = [reader for reader in _SHIPPED.values() if ending in reader.endings]
    if shipped:
        return shipped, []
    installed, broken = installed_readers(taken=_SHIPPED)
    found = [reader for reader in installed if ending in reader.endings]
    if found:
        for problem in broken:
            log.warning("%s", problem)
    return found, broken


def known_endings() -> set[str]:
    """All endings of files that a shipped reader or that of the settings can read, in lower case."""
    return {ending.lower() for reader in (*_SHIPPED.values(), *_in_use.values()) for ending in reader.endings}


def readable_endings(reader: ImageIO, file_ending: str) -> tuple[str, ...]:
    """Endings of files that a dataset's reader can read, in lower case. The dataset's own comes first."""
    kinds = [reader.endings, *(getattr(kind, "endings", ()) for kind in type(reader).__mro__)]
    own = next((endings for endings in kinds if isinstance(endings, tuple) and endings), ())
    nifti = NIFTI_ENDINGS if set(own) & set(NIFTI_ENDINGS) else ()
    return tuple(dict.fromkeys((file_ending.lower(), *own, *nifti)))


def reader_of(files: Iterable[Path], file_ending: str, name: str | None = None) -> ImageIO:
    """The reader for a dataset's files: the first that can read any of them, so that a damaged file does not matter.

    Args:
        files: Images or label maps.
        file_ending: Their ending, with its dot.
        name: The reader that a person or dataset.json asks for.

    Raises:
        SegflowError: No reader knows the ending.
    """
    for file in files:
        try:
            return choose_reader(file_ending, file, name)
        except SegflowError:
            continue
    return choose_reader(file_ending, None, name)
