"""NIfTI voxels to and from disk.

ITK silently fills a truncated NIfTI with zeros. Voxels are therefore decoded here, gzip with ISA-L, while ITK and
nibabel only compute placements.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import igzip, isal_zlib

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import RESAVE, ImageHeader, check_affine, check_spacing, unreadable
from segflow.storage.image_formats.inflate import (
    DAMAGE,
    GZIP_MAGIC,
    GZIP_WINDOW,
    MOST_TIMES,
    STEP_BYTES,
    inflate,
    truncated,
)
from segflow.storage.image_formats.nifti_fields import (
    COLOURS,
    DATA_START,
    LENGTHS,
    MOST_AXES,
    OF_COMPONENTS,
    SINGLE_FILE,
    TYPES,
    ByteOrder,
    Header,
    fields_of,
    new_fields,
)
from segflow.storage.image_formats.nifti_forms import KEY, NiftiForms, give_hand
from segflow.storage.image_formats.placement import FLAT_SPACING_FACTOR, is_sheared, upright
from segflow.storage.json_files import written_whole
from segflow.storage.regular_files import check_voxel_bytes, open_regular

NIFTI_ENDINGS = (".nii", ".nii.gz")
HEADER_BYTES = 540
"""Bytes to read for a header: enough for NIfTI-1 (348) and NIfTI-2 (540)."""
FAST_LEVEL = 2
MOST_OFFSET = 256 << 20
"""Highest byte at which voxels may begin; texts (extensions) may lie between header and voxels."""
PIECE_BYTES = 4096
FLOAT32_STEP = 2.0**-22
"""Relative error of a scaled value, since slope and intercept are float32."""


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """The parts of a NIfTI header that arrays need.

    Attributes:
        size: Voxels along x, y, z, then further axes.
        zooms: mm along x, y, z (fewer in a 2D file).
        affine: float64 (4, 4), index (x, y, z) → RAS+ mm, sform before qform.
        forms: The header's own numbers for the grid's placement, in its own unit. Files written for this image repeat
            them.
        dtype: Stored type, byte order included.
        offset: Byte at which the voxels begin.
        slope, intercept: Scaling of stored values, or None.
        is_plain: Whether header and voxels lie in one file, and its voxels are not vectors or matrices.
    """

    size: tuple[int, ...]
    zooms: tuple[float, ...]
    affine: np.ndarray
    forms: NiftiForms
    dtype: np.dtype
    offset: int
    slope: float | None
    intercept: float | None
    is_plain: bool

    @property
    def is_scaled(self) -> bool:
        """Whether values differ from the stored numbers."""
        return None not in (self.slope, self.intercept) and (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def end(self) -> int:
        """Byte behind the last voxel."""
        return self.offset + math.prod(self.size) * self.dtype.itemsize


def is_nifti(file: Path) -> bool:
    """Whether a file's name ends as those of NIfTI do."""
    return file.name.lower().endswith(NIFTI_ENDINGS)


def read_nifti_header(file: Path) -> NiftiHeader:
    """Read a NIfTI-1 or NIfTI-2 header.

    Raises:
        SegflowError: The file is missing, damaged, not NIfTI, or has an impossible spacing.
    """
    with open_regular(file) as stream:
        return header_of(stream, file)


def header_of(stream: BinaryIO, file: Path) -> NiftiHeader:
    """The header of an open file, read from its first byte on; see `read_nifti_header`."""
    header = _parse(_start_of(stream, file), file)
    try:
        check_voxel_bytes(header.end, file)
    except SegflowError:  # it may be read box by box, if its voxels are there
        there = os.fstat(stream.fileno()).st_size
        if there * (MOST_TIMES if is_packed(file) else 1) < header.end:
            raise
    return header


def read_nifti(file: Path) -> tuple[NiftiHeader, np.ndarray]:
    """Read a whole NIfTI file.

    Returns:
        The header, and the voxels with all axes reversed, (…, Z, Y, X), of the stored type, or float32 where the header
        scales them.

    Raises:
        SegflowError: The file is missing, truncated, damaged, or of a type that images do not have.
    """
    return _read(file, lambda header: np.dtype(np.float32) if header.is_scaled else header.dtype)


