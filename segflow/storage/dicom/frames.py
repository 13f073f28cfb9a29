"""The stored voxels of DICOM files.

Native voxels are read by numpy. Compressed ones are decoded by GDCM (in SimpleITK) in a separate process, which a
damaged file may crash. It gets each frame as a small file of our own, with nothing in it but the frame and its type.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.execution.apart import Limits, call_apart
from segflow.storage.dicom.file_header import DEFLATED, reading
from segflow.storage.image_formats.contract import unreadable
from segflow.storage.image_formats.read_apart import BYTES_PER_SECOND, COPIES, START_BYTES, START_SECONDS, reason_of

if TYPE_CHECKING:
    from pydicom import Dataset

NATIVE = {"1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", "1.2.840.10008.1.2.2": ">", DEFLATED: "<"}
"""Transfer syntaxes whose voxels are not compressed by themselves → their order of bytes."""
JPEG = "1.2.840.10008.1.2.4"
COMPRESSED = (*(f"{JPEG}.{kind}" for kind in (50, 51, 57, 70, 80, 81, 90, 91)), "1.2.840.10008.1.2.5")
"""Transfer syntaxes that GDCM decodes: JPEG, lossless too, JPEG-LS, JPEG 2000, and RLE."""
AT_ONCE = 1 << 25
"""Bytes of decoded frames that come from the other process at once."""


@dataclass(frozen=True, slots=True)
class PixelType:
    """How a file stores its voxels.

    Attributes:
        rows, columns: Voxels along y and x.
        allocated, stored, high_bit: Bits of a voxel in the file, those of its value, and the highest of these.
        signed: Whether values may be negative.
        padding: First and last stored value that mean that nothing was measured there; None without such a value.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def dtype(self) -> np.dtype:
        """Type of the values as `stored_frames` gives them."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.allocated // 8}")


def stored_frames(file: Path, wanted: Sequence[int]) -> tuple[list[np.ndarray], PixelType]:
    """The stored values of some frames of a file.

    Args:
        file: The file.
        wanted: Indices of the frames, from 0.

    Returns:
        For each, an array (rows, columns); and their type.

    Raises:
        SegflowError: The file is damaged, or stores its voxels in a way that is not supported. The error names it.
    """
    with reading(file, voxels=True) as dataset:
        pixels = _pixel_type(dataset, file)
        data = dataset.get("PixelData")
        if not isinstance(data, (bytes, bytearray)) or not data:
            raise SegflowError(f"{file} has no voxels", fix="Is the file complete? Copy or export it again.")
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
        frames = int(dataset.get("NumberOfFrames") or 1)
        if not syntax:
            syntax = "1.2.840.10008.1.2" if dataset.original_encoding[0] else "1.2.840.10008.1.2.1"
        if syntax in NATIVE:
            return _native(data, pixels, NATIVE[syntax], frames, wanted, file), pixels
        if syntax not in COMPRESSED:
            raise SegflowError(
                f"{file} is compressed in a way that is not supported",
                found=f"transfer syntax {shortened(syntax)}",
                expected="JPEG, JPEG-LS, JPEG 2000, RLE or none",
                fix="Store it again, for example uncompressed.",
            )
        packed = _packed_frames(data, frames, wanted, file)
    return _decoded(packed, pixels, syntax, file), pixels


def _pixel_type(dataset: Dataset, file: Path) -> PixelType:
    allocated = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or allocated)
    high_bit = int(dataset.get("HighBit") if dataset.get("HighBit") is not None else stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= high_bit + 1 <= allocated:
        raise SegflowError(
            f"cannot read {file}",
            found=f"{stored} of {allocated} bits, the highest {high_bit}",
            expected="whole numbers of 8, 16 or 32 bits",
        )
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    return PixelType(
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=signed,
        padding=_padding(dataset, stored, signed),
    )


def _padding(dataset: Dataset, stored: int, signed: bool) -> tuple[int, int] | None:
    """The padding values. Some files write negative ones as positive, of the same bits."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not isinstance(ends[0], int):
        return None
    values = [_of_bits(int(end), stored, signed) for end in ends if isinstance(end, int)]
    return min(values), max(values)


def _of_bits(value: int, stored: int, signed: bool) -> int:
    value %= 1 << stored
    return value - (1 << stored) if signed and value >= 1 << (stored - 1) else value


