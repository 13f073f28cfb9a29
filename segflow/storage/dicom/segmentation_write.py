"""Writing of label maps as DICOM-SEG, with geometry and references of their series."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.storage.dicom.file_header import INSTALL
from segflow.storage.dicom.object_file import object_file
from segflow.storage.dicom.segment_codes import Code, Segment, overlapping
from segflow.storage.dicom.segmentation_read import BINARY, LABELMAP
from segflow.storage.dicom.series import DicomSeries
from segflow.storage.image_formats.read_apart import reason_of
from segflow.storage.json_files import written_whole

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

LONGEST_TEXT = 64
"""Characters of a short text in DICOM."""
SERIES_NUMBERS = 1000
"""A segmentation has the number of its series and this."""
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
"""Attributes that every DICOM-SEG has, and that a series may lack after its names were removed."""


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What made a label map.

    Attributes:
        model: Name of the model, such as its dataset's.
        version: Version of segflow.
        description: Description of the new series.
    """

    model: str
    version: str
    description: str


def check_can_write() -> None:
    """Refuse to go on without the library.

    Raises:
        SegflowError: highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise SegflowError("DICOM-SEG needs highdicom", fix=INSTALL) from error


def check_can_refer(series: DicomSeries) -> None:
    """Refuse a series that a DICOM-SEG cannot refer to.

    Raises:
        SegflowError: Some of its UIDs are missing, or it is several files of several frames each.
    """
    uids = {
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.series_uid,
        "FrameOfReferenceUID": series.frame_of_reference,
        "SOPInstanceUID": all(one.instance_uid for one in series.slices),
        "SOPClassUID": all(one.instance_class for one in series.slices),
    }
    missing = [name for name, value in uids.items() if not value]
    if missing:
        raise SegflowError(
            f"{series.title} lacks {', '.join(missing)}, to which a DICOM-SEG refers",
            fix="Export the series again, with its UIDs.",
        )
    _frame_order(series)


def write_segmentation(
    label: np.ndarray,
    segments: Sequence[Segment],
    series: DicomSeries,
    made_by: MadeBy,
    file: Path,
    *,
    labelmap: bool = False,
) -> None:
    """Write a label map as DICOM-SEG. Slices of a segment without a voxel are left out.

    Args:
        label: (Z, Y, X) on the grid of the series, its slices in the order of ``series.slices``.
        segments: The segments, numbered from 1 in this order. They may share values, and then overlap.
        series: The series that the label map belongs to.
        made_by: See `MadeBy`.
        file: The file, written as a whole or not at all.
        labelmap: Write the newer LABELMAP type, which few programs read yet and which cannot hold overlaps.

    Raises:
        SegflowError: The label map has another size than the series, the series lacks what a DICOM-SEG refers to, or
            the file cannot be written.
    """
    check_can_write()
    if labelmap and overlapping(segments):
        raise SegflowError("LABELMAP cannot hold regions, which overlap", fix="Take output_format=dicom_seg.")
    if label.shape != series.shape:
        raise SegflowError(
            f"the label map has another size than {series.title}",
            found=f"z, y, x = {label.shape}",
            expected=series.shape,
            fix="Where slices were resampled while reading, DICOM-SEG cannot refer to them.",
        )
    check_can_refer(series)
    sources = [_header(file) for file in series.files]
    order = _frame_order(series)
    pixels = _pixels(label if order is None else label[order], segments)
    described = _described(segments, made_by)
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it tells which modules of a series it copies
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about segments without a voxel, and what the series lacks
            dataset = _dataset(pixels, described, sources, made_by, LABELMAP if labelmap else BINARY)
            with written_whole(file) as place:
                dataset.save_as(place)
    except SegflowError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # what highdicom raises for a damaged series
        problem = f"no DICOM-SEG can be made for {series.title}: {reason_of(error)}"
        raise SegflowError(problem, fix="Are its headers complete? Export the series again.") from error


def _header(file: Path) -> Dataset:
    """The header of a file of the series, with empty values for what may be empty."""
    with object_file(file) as dataset:
        for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            if name in dataset:
                del dataset[name]
        for name in MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
        return dataset


def _frame_order(series: DicomSeries) -> list[int] | None:
    """Index of the slice of each frame of a multi-frame file; None for files of one frame.

    Raises:
        SegflowError: The series is several files with frames.
    """
    if len(series.files) == len(series.slices):
        return None
    if len(series.files) > 1:
        raise SegflowError(
            f"{series.title} is {len(series.files)} files of several frames each",
            expected="one file of several frames, or files of one frame",
        )
    places = {one.frame: number for number, one in enumerate(series.slices)}
    if sorted(places) != list(range(len(places))):
        raise SegflowError(f"{series.title} has not all frames of its file")
    return [places[frame] for frame in range(len(places))]


def _pixels(label: np.ndarray, segments: Sequence[Segment]) -> np.ndarray:
    """Number of the segment (Z, Y, X), or bool (Z, Y, X, segments) where they share values."""
    values = [value for segment in segments for value in segment.values]
    size = max(*values, int(label.max(initial=0))) + 1
    if overlapping(segments):
        pixels = np.zeros((len(segments), *label.shape), bool)  # each segment lies together, which is quicker
        for number, segment in enumerate(segments):
            table = np.zeros(size, bool)
            table[list(segment.values)] = True
            pixels[number] = table[label]
        return np.moveaxis(pixels, 0, -1)
    numbers = np.zeros(size, np.uint8 if len(segments) < 256 else np.uint16)
    for number, segment in enumerate(segments, 1):
        numbers[list(segment.values)] = number
    numbered: np.ndarray = numbers[label]
    return numbered


def _described(segments: Sequence[Segment], made_by: MadeBy) -> list[SegmentDescription]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=_short(f"segflow {made_by.model}"),
        family=codes.DCM.ArtificialIntelligence,
        version=_short(made_by.version),
    )
    described: list[SegmentDescription] = []
    for number, segment in enumerate(segments, 1):
        one = SegmentDescription(
            segment_number=number,
            segment_label=_short(segment.name),
            segmented_property_category=_coded(segment.category),
            segmented_property_type=_coded(segment.type),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        if segment.modifier is not None:
            one.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
                _coded(segment.modifier)
            ]
        described.append(one)
    return described


def _dataset(
    pixels: np.ndarray, described: list[SegmentDescription], sources: list[Dataset], made_by: MadeBy, kind: str
) -> Dataset:
    from highdicom import UID
    from highdicom.seg import Segmentation

    return Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=UID(),
        series_number=SERIES_NUMBERS + max(0, int(sources[0].get("SeriesNumber") or 0)),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="segflow",
        manufacturer_model_name=_short(made_by.model),
        software_versions=_short(made_by.version),
        device_serial_number=_short(made_by.version),
        content_label="SEGMENTATION",
        content_description=_short(made_by.description),
        series_description=_short(made_by.description),
        omit_empty_frames=bool(pixels.any()),
        specific_character_set="ISO_IR 192",
    )


def _coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def _short(text: str) -> str:
    return text.replace("\\", "/")[:LONGEST_TEXT]