def read_nifti_as_float(file: Path) -> tuple[NiftiHeader, np.ndarray]:
    """Read a whole NIfTI file. Its stored voxels are never whole in memory.

    Returns:
        Header and voxels (…, Z, Y, X) as `read_nifti`, float32.

    Raises:
        SegflowError: As `read_nifti`.
    """
    return _read(file, lambda _: np.dtype(np.float32))


def read_nifti_labels(file: Path) -> tuple[NiftiHeader, np.ndarray]:
    """Read a whole NIfTI file that holds labels.

    Returns:
        Header and voxels (…, Z, Y, X) as `read_nifti`, but scaled values are int64. They are rounded where they differ
        from whole numbers by less than a step of the scaling. nibabel, for example, stores float64 labels 0…4 as int16
        with a slope of 4/65535.

    Raises:
        SegflowError: As `read_nifti`, or scaled values are not whole numbers.
    """
    header, stored = _read(file, lambda header: header.dtype, scale=False)
    return header, whole_numbers(header, stored, file) if header.is_scaled else stored


def scaled(header: NiftiHeader, stored: np.ndarray) -> np.ndarray:
    """The values, float64 or as numpy promotes them, that stored numbers of any shape stand for."""
    return np.asarray(stored * np.float64(header.slope or 1.0) + (header.intercept or 0.0))


def whole_numbers(header: NiftiHeader, stored: np.ndarray, file: Path) -> np.ndarray:
    """The labels that stored numbers (…, Z, Y, X) stand for, int64.

    Raises:
        SegflowError: They are not whole numbers; see `read_nifti_labels`.
    """
    step = abs(header.slope or 0.0) if stored.dtype.kind in "iu" else 0.0
    # With a step as large as their distance, two labels could be stored as one number. Then nothing is rounded.
    rounded = 0.5 * step if step < 1 else 0.0
    result = np.empty(stored.shape, dtype=np.int64)
    first, count = None, 0
    for plane in np.ndindex(stored.shape[:-2]):  # all at once would take many times the file's size as float64
        with np.errstate(all="ignore"):  # infinite and NaN values are refused below
            values = scaled(header, stored[plane])
            whole = np.rint(values)
            right = np.abs(values - whole) <= rounded + FLOAT32_STEP * np.abs(values)
            result[plane] = whole
        if not right.all():
            first = float(values[~right][0]) if first is None else first
            count += int((~right).sum())
    if first is not None:
        raise SegflowError(
            f"the label map {file.name} holds scaled values that are not whole numbers",
            found=f"{first:.7g}, in {count} voxels in all, "
            f"by slope {header.slope:.7g} and intercept {header.intercept:.7g}",
            expected="whole numbers, or what a slope below 1 leaves of them",
            fix="Save it as integers without slope. Was it resampled? Use nearest neighbour for labels.",
        )
    return result


def _read(
    file: Path, type_of: Callable[[NiftiHeader], np.dtype], *, scale: bool = True
) -> tuple[NiftiHeader, np.ndarray]:
    """Header and voxels (…, Z, Y, X) of a file.

    Args:
        file: The file.
        type_of: The type of the result.
        scale: Whether the header's scaling is applied.
    """
    with open_regular(file) as stream:
        header = _parse(_start_of(stream, file), file)
        check_voxel_bytes(header.end, file)
        values = np.empty(math.prod(header.size), type_of(header))
        place = 0
        try:
            for stored in _numbers(stream, header, file):
                part = scaled(header, stored) if scale and header.is_scaled else stored
                values[place : place + len(part)] = part
                place += len(part)
        except OSError as error:
            raise unreadable(file, error) from error
    return header, values.reshape(header.size[::-1])


def _numbers(stream: BinaryIO, header: NiftiHeader, file: Path) -> Iterator[np.ndarray]:
    """The stored numbers of all voxels in their order, a piece (n,) at a time."""
    skip, rest = header.offset, b""
    for piece in _content(stream, header.end, file):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        piece, skip = rest + piece[skip:], 0
        count = len(piece) // header.dtype.itemsize
        yield np.frombuffer(piece, header.dtype, count)
        rest = piece[count * header.dtype.itemsize :]


def _content(stream: BinaryIO, expected: int, file: Path) -> Iterator[bytes]:
    """The first bytes of a file, unpacked, a piece at a time."""
    if holds_packed(stream, expected, file):
        yield from inflate(stream, expected, file)
        return
    while expected:
        piece = stream.read(min(expected, STEP_BYTES))
        if not piece:  # it became shorter meanwhile
            raise truncated(file, f"{expected} bytes too few", "its size when it was opened")
        yield piece
        expected -= len(piece)


