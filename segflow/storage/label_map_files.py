"""A label map and the files beside it, such as the spacing of a TIFF, which are copied and removed together."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.storage.folder_files import files_within, image_folder_written_whole, remove_image
from segflow.storage.image_formats.header_checks.metaimage import files_beside_metaimage
from segflow.storage.image_formats.header_checks.nrrd import files_beside_nrrd
from segflow.storage.image_formats.tiff_io import side_car, side_cars_of_image
from segflow.storage.json_files import written_whole

logger = logging.getLogger(__name__)

_BESIDE: dict[str, Callable[[Path], tuple[Path, ...]]] = {
    ".mha": files_beside_metaimage,
    ".mhd": files_beside_metaimage,
    ".nrrd": files_beside_nrrd,
    ".nhdr": files_beside_nrrd,
}


def copy_label_map(source: Path, target: Path) -> None:
    """Copy a label map byte for byte, with its times and the files beside it. Each copy is whole or not made at all.

    Args:
        source: The label map.
        target: Path of the copy, which is replaced. Its folder is made if it is missing.

    Raises:
        SegflowError: The copy cannot be written.
    """
    beside, copied_beside = side_car(source), side_car(target)
    if beside is not None and copied_beside is not None:
        if beside.is_file():
            _copy(beside, copied_beside)
        else:
            copied_beside.unlink(missing_ok=True)  # belongs to another label map of this name
    _copy(source, target)  # last, so that an existing label map is complete


def link_or_copy(source: Path, target: Path, *, copy: bool) -> None:
    """Link to an image, a label map or a folder, with the files beside it; or copy it.

    Args:
        source: What exists.
        target: Path at which there is nothing yet. Its folder is made if it is missing.
        copy: Copy it. Otherwise this is done only where the file system has no links.

    Raises:
        SegflowError: It cannot be written.
    """
    pairs = {target: source}
    if source.name == target.name:
        pairs = {target.with_name(beside.name): beside for beside in files_beside(source)} | pairs
    elif (beside := side_car(source)) is not None and beside.is_file() and (own := side_car(target)) is not None:
        pairs = {own: beside} | pairs
    for place, file in pairs.items():
        if place != target:
            place.unlink(missing_ok=True)  # shared by channels
        if not copy and _linked(file, place):
            continue
        _copy(file, place)


def _linked(file: Path, place: Path) -> bool:
    """Make a link, if the file system has links."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file.resolve(), target_is_directory=file.is_dir())
    except OSError as error:
        logger.debug("%s cannot be a link, and is copied: %s", place, error)
        return False
    return True


def is_copied(source: Path, target: Path) -> bool:
    """Whether `copy_label_map` has nothing to do: all files exist with the size and time of their source."""
    pairs = [(source, target)]
    beside, copied_beside = side_car(source), side_car(target)
    if beside is not None and copied_beside is not None:
        if beside.is_file():
            pairs.append((beside, copied_beside))
        elif copied_beside.is_file():
            return False
    return all(_same_age_and_size(*pair) for pair in pairs)


def files_beside(image: Path) -> tuple[Path, ...]:
    """Files that are read with an image or label map, if they exist: a TIFF's spacing, the voxels of a bare header."""
    read = next((read for ending, read in _BESIDE.items() if image.name.lower().endswith(ending)), None)
    try:
        files = side_cars_of_image(image) if read is None else read(image)
    except SegflowError:  # reading the image will report the problem
        return ()
    return tuple(file for file in files if file.is_file())


def case_inputs(files: CaseFiles, more: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Role → file, for all files of a case that a stamp covers.

    Args:
        files: Files of the case.
        more: Further files by their role, such as the previous stage's label map.
    """
    inputs = {f"image_{k}": path for k, path in zip(files.numbers, files.images, strict=True)} | dict(more or {})
    if files.label is not None:
        inputs["label"] = files.label
    return inputs | inputs_beside(inputs)


def inputs_beside(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """Role → file, for the files that are read with others; see `files_beside`."""
    return {f"{role}_beside_{k}": file for role, path in inputs.items() for k, file in enumerate(files_beside(path))}


def remove_label_map(file: Path) -> None:
    """Delete a label map and the files beside it, if they exist."""
    remove_image(file)
    if (beside := side_car(file)) is not None:
        beside.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        with image_folder_written_whole(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)
        status = source.stat()
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def _same_age_and_size(source: Path, target: Path) -> bool:
    if source.is_dir():
        return target.is_dir() and _ages_and_sizes(source) == _ages_and_sizes(target)
    if not target.is_file():
        return False
    there, here = source.stat(), target.stat()
    return (there.st_mtime_ns, there.st_size) == (here.st_mtime_ns, here.st_size)


def _ages_and_sizes(folder: Path) -> list[tuple[str, int, int]]:
    found = [(file, file.stat()) for file in files_within(folder)]
    return [(str(file.relative_to(folder)), status.st_mtime_ns, status.st_size) for file, status in found]
