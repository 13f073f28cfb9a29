"""Whole cases that are read box by box."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segflow.core.case import CaseFiles, OpenCase
from segflow.core.errors import SegflowError
from segflow.core.image_look import SLAB_VALUES
from segflow.core.labels import Labels
from segflow.core.missing_channels import WithMissing
from segflow.core.voxels import LabelSource, boxes_in_order
from segflow.storage.image_formats.contract import ImageFormat, ImageIO
from segflow.storage.image_formats.nifti_files import is_nifti
from segflow.storage.images import check_channels, check_same_space
from segflow.storage.label_mapping import stored_reader
from segflow.storage.label_values import label_values, refuse_unknown_values
from segflow.storage.open_volumes import open_label_source, open_source

IN_BOXES = (".zarr", ".b2nd")
"""Endings beside NIfTI's of files that are read in boxes."""


@contextmanager
def open_case(files: CaseFiles, reader: ImageIO, *, channels: int | None = None) -> Iterator[OpenCase | None]:
    """Open image and label map of a case to read them box by box. The files are closed when the block ends.

    Args:
        files: Its files.
        reader: How to read them.
        channels: Number of channels that the dataset declares; None leaves it unchecked.

    Yields:
        The case, with the voxels of `read_case`; None if a file can only be read as a whole.

    Raises:
        SegflowError: A file cannot be read, channels are missing or too many, or image and label lie on different
            grids. The error names the case.
    """
    try:
        image = open_source(files.images, reader)
    except SegflowError as error:
        raise error.of_case(files.case_id) from error
    if image is None:
        yield None
        return
    with image:
        try:
            if channels is not None:
                check_channels(image.shape[0] + len(files.missing), channels)
            voxels = WithMissing(image, files.missing) if files.missing else image
            label = None if files.label is None else open_label_source(files.label, reader)
        except SegflowError as error:
            raise error.of_case(files.case_id) from error
        if label is None:
            yield (
                None
                if files.label is not None
                else OpenCase(files.case_id, voxels, None, image.geometry, files.missing)
            )
            return
        with label:
            try:
                check_same_space(image.shape[1:], label.shape, image.geometry, label.geometry)
            except SegflowError as error:
                raise error.of_case(files.case_id) from error
            yield OpenCase(files.case_id, voxels, label, image.geometry, files.missing)


def check_values_as_read(label: LabelSource, labels: Labels, case_id: str) -> None:
    """Refuse a label map, read slab by slab, with other values than the dataset declares for this case.

    Raises:
        SegflowError: The label map holds values that the dataset does not declare. The error names the case.
    """
    found: set[int] = set()
    for box in boxes_in_order(label.shape, SLAB_VALUES):
        found.update(label_values(label.read(box)))
    refuse_unknown_values(sorted(found), labels, case_id)


def is_read_in_boxes(files: CaseFiles, reader: ImageIO) -> bool:
    """Whether `open_case` opens a case, by the names of its files."""
    reader = stored_reader(reader)
    if not isinstance(reader, ImageFormat) or type(reader).open_file is ImageFormat.open_file:
        return False
    named = (*files.images, *([files.label] if files.label else []))
    return all(is_nifti(file) or file.name.lower().endswith(IN_BOXES) for file in named)


def only_whole(files: CaseFiles, reader: ImageIO) -> SegflowError:
    """The error for a case that does not fit into memory, and whose files can only be read as a whole."""
    return SegflowError(
        f"files of {reader.name} can only be read as a whole, and the case does not fit into memory",
        case=files.case_id,
        found=f"{' × '.join(map(str, reader.read_header(files.images[0]).shape))} voxels",
        fix="Give it more memory (max_memory_gb), or convert the files to .nii.gz, .ome.zarr or .b2nd.",
    )