def holds_packed(stream: BinaryIO, expected: int, file: Path) -> bool:
    """Whether an open file is packed with gzip. Its next byte is the first one then.

    Args:
        stream: The file.
        expected: Bytes that its header announces.
        file: Its name, for messages.

    Raises:
        SegflowError: It is too short for them.
    """
    there = os.fstat(stream.fileno()).st_size
    stream.seek(0)
    packed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    stream.seek(0)
    if packed and there * MOST_TIMES < expected:
        raise truncated(file, f"{there} packed bytes", f"{expected} bytes when unpacked")
    if not packed and there < expected:
        raise truncated(file, f"{there} bytes", f"{expected} bytes")
    return packed


def header_by_affine(nifti: NiftiHeader, file: Path) -> ImageHeader:
    """The header of an image by nibabel's rules: the affine as it is; a plane gets z = 1.

    Raises:
        SegflowError: The affine is not a placement in the patient. The error names the file.
    """
    ndim = min(len(nifti.size), 3)
    check_affine(nifti.affine if ndim == 3 else upright(nifti.affine), file)
    x, y, z = (*nifti.zooms, max(nifti.zooms) * FLAT_SPACING_FACTOR)[:3]
    header = {"ndim": ndim, "affine": nifti.affine.tolist(), KEY: nifti.forms.to_json()}
    shape = (*nifti.size, 1)[:3]
    return ImageHeader(
        (shape[2], shape[1], shape[0]),
        math.prod(nifti.size[3:]),
        Geometry((z, y, x), header),
        nifti.dtype.name,
    )


def write_nifti(
    voxels: np.ndarray, affine: np.ndarray, spacing: Sequence[float], file: Path, forms: NiftiForms | None = None
) -> None:
    """Write a NIfTI file as a whole or not at all, with gzip if its name ends in .gz.

    Args:
        voxels: (…, Z, Y, X) or (Y, X).
        affine: (4, 4), index (x, y, z) → RAS+ mm. Stored as sform, and as qform if it has no shear.
        spacing: mm along x, y (, z).
        file: Ends in .nii or .nii.gz.
        forms: Forms of the NIfTI that the voxels' grid comes from. They are stored instead of ``affine`` and
            ``spacing``, in a file of the same version.

    Raises:
        SegflowError: The file cannot be written.
    """
    voxels = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    start = start_bytes(voxels.shape, voxels.dtype, affine, spacing, file, forms)
    data = np.ascontiguousarray(voxels).data.cast("B")
    with written_whole(file, needed=data.nbytes) as temporary, temporary.open("wb") as stream:
        if is_packed(file):
            with igzip.IGzipFile("", "wb", FAST_LEVEL, fileobj=stream, mtime=0) as zipped:
                zipped.write(start)
                zipped.write(data)
        else:
            stream.write(start)
            stream.write(data)


def is_packed(file: Path) -> bool:
    """Whether a file of this name is written with gzip."""
    return file.name.lower().endswith(".gz")


def start_bytes(
    shape: Sequence[int],
    dtype: np.dtype,
    affine: np.ndarray,
    spacing: Sequence[float],
    file: Path,
    forms: NiftiForms | None = None,
) -> bytes:
    """The bytes of a NIfTI file before its voxels.

    Args:
        shape: Voxels along (…, z, y, x).
        dtype: Little-endian type of the voxels.
        affine, file, forms: See `write_nifti`.
        spacing: mm along x, y (, z).

    Raises:
        SegflowError: NIfTI has no such type or size.
    """
    forms = forms or _new_forms(affine, spacing)
    try:
        header = new_fields(forms.version, tuple(shape)[::-1], dtype)
    except ValueError as error:
        raise SegflowError(f"cannot write {file}: {error}", found=f"{dtype} {tuple(shape)}") from error
    forms.write_to(header)
    return bytes(header.tobytes().ljust(DATA_START[forms.version], b"\0"))


def _new_forms(affine: np.ndarray, spacing: Sequence[float]) -> NiftiForms:
    """Forms of a new header, in mm."""
    from nibabel import Nifti1Header

    header = Nifti1Header(endianness="<")
    if not is_sheared(Geometry((1.0, 1.0, 1.0), {"affine": affine})):
        header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header["pixdim"][1 : 1 + len(spacing)] = spacing
    header.set_xyzt_units("mm")
    return NiftiForms.of(header)


