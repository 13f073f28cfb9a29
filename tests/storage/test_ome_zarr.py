"""OME-Zarr images as other programs write them: read to the last value, and written so that they read them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.storage.file_stamps import is_same_file, stamp_file
from segflow.storage.images import choose_reader, reader_by_name, same_placement
from segflow.storage.label_map_files import copy_label_map, is_copied, remove_label_map
from segflow.storage.open_volumes import label_sink, map_sink, open_label_source, open_source

READER = reader_by_name("OMEZarrIO")
SCALES = {"t": 1.0, "c": 1.0, "z": 2.0, "y": 0.75, "x": 0.5}
STARTS = {"t": 0.0, "c": 0.0, "z": 30.0, "y": -20.0, "x": 10.0}


def described(axes: str, version: str, unit: str | None = "micrometer", **more: Any) -> dict[str, Any]:
    """The attributes of an image with these axes."""
    kinds = {"t": "time", "c": "channel"}
    entries = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for entry in entries:
        if unit and entry["type"] == "space":
            entry["unit"] = unit
    steps = [
        {"type": "scale", "scale": [SCALES[axis] for axis in axes]},
        {"type": "translation", "translation": [STARTS[axis] for axis in axes]},
    ]
    image = {"axes": entries, "datasets": [{"path": "s0", "coordinateTransformations": steps}], **more}
    if version == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [image]}}
    return {"multiscales": [{"version": "0.4", **image}]}


def saved(folder: Path, array: np.ndarray, axes: str = "zyx", version: str = "0.4", **options: Any) -> Path:
    """An image, written by zarr's own library."""
    attributes = options.pop("attributes", None) or described(axes, version)
    group = zarr.open_group(folder, mode="w", zarr_format=3 if version == "0.5" else 2, attributes=attributes)
    options.setdefault("chunks", tuple(min(n, 3) for n in array.shape))
    stored = group.create_array("s0", shape=array.shape, dtype=array.dtype, **options)
    stored[...] = array
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def arrived(values: np.ndarray, axes: str) -> np.ndarray:
    """The array as (C, Z, Y, X)."""
    order = [axes.index(axis) for axis in "tczyx" if axis in axes]
    turned = values.transpose(order)
    lengths = dict(zip([a for a in "tczyx" if a in axes], turned.shape, strict=True))
    return turned.reshape([lengths.get(axis, 1) for axis in "czyx"])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["zyx", "yx", "czyx", "tczyx", "xyz", "yxc", "zcxy", "tyx"])
