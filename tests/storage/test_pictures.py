"""What the pixels of pictures mean, as images and as label maps."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from segflow.core.errors import SegflowError
from segflow.storage.images import choose_reader, reader_by_name

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (6, 7, 4), dtype=np.uint16)
LABEL = np.arange(42, dtype=np.uint8).reshape(6, 7) % 4


def read(file: Path) -> np.ndarray:
    """(C, Y, X), after the header has said the same of channels and type."""
    reader = reader_by_name("NaturalImage2DIO")
    voxels, _ = reader.read_image([file])
    header = reader.read_header(file)
    assert (header.channels, 1, *header.shape[1:]) == voxels.shape
    return voxels[:, 0]


def labels(file: Path) -> np.ndarray:
    return reader_by_name("NaturalImage2DIO").read_label(file)[0][0]


def png(body: bytes, size: tuple[int, int], *, bits: int, colour_type: int) -> bytes:
    """A PNG of a kind that Pillow does not write: rows of packed samples, width and height."""
    width, height = size
    rows = np.frombuffer(body, np.uint8).reshape(height, -1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())),  # each row is preceded by its filter, 0
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def with_palette(indices: np.ndarray, palette: np.ndarray) -> Image.Image:
    picture = Image.fromarray(indices)
    picture.putpalette(palette.astype(np.uint8).tobytes())
    assert picture.mode == "P"
    return picture


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_a_palette_of_greys_is_applied_to_an_image_and_not_to_a_label_map(tmp_path: Path, ending: str) -> None:
    order = np.random.default_rng(7).permutation(256)
    indices = np.argsort(order)[GREY].astype(np.uint8)
    file = tmp_path / f"a_0000{ending}"
    with_palette(indices, np.repeat(order, 3)).save(file)
    np.testing.assert_array_equal(read(file), GREY[None])
    np.testing.assert_array_equal(labels(file), indices)


@pytest.mark.parametrize("colours", [2, 4, 16, 200])
def test_a_palette_of_colours_makes_three_channels(tmp_path: Path, colours: int) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (colours, 3))
    indices = (np.arange(42).reshape(6, 7) % colours).astype(np.uint8)
    file = tmp_path / "a_0000.png"  # of 1, 2, 4 and 8 bits
    with_palette(indices, palette).save(file)
    np.testing.assert_array_equal(read(file), palette[indices].transpose(2, 0, 1))
    np.testing.assert_array_equal(labels(file), indices)


@pytest.mark.parametrize("transparency", [0, bytes([255, 0, 128])])
def test_a_palette_with_transparency_makes_four_channels(tmp_path: Path, transparency: int | bytes) -> None:
    palette = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 1, 1]])
    file = tmp_path / "a_0000.png"
    with_palette(LABEL, palette).save(file, transparency=transparency)
    pixels = read(file)
    np.testing.assert_array_equal(pixels[:3], palette[LABEL].transpose(2, 0, 1))
    alpha = [0, 255, 255, 255] if transparency == 0 else [255, 0, 128, 255]
    np.testing.assert_array_equal(pixels[3], np.array(alpha)[LABEL])
    np.testing.assert_array_equal(labels(file), LABEL)


def test_a_palette_whose_colours_are_all_opaque_has_no_fourth_channel(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.png"
    with_palette(LABEL, np.arange(12)).save(file, transparency=bytes([255] * 4))
    assert read(file).shape[0] == 3


def test_grey_with_an_alpha_channel_is_grey_where_all_is_opaque(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.png"
    Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)])).save(file)
    np.testing.assert_array_equal(read(file), GREY[None])
    alpha = np.full_like(GREY, 255)
    alpha[2, 3:5] = 7
    Image.fromarray(np.dstack([LABEL, alpha])).save(file)
    with pytest.raises(SegflowError, match=r"a_0000.png.*transparent parts; found 2 pixels"):
        read(file)
    np.testing.assert_array_equal(labels(file), LABEL)


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_levels(tmp_path: Path, ending: str, channels: int) -> None:
    pixels, file = DEEP[..., :channels].squeeze(), tmp_path / f"a_0000{ending}"
    if ending == ".tif":
        tifffile.imwrite(file, pixels, photometric="minisblack" if channels == 1 else "rgb")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=channels > 1), str(file))
    np.testing.assert_array_equal(read(file), np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.float32))
    assert reader_by_name("NaturalImage2DIO").read_header(file).dtype.endswith("16")


def test_the_planes_of_deep_colours_are_channels(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.tif"
    tifffile.imwrite(file, DEEP[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(file), DEEP[..., :3].transpose(2, 0, 1))


def test_sixteen_bits_of_grey_and_alpha_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.png"
    file.write_bytes(png(DEEP[..., :2].astype(">u2").tobytes(), (7, 6), bits=16, colour_type=4))
    for read_it in (read, labels):
        with pytest.raises(SegflowError, match=r"a_0000.png: more than 8 bits.*found PNG, LA;16B"):
            read_it(file)


def test_a_bitmap_of_sixteen_bits_for_all_its_colours_is_read_as_ever(tmp_path: Path) -> None:
    """Five bits of red, six of green, five of blue."""
    header = struct.pack("<2sIHHI", b"BM", 70 + 16, 0, 0, 70)
    info = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 16, 3, 16, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xF800, 0x07E0, 0x001F, 0)
    file = tmp_path / "a_0000.bmp"
    file.write_bytes(header + info + masks + np.full(8, 0xF800, "<u2").tobytes())
    np.testing.assert_array_equal(read(file), np.array([255, 0, 0])[:, None, None] * np.ones((3, 2, 4)))


def test_a_label_map_of_one_bit_holds_0_and_1(tmp_path: Path) -> None:
    for ending in (".png", ".bmp", ".tif"):
        Image.fromarray(LABEL > 1).save(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(labels(tmp_path / f"a{ending}"), LABEL > 1)


@pytest.mark.parametrize(("bits", "highest"), [(2, 3), (4, 15)])
def test_grey_label_maps_of_few_bits_hold_what_is_stored(tmp_path: Path, bits: int, highest: int) -> None:
    """Pillow stretches their samples to 255, which is right for images only."""
    samples = np.arange(8, dtype=np.uint8).reshape(2, 4) % (highest + 1)
    file = tmp_path / "a.png"
    rows = ["".join(f"{sample:0{bits}b}" for sample in row) for row in samples]
    body = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    file.write_bytes(png(body, (4, 2), bits=bits, colour_type=0))
    np.testing.assert_array_equal(labels(file), samples)
    np.testing.assert_array_equal(read(file)[0], samples * (255 // highest))


# --- stacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("slices", [1, 2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore:.*photometric:DeprecationWarning")
def test_a_stack_of_any_number_of_slices_is_a_volume(tmp_path: Path, slices: int, dtype: type) -> None:
    """nnU-Net leaves it to tifffile, which stores three or four slices as planes of a colour picture."""
    stack = RNG.integers(0, 200, (slices, 8, 9)).astype(dtype)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [3.0, 0.5, 0.5]}))
    for ending in (".tiff", ".tif") if slices > 1 else (".tiff",):  # one picture named .tif is flat, as to nnU-Net
        file = tmp_path / f"a_0000{ending}"
        tifffile.imwrite(file, stack, compression="zlib")
        reader = choose_reader(ending, file)
        voxels, geometry = reader.read_image([file])
        np.testing.assert_array_equal(voxels, stack[None])
        assert geometry.spacing == (3.0, 0.5, 0.5)
        assert reader.read_header(file).shape == stack.shape
        label, label_geometry = reader.read_label(file)
        np.testing.assert_array_equal(label, stack)
        assert label_geometry.spacing == (1.0, 1.0, 1.0)  # a label map's stands under its own name
        reader.write_label(label, geometry, tmp_path / f"out{ending}")
        np.testing.assert_array_equal(reader.read_label(tmp_path / f"out{ending}")[0], stack)


def test_colours_stored_as_planes_are_a_picture_unless_a_spacing_stands_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "a_0000.tif"
    tifffile.imwrite(file, COLOUR.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    reader = choose_reader(".tif", file)
    assert reader.name == "NaturalImage2DIO"
    np.testing.assert_array_equal(reader.read_image([file])[0][:, 0], COLOUR.transpose(2, 0, 1))


def test_interleaved_colours_are_no_stack(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tiff", COLOUR, photometric="rgb")
    with pytest.raises(SegflowError, match="not a stack of grey pictures"):
        reader_by_name("Tiff3DIO").read_image([tmp_path / "a_0000.tiff"])
