"""The header of one DICOM file."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from segflow.core.errors import SegflowError
from segflow.execution.machine import check_room
from segflow.storage.dicom.series import DicomObject, DicomSeries, DicomSlice
from segflow.storage.image_formats.contract import unreadable
from segflow.storage.image_formats.read_apart import reason_of
from segflow.storage.regular_files import open_regular

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE, MAGIC = 128, b"DICM"
START_BYTES = 4096
DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax of a file that is compressed as a whole, behind its first elements."""
GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
"""The first element: how many bytes the first elements take."""
INFLATED_AT_ONCE, INFLATED_COPIES = 1 << 20, 3
INSTALL = "Install it: pip install 'segflow[dicom]'"
NOT_IMAGES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "PR", "KO", "SR", "REG", "DOC", "ECG", "HD")
"""Modalities of objects that are no images, some of which have pixels all the same."""
CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
"""Class of an object → its modality, which a file that is cut off may lack."""
MOST_FRAMES = 1 << 20

ID_TAGS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "SOPClassUID")
TEXT_TAGS = ("SeriesDescription", "StudyDescription", "StudyDate", "ImageType", "SOPInstanceUID", "InstanceNumber")
IMAGE_TAGS = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation")
PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
GROUP_TAGS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TRAITS = (
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "EchoTime", "EchoNumbers"),
    *("DiffusionBValue", "TriggerTime", "CardiacCyclePosition", "AcquisitionTime", "ContentTime"),
)
"""Attributes that tell acquisitions of the same place apart, the plainest first."""
TAGS = (*ID_TAGS, *TEXT_TAGS, *IMAGE_TAGS, *PLACE_TAGS, *GROUP_TAGS, *TRAITS)
TRAIT_GROUPS = ("FrameContentSequence", "MREchoSequence", "MRDiffusionSequence", "CardiacSynchronizationSequence")
"""Parts of a frame's description that hold such attributes."""


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its first bytes; false for one that cannot be opened."""
    try:
        with open_regular(file) as stream:
            start = stream.read(PREAMBLE + len(MAGIC))
    except (SegflowError, OSError):
        return False
    return start[PREAMBLE:] == MAGIC or _lacks_preamble(start)


def _lacks_preamble(start: bytes) -> bool:
    """Whether bytes begin with the first element of DICOM without its preamble, as old archives write it."""
    if len(start) < PREAMBLE or start[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    element, kind, length = int.from_bytes(start[2:4], "little"), start[4:6], int.from_bytes(start[4:8], "little")
    first = element == 0 or (start[:2] == b"\x08\x00" and element in (1, 5, 8, 0x16))
    return first and (kind in (b"UL", b"CS", b"UI") or length < PREAMBLE)


def read_header(file: Path) -> DicomSeries | DicomObject:
    """The header of a DICOM file: an image as a series of its own slices, or another object.

    Raises:
        SegflowError: The file is damaged, or pydicom is not installed. The error names the file.
    """
    with reading(file) as dataset:
        return _described(dataset, file)


def need_pydicom(file: Path) -> None:
    """Refuse a DICOM file where pydicom is not installed.

    Raises:
        SegflowError: It is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise SegflowError(f"{file} is DICOM, which needs pydicom", fix=INSTALL) from error


@contextmanager
def reading(file: Path, *, voxels: bool = False) -> Iterator[Dataset]:
    """A DICOM file as pydicom reads it; every error within the block names the file.

    Args:
        file: The file.
        voxels: Read all of it; otherwise only the elements of `TAGS`.

    Raises:
        SegflowError: The file is damaged, or pydicom is not installed.
    """
    need_pydicom(file)
    import pydicom

    try:
        with open_regular(file) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values that are not needed here
            start = stream.read(START_BYTES)
            if DEFLATED.encode() in start:
                _check_inflated(stream, start, file)
            stream.seek(0)
            whole: dict[str, Any] = {} if voxels else {"stop_before_pixels": True, "specific_tags": list(TAGS)}
            yield pydicom.dcmread(stream, force=True, **whole)
    except SegflowError:
        raise
    except Exception as error:  # pydicom passes on any error that a damaged file causes
        raise unreadable(file, reason_of(error)) from error


def _check_inflated(stream: IO[bytes], start: bytes, file: Path) -> None:
    """Refuse a deflated file that does not fit into memory: a few bytes may unpack to a thousand times as many."""
    first = PREAMBLE + len(MAGIC)
    if start[first : first + len(GROUP_LENGTH)] != GROUP_LENGTH:
        raise SegflowError(f"{file} is deflated, and does not say from where on", fix="Store it again uncompressed.")
    first += len(GROUP_LENGTH)
    stream.seek(first + 4 + int.from_bytes(start[first : first + 4], "little"))
    unpacking, size, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    while not unpacking.eof and (packed := unpacking.unconsumed_tail or stream.read(INFLATED_AT_ONCE)):
        size += len(unpacking.decompress(packed, INFLATED_AT_ONCE))
        check_room(INFLATED_COPIES * size, str(file), found=f"more than {size} bytes when unpacked")