def test_axes_in_any_order_become_channels_z_y_x(tmp_path: Path, axes: str, version: str) -> None:
    lengths = {"t": 1, "c": 2, "z": 4, "y": 5, "x": 7}
    rng = np.random.default_rng(1)
    array = rng.integers(0, 999, [lengths[axis] for axis in axes]).astype(np.uint16)
    file = saved(tmp_path / "a_0000.ome.zarr", array, axes, version)
    voxels, geometry = READER.read_image([file])
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, arrived(array, axes))
    flat = "z" not in axes
    np.testing.assert_allclose(geometry.spacing, (0.75e-3 * 999 if flat else 2e-3, 0.75e-3, 0.5e-3))
    header = READER.read_header(file)
    assert (header.channels, header.shape, header.geometry) == (voxels.shape[0], voxels.shape[1:], geometry)
    assert header.dtype == "uint16"
    json.dumps(geometry.header)
    shape = voxels.shape[1:]
    with open_source([file], READER) as source:
        assert (source.shape, source.geometry) == (voxels.shape, geometry)
        for box in [Box.whole(shape), *(Box((0, k, k), (shape[0], k + 2, k + 3)) for k in range(3))]:
            np.testing.assert_array_equal(source.read(box), voxels[(slice(None), *box.slices)])
    READER.write_label((voxels[0] % 5).astype(np.int16), geometry, tmp_path / "a.ome.zarr")
    label, own = READER.read_label(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(label, voxels[0] % 5)
    assert own == geometry
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    attributes = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    assert "image-label" in ome
    names = "".join(axis["name"] for axis in ome["multiscales"][0]["axes"])
    assert names == "".join(axis for axis in axes if axis in "zyx")
    np.testing.assert_array_equal(arrived(group["0"][...], names)[0], label)


V2_PACKINGS = [
    None,
    numcodecs.Zlib(1),
    numcodecs.GZip(1),
    numcodecs.Zstd(1),
    numcodecs.LZ4(),
    numcodecs.BZ2(1),
    numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
]
V3_PACKINGS: list[dict[str, Any]] = [
    {"compressors": None},
    {"compressors": GzipCodec(level=1)},
    {"compressors": ZstdCodec(level=1)},
    {"compressors": BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")},
    {"compressors": [ZstdCodec(level=1), Crc32cCodec()]},
    {"filters": TransposeCodec(order=(2, 0, 1)), "compressors": GzipCodec(level=1)},
    {"serializer": BytesCodec(endian="big"), "compressors": Crc32cCodec()},
    {"shards": (6, 6, 6), "compressors": BloscCodec()},
    {"shards": (6, 6, 9), "compressors": ZstdCodec()},
]


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "<f4", "f8", "?"])
def test_every_packing_of_version_2_is_read(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(2).integers(0, 2 if dtype == "?" else 100, (7, 8, 10)).astype(dtype)
    for packing, order, separator in zip(V2_PACKINGS, "CFCFCFCF", ".//..//.", strict=True):
        file = saved(
            tmp_path / "a.zarr",
            array,
            compressors=packing,
            order=order,
            chunk_key_encoding={"name": "v2", "separator": separator},
        )
        np.testing.assert_array_equal(READER.read_image([file])[0][0], array)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
def test_every_packing_of_version_3_is_read(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(3).integers(0, 100, (7, 8, 10)).astype(dtype)
    for packing in V3_PACKINGS:
        file = saved(tmp_path / "a.zarr", array, version="0.5", **packing)
        with open_source([file], READER) as source:
            np.testing.assert_array_equal(source.read(Box((2, 0, 5), (7, 8, 9)))[0], array[2:7, :, 5:9])
        np.testing.assert_array_equal(READER.read_image([file])[0][0], array)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_what_is_written_in_boxes_is_read_by_zarr(tmp_path: Path, version: str) -> None:
    rng = np.random.default_rng(4)
    image = saved(tmp_path / "a_0000.ome.zarr", np.ones((5, 6, 140), np.uint8), version=version)
    _, geometry = READER.read_image([image])
    values = rng.random((5, 6, 140), np.float32)
    label = rng.integers(0, 300, values.shape)
    halves = [Box((0, 0, 70), (5, 6, 140)), Box((0, 0, 0), (5, 6, 70))]
    for _ in range(2):  # the second takes the place of the first
        with map_sink(tmp_path / "map.ome.zarr", values.shape, geometry, READER) as sink:
            for box in halves:
                sink.write(box, values[box.slices])
        with label_sink(tmp_path / "label.ome.zarr", values.shape, geometry, READER, highest=300) as sink:
            for box in halves:
                sink.write(box, label[box.slices])
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "map.ome.zarr", mode="r")["0"][...], values)
    written = zarr.open_group(tmp_path / "label.ome.zarr", mode="r")["0"]
    assert written.dtype == np.uint16
    np.testing.assert_array_equal(written[...], label)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a_0000.ome.zarr", "label.ome.zarr", "map.ome.zarr"]
    with open_label_source(tmp_path / "label.ome.zarr", READER) as source:
        np.testing.assert_array_equal(source.read(halves[0]), label[halves[0].slices])


def test_an_image_of_another_format_gives_its_place_in_mm(tmp_path: Path) -> None:
    READER.write_label(np.ones((3, 4, 5), np.uint8), Geometry((2.0, 1.5, 1.0)), tmp_path / "a.ome.zarr")
    _, geometry = READER.read_label(tmp_path / "a.ome.zarr")
    assert geometry.spacing == (2.0, 1.5, 1.0)
    axes = zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs["multiscales"][0]["axes"]
    assert {axis["unit"] for axis in axes} == {"millimeter"}


def test_transformations_of_the_level_and_of_the_image_follow_one_another(tmp_path: Path) -> None:
    more = [{"type": "scale", "scale": [10.0, 10.0, 10.0]}, {"type": "translation", "translation": [1.0, 1.0, 1.0]}]
    attributes = described("zyx", "0.4", "millimeter", coordinateTransformations=more)
    file = saved(tmp_path / "a.zarr", np.zeros((3, 4, 5), "u1"), attributes=attributes, fill_value=7)
    header = READER.read_header(file)
    assert header.geometry.spacing == (20.0, 7.5, 5.0)
    assert header.geometry.header["origin"] == [101.0, -199.0, 301.0]
    other = READER.read_header(saved(tmp_path / "b.zarr", np.zeros((3, 4, 5), "u1")))
    assert not same_placement(header.geometry, other.geometry)


def test_lengths_without_a_unit_are_in_mm_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(tmp_path / "a.zarr", np.ones((3, 4, 5), "u1"), attributes=described("zyx", "0.4", None))
    assert READER.read_image([file])[1].spacing == (2.0, 0.75, 0.5)
    READER.read_header(file)
    assert caplog.text.count("gives no unit") == 1


