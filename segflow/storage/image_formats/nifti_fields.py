"""The fields of NIfTI headers, as the standard lists them.

nibabel knows them too, but takes longer to load than reading a small image does. It is loaded only where a placement is
to be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

LENGTHS = {1: 348, 2: 540}
"""Version → bytes of its header."""
SINGLE_FILE = {1: b"n+1", 2: b"n+2\0\r\n\x1a\n"}
"""Version → signature of a header whose voxels follow in the same file."""
DATA_START = {1: 352, 2: 544}
"""Version → byte at which voxels begin in files that are written here."""
LONGEST_AXIS = {1: 2**15 - 1, 2: 2**63 - 1}
OF_COMPONENTS = (1004, 1005, 1006, 1007)
"""Intent codes of matrices and vectors."""
MOST_AXES = 7

TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    32: "c8",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
    1792: "c16",
}
"""The standard's code of a type of voxels → numpy's."""
COLOURS = {128: "RGB", 2304: "RGBA"}

ByteOrder = Literal["<", ">"]
_Fields = list[tuple[str, str] | tuple[str, str, tuple[int, ...]]]

_PLACE: tuple[str, ...] = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_ROWS = ("srow_x", "srow_y", "srow_z")

_FIELDS: dict[int, _Fields] = {
    1: [
        *(("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"), ("session_error", "i2")),
        *(("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", (8,)), ("intent_p", "f4", (3,)), ("intent_code", "i2")),
        *(("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", (8,)), ("vox_offset", "f4")),
        *(("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1")),
        *(("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"), ("glmax", "i4")),
        *(("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"), ("sform_code", "i2")),
        *((name, "f4") for name in _PLACE),
        *((name, "f4", (4,)) for name in _ROWS),
        *(("intent_name", "S16"), ("magic", "S4")),
    ],
    2: [
        *(("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", (8,))),
        *(("intent_p", "f8", (3,)), ("pixdim", "f8", (8,)), ("vox_offset", "i8"), ("scl_slope", "f8")),
        *(("scl_inter", "f8"), ("cal_max", "f8"), ("cal_min", "f8"), ("slice_duration", "f8"), ("toffset", "f8")),
        *(("slice_start", "i8"), ("slice_end", "i8"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4")),
        ("sform_code", "i4"),
        *((name, "f8") for name in _PLACE),
        *((name, "f8", (4,)) for name in _ROWS),
        *(("slice_code", "i4"), ("xyzt_units", "i4"), ("intent_code", "i4"), ("intent_name", "S16")),
        *(("dim_info", "u1"), ("unused", "S15")),
    ],
}

Header = Any
"""Fields by their names: an array of one record, or a header of nibabel's."""

_ORDERS: dict[ByteOrder, Literal["little", "big"]] = {"<": "little", ">": "big"}
_LAYOUTS = {
    (version, order): np.dtype(_FIELDS[version]).newbyteorder(order) for version in _FIELDS for order in _ORDERS
}


def fields_of(start: bytes) -> tuple[Header, int, ByteOrder] | None:
    """The header at the start of a file: its fields, its version, and its byte order; None if there is none."""
    for version, length in LENGTHS.items():
        for order, name in _ORDERS.items():
            if start[:4] == length.to_bytes(4, name) and len(start) >= length:
                return np.frombuffer(start, _LAYOUTS[version, order], 1)[0], version, order
    return None


def new_fields(version: int, shape: Sequence[int], dtype: np.dtype) -> Header:
    """Fields of a new little-endian header, without placement.

    Args:
        version: 1 or 2.
        shape: Voxels along x, y, z, and further axes.
        dtype: Type of the voxels.

    Raises:
        ValueError: The standard has no such type or size.
    """
    code = next((code for code, name in TYPES.items() if dtype == np.dtype(name)), None)
    if code is None:
        raise ValueError(f"NIfTI has no type {dtype}")
    if len(shape) > MOST_AXES or max(shape) > LONGEST_AXIS[version]:
        raise ValueError(f"NIfTI-{version} has at most {MOST_AXES} axes of {LONGEST_AXIS[version]} voxels")
    header = np.zeros((), _LAYOUTS[version, "<"])
    header["sizeof_hdr"], header["magic"] = LENGTHS[version], SINGLE_FILE[version]
    header["datatype"], header["bitpix"] = code, 8 * dtype.itemsize
    header["dim"] = [len(shape), *shape, *[1] * (MOST_AXES - len(shape))]
    header["pixdim"], header["scl_slope"] = 1.0, 1.0
    header["vox_offset"] = DATA_START[version]
    return header