def _described(dataset: Dataset, file: Path) -> DicomSeries | DicomObject:
    instance_class, class_name = _class_of(dataset)
    modality = CLASSES.get(instance_class) or text(dataset, "Modality").upper()
    ids = {
        "patient_id": text(dataset, "PatientID"),
        "study_uid": text(dataset, "StudyInstanceUID"),
        "series_uid": text(dataset, "SeriesInstanceUID"),
        "frame_of_reference": text(dataset, "FrameOfReferenceUID"),
        "description": text(dataset, "SeriesDescription"),
    }
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    no_image = instance_class == DIRECTORY or modality in NOT_IMAGES
    empty = rows < 1 or columns < 1
    if empty and not no_image and ("Image Storage" in class_name or not (class_name or modality)):
        raise SegflowError(
            f"{file} is DICOM without an image or another content",
            fix="Is the file complete? Copy or export it again.",
        )
    if no_image or empty:
        return DicomObject(file, modality, instance_class, **ids)
    return DicomSeries(
        tuple(_slices(dataset, file, rows, columns, instance_class)),
        **ids,
        study_description=text(dataset, "StudyDescription"),
        study_date=text(dataset, "StudyDate"),
        modality=modality,
        image_type=tuple(str(part).upper() for part in _many(dataset.get("ImageType"))),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=text(dataset, "PhotometricInterpretation").upper() or "MONOCHROME2",
    )


def _class_of(dataset: Dataset) -> tuple[str, str]:
    """SOPClassUID and its name; that of the first elements, and an empty name, if it is none of DICOM's."""
    from pydicom.uid import UID

    meta = getattr(dataset, "file_meta", None)
    stored = text(meta, "MediaStorageSOPClassUID") if meta is not None else ""
    for own in (text(dataset, "SOPClassUID"), stored):
        if own and UID(own).name != own:
            return own, UID(own).name
    return text(dataset, "SOPClassUID") or stored, ""


def _slices(dataset: Dataset, file: Path, rows: int, columns: int, instance_class: str) -> Iterator[DicomSlice]:
    """The slices of a file: itself, or its frames, whose description comes before that of all frames."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    most = min(MOST_FRAMES, file.stat().st_size)  # each takes a byte or more
    if not 1 <= frames <= most:
        raise SegflowError(f"cannot read {file}", found=f"{frames} frames", expected=f"1 to {most}")
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    each = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if len(each) not in (0, frames):
        raise SegflowError(f"cannot read {file}", found=f"{frames} frames, of which {len(each)} are described")
    for number in range(frames):
        groups = [group for group in (each[number] if each else None, shared) if group is not None]
        sources = [dataset] if not groups else [_Groups(groups), dataset]
        slope, intercept = (_numbers(sources, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
        yield DicomSlice(
            file,
            number,
            _numbers(sources, "ImagePositionPatient", 3),  # type: ignore[arg-type]
            _numbers(sources, "ImageOrientationPatient", 6),  # type: ignore[arg-type]
            _numbers(sources, "PixelSpacing", 2),  # type: ignore[arg-type]
            rows,
            columns,
            1.0 if slope is None else slope[0],
            0.0 if intercept is None else intercept[0],
            text(dataset, "SOPInstanceUID"),
            instance_class,
            _whole(dataset.get("InstanceNumber")),
            {name: value for name in TRAITS if (value := _trait(sources, name))},
        )


PLACES = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
"""Attribute of a frame → the part of its description that holds it."""


class _Groups:
    """The functional groups of a frame: attribute → value of the first group that has it."""

    def __init__(self, groups: Sequence[Dataset]) -> None:
        self._groups = groups

    def get(self, name: str) -> Any:
        """The value of an attribute, or None."""
        names = (PLACES[name],) if name in PLACES else TRAIT_GROUPS
        for group in self._groups:
            for place in names:
                item = _first(group.get(place))
                value = None if item is None else item.get(name)
                if value is not None:
                    return value
        return None


def text(dataset: Any, name: str) -> str:
    """An element as text, without spaces around it; empty if there is none."""
    value = dataset.get(name)
    return "" if value is None else str(value).strip("\0 \t\r\n")


def _trait(sources: Sequence[Any], name: str) -> str:
    return next((found for source in sources if (found := text(source, name))), "")


def _numbers(sources: Sequence[Any], name: str, count: int) -> tuple[float, ...] | None:
    """Finite numbers of an element; None if it is missing, empty, or has another number of them."""
    for source in sources:
        values = _many(source.get(name))
        if len(values) == count:
            numbers = tuple(float(value) for value in values)
            return numbers if all(map(math.isfinite, numbers)) else None
    return None


def _many(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _whole(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)