# --- what is refused ----------------------------------------------------------------------------------------------


def of_image(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / ".zattrs", lambda content: content["multiscales"][0].update({key: value}))


def of_array(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "s0" / ".zarray", lambda content: content.update({key: value}))


def one_axis(key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(
        folder / ".zattrs", lambda content: content["multiscales"][0]["axes"][0].update({key: value})
    )


BAD = {
    "no multiscales": (lambda folder: (folder / ".zattrs").write_text("{}"), "describes no image"),
    "an array alone": (lambda folder: (folder / ".zattrs").unlink(), "is not an OME-Zarr image"),
    "no JSON": (lambda folder: (folder / ".zattrs").write_text("{"), "not valid JSON"),
    "no axes": (of_image("axes", None), "axes cannot be read"),
    "old axes": (of_image("axes", ["z", "y", "x"]), "axes cannot be read"),
    "another axis": (one_axis("name", "phase"), "axes are unknown; found phase y x"),
    "an axis twice": (one_axis("name", "x"), "axes are unknown; found x y x"),
    "another unit": (one_axis("unit", "parsec"), "unit of length is unknown; found parsec"),
    "no spacing": (of_image("datasets", [{"path": "s0"}]), "gives no spacing"),
    "no levels": (of_image("datasets", []), "cannot be used"),
    "another level": (
        of_image("datasets", [{"path": "../b", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}]),
        "lies elsewhere",
    ),
    "a level of a long name": (
        of_image("datasets", [{"path": "9" * 999, "coordinateTransformations": [{"type": "scale", "scale": [1] * 3}]}]),
        "a part of its path is longer than",
    ),
    "a list of levels": (
        of_image("datasets", [{"path": [1, 2], "coordinateTransformations": [{"type": "scale", "scale": [1] * 3}]}]),
        "no text|there is no",
    ),
    "zero spacing": (
        of_image("datasets", [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [0, 1, 1]}]}]),
        "zero, negative",
    ),
    "two numbers": (
        of_image("datasets", [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}]),
        "coordinateTransformations cannot be used",
    ),
    "no array": (lambda folder: shutil.rmtree(folder / "s0"), "there is no"),
    "objects": (of_array("dtype", "|O"), r"its type cannot be read; found \|O"),
    "texts": (of_array("dtype", "<U8"), "its type cannot be read"),
    "fields": (of_array("dtype", [["a", "<i4"]]), "its type cannot be read"),
    "pickles": (of_array("filters", [{"id": "pickle", "protocol": 5}]), "its filter cannot be read; found pickle"),
    "another packing": (of_array("compressor", {"id": "own.module"}), "its packing cannot be read; found own.module"),
    "another shape": (of_array("shape", [4, 5]), "impossible|number of axes"),
    "no size": (of_array("shape", [4, 5, 0]), "impossible"),
    "more voxels than 64 bits count": (of_array("shape", [1 << 30, 1 << 30, 16]), "more voxels than memory"),
    "endless": (of_array("chunks", [1 << 20] * 3), "more voxels than memory"),
    "a truncated chunk": (lambda folder: cut(folder / "s0" / "0.0.0"), r"cannot read the chunk .*0\.0\.0"),
    "an empty chunk": (lambda folder: (folder / "s0" / "0.0.0").write_bytes(b""), r"cannot read the chunk .*0\.0\.0"),
    "a folder in place": (
        lambda folder: ((folder / "s0" / "0.0.0").unlink(), (folder / "s0" / "0.0.0").mkdir()),
        "a folder",
    ),
    "a pipe": (lambda folder: ((folder / "s0" / "0.0.0").unlink(), os.mkfifo(folder / "s0" / "0.0.0")), "a pipe"),
}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named(tmp_path: Path, kind: str) -> None:
    harm, words = BAD[kind]
    array = np.random.default_rng(5).integers(0, 99, (4, 5, 6)).astype("u2")
    harm(saved(tmp_path / "bad.ome.zarr", array))
    with pytest.raises(SegflowError, match=words) as caught:
        READER.read_image([tmp_path / "bad.ome.zarr"])
    assert "bad.ome.zarr" in str(caught.value)


V3_PACKED = [*V3_PACKINGS[1:5], *V3_PACKINGS[6:]]


