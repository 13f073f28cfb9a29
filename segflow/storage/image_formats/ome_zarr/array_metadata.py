"""The metadata of a Zarr array, of version 2 or 3: how its chunks are named, ordered and packed.

Everything is checked before a chunk is read: data types by name, packings by name, and the size of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.ome_zarr.packings import SUM_BYTES, UNPACKERS
from segflow.storage.json_files import read_json_as
from segflow.storage.regular_files import check_voxel_bytes

V2_FILE, V3_FILE = ".zarray", "zarr.json"
MOST_AXES = 5
KINDS = "biuf"
V3_TYPES = frozenset(
    {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
)
NAN = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
ABSENT = 2**64 - 1
"""Place, in the table of a shard, of a chunk that is not stored."""


@dataclass(frozen=True, slots=True)
class Chain:
    """From the bytes of a chunk to its values.

    Attributes:
        dtype: Stored type, byte order included.
        order: Axes of the array in the order in which they are stored.
        packings: Names of the packings, in the order in which they were applied.
    """

    dtype: np.dtype
    order: tuple[int, ...]
    packings: tuple[str, ...]

    def decode(self, content: bytes, shape: Sequence[int]) -> np.ndarray:
        """The values of a chunk, of any shape.

        Raises:
            SegflowError: A package is missing.
            Exception: The chunk is damaged.
        """
        expected = math.prod(shape) * self.dtype.itemsize
        sums = sum(name == "crc32c" for name in self.packings)
        for name in reversed(self.packings):
            sums -= name == "crc32c"
            content = UNPACKERS[name](content, expected + SUM_BYTES * sums)
        if len(content) != expected:
            raise ValueError(f"it holds {len(content)} bytes in place of {expected}")
        stored = np.frombuffer(content, self.dtype).reshape([shape[axis] for axis in self.order])
        return stored.transpose(np.argsort(self.order))


@dataclass(frozen=True, slots=True)
class Shards:
    """Files that hold several chunks each, with a table of their places.

    Attributes:
        shape: Voxels of a file along each axis.
        table: From bytes to the table.
        table_first: Whether the table stands at the beginning of a file.
    """

    shape: tuple[int, ...]
    table: Chain
    table_first: bool


@dataclass(frozen=True, slots=True)
class ArrayMetadata:
    """How an array is stored.

    Attributes:
        shape: Voxels along each axis.
        chunk: Voxels of a chunk along each axis.
        chain: How a chunk is stored.
        fill: Value of chunks that are not stored; None if it is not defined.
        key: Start of the names of chunks.
        separator: Between the numbers in the names of chunks.
        shards: None if each chunk is a file.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    chain: Chain
    fill: Any
    key: str
    separator: str
    shards: Shards | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type of the values, in the machine's byte order."""
        return self.chain.dtype.newbyteorder("=")

    @property
    def file_shape(self) -> tuple[int, ...]:
        """Voxels of a file along each axis."""
        return self.chunk if self.shards is None else self.shards.shape

    @property
    def files(self) -> tuple[int, ...]:
        """Number of files along each axis."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.file_shape, strict=True))


def read_array_metadata(folder: Path) -> ArrayMetadata:
    """Read the metadata of an array.

    Raises:
        SegflowError: There is none, or it cannot be used: a type that images do not have, an unknown packing, a chunk
            that is larger than memory. The error names the file.
    """
    if (folder / V3_FILE).exists():
        found = read_json_as(folder / V3_FILE, _of_v3)
    else:
        fix = "Was the array copied completely?"
        found = read_json_as(folder / V2_FILE, _of_v2, fix)
    check_voxel_bytes(math.prod(found.chunk) * found.dtype.itemsize, folder)
    return found


def _of_v2(value: Any) -> ArrayMetadata:
    shape, chunk = _numbers(value["shape"]), _numbers(value["chunks"])
    if value["zarr_format"] != 2:
        raise _unknown("version", value["zarr_format"], "2 or 3")
    if value.get("filters"):
        raise _unknown("filter", _names(value["filters"], "id"), "no filters")
    if not isinstance(value["dtype"], str):
        raise _unknown("type", value["dtype"], "numbers")
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in KINDS:
        raise _unknown("type", value["dtype"], "numbers")
    packing = value.get("compressor")
    packings = () if packing is None else _known([packing["id"]])
    axes = tuple(range(len(shape)))
    chain = Chain(dtype, axes[::-1] if value.get("order", "C") == "F" else axes, packings)
    separator = _separator(value.get("dimension_separator", "."))
    return _checked(ArrayMetadata(shape, chunk, chain, _fill(value.get("fill_value"), dtype), "", separator))


def _of_v3(value: Any) -> ArrayMetadata:
    if (value["zarr_format"], value["node_type"]) != (3, "array"):
        raise SegflowError("it is no Zarr array", found=f"version {value['zarr_format']}, {value['node_type']}")
    if value["data_type"] not in V3_TYPES:
        raise _unknown("type", value["data_type"], "numbers")
    if value["chunk_grid"]["name"] != "regular":
        raise _unknown("kind of chunks", value["chunk_grid"]["name"], "regular")
    if value.get("storage_transformers"):
        raise _unknown("storage transformer", _names(value["storage_transformers"], "name"), "none")
    shape, outer = _numbers(value["shape"]), _numbers(value["chunk_grid"]["configuration"]["chunk_shape"])
    naming = value["chunk_key_encoding"]
    if naming["name"] not in ("default", "v2"):
        raise _unknown("naming of chunks", naming["name"], "default or v2")
    is_default = naming["name"] == "default"
    separator = _separator(naming.get("configuration", {}).get("separator", "/" if is_default else "."))
    dtype, codecs = np.dtype(value["data_type"]), list(value["codecs"])
    fill, key = _fill(value["fill_value"], dtype), "c" if is_default else ""
    if codecs[0]["name"] != "sharding_indexed":
        return _checked(ArrayMetadata(shape, outer, _chain(codecs, dtype, len(shape)), fill, key, separator))
    if len(codecs) != 1:
        raise _unknown("packing", _names(codecs, "name"), "shards alone")
    inner = codecs[0]["configuration"]
    chunk = _numbers(inner["chunk_shape"])
    table = _chain(list(inner["index_codecs"]), np.dtype(np.uint64), len(shape) + 1)
    if set(table.packings) - {"crc32c"}:  # its length must be known before it is read
        raise _unknown("packing of a shard's table", table.packings, "bytes and crc32c")
    shards = Shards(outer, table, inner.get("index_location", "end") == "start")
    chain = _chain(list(inner["codecs"]), dtype, len(shape))
    return _checked(ArrayMetadata(shape, chunk, chain, fill, key, separator, shards))


def _chain(codecs: list[Any], dtype: np.dtype, axes: int) -> Chain:
    order = tuple(range(axes))
    while codecs and codecs[0]["name"] == "transpose":
        step = tuple(codecs.pop(0)["configuration"]["order"])
        if sorted(step) != list(range(axes)):
            raise _unknown("order of axes", step, f"a permutation of {axes} axes")
        order = tuple(order[axis] for axis in step)
    if not codecs or codecs[0]["name"] != "bytes":
        raise _unknown("packing", _names(codecs, "name"), "bytes first")
    endian = codecs.pop(0).get("configuration", {}).get("endian", "little")
    if endian not in ("little", "big"):
        raise _unknown("byte order", endian, "little or big")
    return Chain(dtype.newbyteorder("<" if endian == "little" else ">"), order, _known([c["name"] for c in codecs]))


def _known(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in UNPACKERS:
            raise _unknown("packing", name, " | ".join(UNPACKERS))
    if len([name for name in names if name != "crc32c"]) > 1:
        raise _unknown("packing", names, "one packing")
    return tuple(names)


def _checked(found: ArrayMetadata) -> ArrayMetadata:
    axes = len(found.shape)
    lengths = {len(found.chunk), len(found.file_shape), axes}
    if lengths != {axes} or not 1 <= axes <= MOST_AXES or min(*found.shape, *found.chunk, *found.file_shape) < 1:
        raise SegflowError(
            "its shape is impossible", found=f"shape {found.shape}, chunks {found.chunk}", expected="2 to 5 axes"
        )
    if any(outer % inner for outer, inner in zip(found.file_shape, found.chunk, strict=True)):
        raise SegflowError("its shards do not hold whole chunks", found=f"{found.file_shape} of {found.chunk}")
    return found


def _fill(value: Any, dtype: np.dtype) -> Any:
    if value is None:
        return None
    if isinstance(value, str) and value.startswith("0x") and dtype.kind == "f":
        return np.array(int(value, 16), f"u{dtype.itemsize}").view(f"f{dtype.itemsize}")[()]
    return dtype.newbyteorder("=").type(NAN.get(value, value) if isinstance(value, str) else value)


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and 0 < n < 2**48 for n in values):
        raise SegflowError("its shape is impossible", found=values, expected="whole numbers above 0")
    return tuple(values)


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise _unknown("separator", value, "'.' or '/'")
    return str(value)


def _names(entries: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(str(entry.get(key)) for entry in entries) or "none"


def _unknown(what: str, found: object, expected: str) -> SegflowError:
    return SegflowError(
        f"its {what} cannot be read", found=found, expected=expected, fix="Write the image again with another."
    )