def _native(
    data: bytes | bytearray, pixels: PixelType, order: str, frames: int, wanted: Sequence[int], file: Path
) -> list[np.ndarray]:
    size = pixels.rows * pixels.columns
    needed = frames * size * pixels.allocated // 8
    if len(data) < needed:
        raise SegflowError(
            f"{file} ends before its last voxel",
            found=f"{len(data)} bytes of voxels",
            expected=f"{needed}",
            fix="Is the file complete? Copy or export it again.",
        )
    stored = np.frombuffer(data, np.dtype(f"{order}u{pixels.allocated // 8}"), frames * size)
    return [_values(stored[k * size : (k + 1) * size].reshape(pixels.rows, pixels.columns), pixels) for k in wanted]


def _values(stored: np.ndarray, pixels: PixelType) -> np.ndarray:
    """Values from whole voxels: bits that are no part of the value, such as overlays, are cut off."""
    bits = stored.astype(stored.dtype.newbyteorder("="))
    if pixels.stored == pixels.allocated:
        return bits.view(pixels.dtype)
    bits = bits << (pixels.allocated - 1 - pixels.high_bit)
    return bits.view(pixels.dtype) >> (pixels.allocated - pixels.stored)


def _packed_frames(data: bytes | bytearray, frames: int, wanted: Sequence[int], file: Path) -> list[bytes]:
    from pydicom.encaps import generate_frames

    found = dict(islice(enumerate(generate_frames(bytes(data), number_of_frames=frames)), max(wanted) + 1))
    if not set(wanted) <= set(found):
        raise SegflowError(f"{file} ends before its last frame", found=f"{len(found)} of {frames} frames")
    return [found[k] for k in wanted]


def _decoded(packed: Sequence[bytes], pixels: PixelType, syntax: str, file: Path) -> list[np.ndarray]:
    frame_bytes = pixels.rows * pixels.columns * pixels.allocated // 8
    step = max(1, AT_ONCE // max(1, frame_bytes))
    result: list[np.ndarray] = []
    for start in range(0, len(packed), step):
        part = packed[start : start + step]
        total = sum(map(len, part)) + frame_bytes * len(part)
        limits = Limits(START_SECONDS + total / BYTES_PER_SECOND, START_BYTES + COPIES * total)
        result += call_apart(_decode, (part, pixels, syntax, file), subject=str(file), limits=limits)
    return result


def _decode(packed: Sequence[bytes], pixels: PixelType, syntax: str, file: Path) -> list[np.ndarray]:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory(prefix="segflow-frame-") as folder:
        one = Path(folder, "frame.dcm")
        result = []
        for frame in packed:
            _write_frame(frame, pixels, syntax, one)
            try:
                values = sitk.GetArrayFromImage(sitk.ReadImage(str(one), imageIO="GDCMImageIO"))
            except RuntimeError as error:
                raise unreadable(file, reason_of(error)) from error
            if values.size != pixels.rows * pixels.columns:
                raise SegflowError(
                    f"the voxels of {file} are not those of its header",
                    found=values.shape,
                    expected=(pixels.rows, pixels.columns),
                )
            result.append(values.reshape(pixels.rows, pixels.columns).astype(pixels.dtype))
    return result


def _write_frame(frame: bytes, pixels: PixelType, syntax: str, file: Path) -> None:
    """A DICOM file of one frame, without rescaling, so that GDCM gives stored values."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID("2.25.1")
    what: dict[str, Any] = {
        "Rows": pixels.rows,
        "Columns": pixels.columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.allocated,
        "BitsStored": pixels.stored,
        "HighBit": pixels.high_bit,
        "PixelRepresentation": int(pixels.signed),
        "PixelData": encapsulate([frame]),
    }
    for name, value in what.items():
        setattr(made, name, value)
    made["PixelData"].is_undefined_length = True
    made.save_as(file, enforce_file_format=True)


def frame_values(pixels: PixelType, stored: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """For each frame (rows, columns) its stored values, and where they are padding (None: nowhere)."""
    for values in stored:
        if pixels.padding is None:
            yield values, None
            continue
        first, last = pixels.padding
        padded = (values >= first) & (values <= last)
        yield values, padded if padded.any() else None