@pytest.mark.parametrize("packing", [*V2_PACKINGS, *V3_PACKED])
def test_every_truncated_chunk_is_refused(tmp_path: Path, packing: Any) -> None:
    array = np.random.default_rng(6).integers(0, 9999, (6, 6, 9)).astype("u4")
    options = packing if isinstance(packing, dict) else {"compressors": packing}
    version = "0.5" if isinstance(packing, dict) else "0.4"
    file = saved(tmp_path / "a.zarr", array, version=version, **options)
    chunk = next(path for path in file.rglob("*") if path.is_file() and path.suffix != ".json" and path.name[0] != ".")
    content = chunk.read_bytes()
    for length in (0, 3, len(content) // 2, len(content) - 1):
        chunk.write_bytes(content[:length])
        with pytest.raises(SegflowError, match="cannot read the chunk"):
            READER.read_image([file])


def test_chunks_that_hold_more_than_they_may_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    for name, packing in (("zlib", numcodecs.Zlib()), ("zstd", numcodecs.Zstd()), ("blosc", numcodecs.Blosc())):
        file = saved(tmp_path / f"{name}.zarr", np.ones((3, 3, 3), "u1"), compressors=packing)
        (file / "s0" / "0.0.0").write_bytes(packing.encode(np.zeros(1 << 24, "u1")))
        with pytest.raises(SegflowError, match="cannot read the chunk"):
            READER.read_image([file])


def test_missing_chunks_of_an_image_are_counted_and_all_missing_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.ones((6, 6, 6), "u2")
    file = saved(tmp_path / "a.zarr", array, fill_value=5)
    (file / "s0" / "1.0.1").unlink()
    expected = array.copy()
    expected[3:, :3, 3:] = 5
    np.testing.assert_array_equal(READER.read_image([file])[0][0], expected)
    assert "1 of 8 chunks are missing and read as 5" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(READER.read_label(file)[0], expected)  # label maps often lack empty chunks
    assert not caplog.text
    edit(file / "s0" / ".zarray", lambda content: content.update({"fill_value": None}))
    for read in (lambda: READER.read_image([file]), lambda: READER.read_label(file)):
        with pytest.raises(SegflowError, match=r"a\.zarr lacks chunks, and has no value .* found 1 of 8"):
            read()
    empty = saved(tmp_path / "b.zarr", np.zeros((6, 6, 6), "u2"), version="0.5")
    with pytest.raises(SegflowError, match=r"b\.zarr lacks chunks: it has none at all"):
        READER.read_image([empty])
    assert not READER.read_label(empty)[0].any()


def test_a_series_a_file_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="a series of images; found 2 points of time"):
        READER.read_image([saved(tmp_path / "a.zarr", np.ones((2, 3, 4), "u1"), "tyx")])
    (tmp_path / "b.zarr").write_text("text")
    with pytest.raises(SegflowError, match=r"b\.zarr; found a file; expected a folder"):
        READER.read_header(tmp_path / "b.zarr")
    with pytest.raises(SegflowError, match=r"there is no file .*c\.zarr"):
        READER.read_image([tmp_path / "c.zarr"])


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = saved(tmp_path / "a.zarr", np.ones((3, 3, 3), "u1"), version="0.5", compressors=ZstdCodec())
    monkeypatch.setitem(__import__("sys").modules, "numcodecs", None)
    with pytest.raises(SegflowError, match=r"needs the package numcodecs. pip install 'segflow\[zarr\]'"):
        READER.read_image([file])


# --- folders as files ---------------------------------------------------------------------------------------------


def test_a_folder_is_stamped_copied_and_removed_like_a_file(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.ome.zarr", np.arange(27, dtype="u1").reshape(3, 3, 3) + 1)
    stamp = stamp_file(file)
    assert is_same_file(file, stamp)
    copy_label_map(file, tmp_path / "there" / "a.ome.zarr")
    assert is_copied(file, tmp_path / "there" / "a.ome.zarr")
    assert stamp_file(tmp_path / "there" / "a.ome.zarr")["digest"] == stamp["digest"]
    chunk = file / "s0" / "0.0.0"
    content, status = bytearray(chunk.read_bytes()), chunk.stat()
    content[0] ^= 1
    chunk.write_bytes(content)
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not is_same_file(file, stamp)
    chunk.rename(chunk.with_name("0.0.1"))
    assert not is_copied(file, tmp_path / "there" / "a.ome.zarr")
    remove_label_map(file)
    assert not list(tmp_path.glob("*.zarr"))


def test_the_reader_is_chosen_by_either_ending(tmp_path: Path) -> None:
    for ending in (".ome.zarr", ".zarr"):
        file = saved(tmp_path / f"a{ending}", np.ones((3, 3, 3), "u1"))
        assert choose_reader(ending, file).name == "OMEZarrIO"
    assert next(itertools.islice(READER.endings, 1)) == ".ome.zarr"