def _start_of(stream: BinaryIO, file: Path) -> bytes:
    """The first bytes of a file, unpacked: enough for its header, or all of a shorter file."""
    try:
        start = stream.read(PIECE_BYTES)
        if start[: len(GZIP_MAGIC)] != GZIP_MAGIC:
            return start[:HEADER_BYTES]
        unpacker = isal_zlib.decompressobj(GZIP_WINDOW)
        unpacked = unpacker.decompress(start, HEADER_BYTES)
        while len(unpacked) < HEADER_BYTES and not unpacker.eof and (start := stream.read(PIECE_BYTES)):
            unpacked += unpacker.decompress(start, HEADER_BYTES - len(unpacked))
    except DAMAGE as error:
        raise unreadable(file, error) from error
    return unpacked


def _parse(start: bytes, file: Path) -> NiftiHeader:
    found = fields_of(start)
    if found is None:
        raise SegflowError(f"cannot read {file}: it is not a NIfTI file", found=f"{len(start)} bytes", fix=RESAVE)
    header, version, order = found
    axes = int(header["dim"][0])
    if not 2 <= axes <= MOST_AXES or min(header["dim"][1 : 1 + axes]) < 1:
        raise SegflowError(
            f"{file} is not an image",
            found=f"{axes} axes, size {header['dim'][1:].tolist()}",
            expected="2, 3 or 4 axes",
            fix=RESAVE,
        )
    forms = NiftiForms.of(header)
    size = tuple(int(n) for n in header["dim"][1 : 1 + axes])
    dtype = _type_of(header, order, file)
    slope, intercept = _scaling_of(header, file)
    affine = _affine_of(start, version, forms, file)
    spatial = min(len(size), 3)
    zooms = tuple(float(forms.in_mm(length)) for length in forms.pixdim[1 : 1 + spatial])
    check_spacing(zooms, file)
    start_of_voxels = float(header["vox_offset"])
    if not 0 <= start_of_voxels <= MOST_OFFSET:
        raise SegflowError(
            f"cannot read {file}: its voxels begin at an impossible byte",
            found=f"vox_offset {start_of_voxels:g}",
            expected=f"0 to {MOST_OFFSET}",
            fix=RESAVE,
        )
    offset = max(int(start_of_voxels), LENGTHS[version])  # some writers leave 0 here
    is_plain = header["magic"].item() == SINGLE_FILE[version] and int(header["intent_code"]) not in OF_COMPONENTS
    return NiftiHeader(size, zooms, affine, forms, dtype, offset, slope, intercept, is_plain)


def _type_of(header: Header, order: ByteOrder, file: Path) -> np.dtype:
    """Stored type of the voxels."""
    code = int(header["datatype"])
    name = COLOURS.get(code) or TYPES.get(code)
    if name is None:
        raise unreadable(file, f"NIfTI's code {code} of a type of voxels is unknown")
    if code in COLOURS or name.startswith("c"):
        raise SegflowError(
            f"{file.name} holds colours or complex numbers", found=name, expected="one real number per voxel"
        )
    return np.dtype(name).newbyteorder(order)


def _scaling_of(header: Header, file: Path) -> tuple[float | None, float | None]:
    """Slope and intercept, both None if the header has no valid slope."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        return None, None
    if not math.isfinite(intercept):
        raise unreadable(file, f"its values are scaled with an intercept of {intercept}")
    return slope, intercept


def _affine_of(start: bytes, version: int, forms: NiftiForms, file: Path) -> np.ndarray:
    """float64 (4, 4), index (x, y, z) → RAS+ mm by nibabel's rules."""
    if forms.sform_code != 0:
        return forms.affine_in_mm(np.array([*forms.rows, (0.0, 0.0, 0.0, 1.0)]))
    import nibabel  # slow to load
    from nibabel.spatialimages import HeaderDataError

    kind = nibabel.Nifti2Header if version == 2 else nibabel.Nifti1Header
    header = kind(start[: LENGTHS[version]], check=False)  # type: ignore[no-untyped-call]
    give_hand(header)
    try:
        return forms.affine_in_mm(header.get_best_affine())
    except (HeaderDataError, ValueError) as error:
        raise unreadable(file, error) from error
