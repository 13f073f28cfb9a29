"""Damaged and hostile image files end in an error with their name, whatever they hold."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import tempfile
import zlib
from pathlib import Path

import fuzzing
import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.images import choose_reader, reader_by_name

INPUTS = 1600

OUTSIDE = (b"../pipe", b"/dev/zero", b"/dev/tty", b"/etc/passwd", b"../../pipe", b".", b"%d", b"%s%s%n", b"no/such")
TOKENS = (
    *(b"ElementDataFile = " + path + b"\n" for path in (*OUTSIDE, b"LIST\n../pipe", b"LIST 2D\n../pipe\n", b"x.raw")),
    *(b"data file: " + path + b"\n" for path in (*OUTSIDE, b"LIST\n../pipe", b"LIST 2\n../pipe\n", b"p%03d 1 9 1")),
    *(b"datafile: " + path + b"\n" for path in OUTSIDE),
    *(b"NDims = %d\n" % n for n in (-3, 0, 1, 2, 4, 5, 11, 10**9)),
    *(b"DimSize = " + text + b"\n" for text in (b"-8 7 6", b"8 7", b"1000000 1000000 6", b"8 7 6 5 4", b"0 0 0", b"a")),
    *(b"TransformMatrix = " + text + b"\n" for text in (b"1e308 0 0 0 1e308 0 0 0 1", b"0 " * 9, b"nan " * 9, b"1")),
    *(b"ElementSpacing = " + text + b"\n" for text in (b"a b c", b"1 1", b"1e308 1 1", b"nan 1 1", b"1e-320 1 1")),
    *(b"ElementType = " + text + b"\n" for text in (b"MET_OTHER", b"MET_DOUBLE_ARRAY", b"MET_STRING", b"X" * 5000)),
    *(b"ElementNumberOfChannels = " + text + b"\n" for text in (b"-1", b"0", b"1000000000", b"x")),
    *(b"CompressedData = True\n", b"CompressedDataSize = -5\n", b"HeaderSize = -1\n", b"HeaderSize = 99999999999\n"),
    *(b"BinaryData = False\n", b"ElementDataFile = LOCAL\n", b"ObjectType = Tube\n", b"Comment = " + b"x" * 70000),
    *(b"encoding: " + text + b"\n" for text in (b"gzip", b"bzip2", b"raw", b"ascii", b"hex", b"zrl", b"nonsense")),
    *(b"sizes: " + text + b"\n" for text in (b"-8 7 6", b"8 7", b"1000000 1000000 6", b"0 0 0", b"nan 1 1")),
    *(b"dimension: " + text + b"\n" for text in (b"0", b"-1", b"17", b"99999999999", b"4")),
    *(b"space directions: " + text + b"\n" for text in (b"none none none", b"(1e308,0,0) (0,1,0) (0,0,1)", b"((((")),
    *(b"kinds: " + text + b"\n" for text in (b"vector domain domain", b"list list list", b"3D-matrix domain domain")),
    *(b"byte skip: -1\n", b"byte skip: 99999999999\n", b"line skip: 999999999\n", b"type: block\n", b"blocksize: 9\n"),
    *(name + b" = " + text + b"\n" for name in (b"Name", b"Comment", b"foo") for text in (b"", b"x" * 230, b"x" * 400)),
    *(b"Color = 1 1\n", b"SequenceID = 1\n", b"ElementMin =\n", b"ID = x\n", b"ElementToIntensityFunctionSlope =\n"),
    *(name + b": " + b"x" * 3000 + b"\n" for name in (b"space", b"labels", b"foo:=", b"content", b"# foo")),
)


@functools.cache
def samples() -> dict[str, bytes]:
    """Small whole files of every format that is read, by name."""
    values = (np.arange(8 * 7 * 6) % 5).astype(np.int16).reshape(6, 7, 8)
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("a.nrrd", "b.nrrd", "a.mha", "b.mha", "a.gipl"):
            image = sitk.GetImageFromArray(values)
            image.SetSpacing((1.0, 1.5, 2.0))
            sitk.WriteImage(image, str(folder / name), name[0] == "b")
        vectors = sitk.GetImageFromArray(np.stack([values] * 3, axis=-1), isVector=True)
        for name in ("vector.nrrd", "vector.mha"):
            sitk.WriteImage(vectors, str(folder / name))
        affine = np.diag([1.0, 1.5, 2.0, 1.0])
        for name, kind in (("a.nii", nibabel.Nifti1Image), ("b.nii.gz", nibabel.Nifti1Image)):
            nibabel.save(kind(values.T, affine), folder / name)
        nibabel.save(nibabel.Nifti2Image(values.T.astype(np.float32), affine), folder / "two.nii")
        nibabel.save(nibabel.Nifti2Image(values.T, affine), folder / "two.nii.gz")
        reader_by_name("Blosc2IO").write_label(values, Geometry((2.0, 1.5, 1.0)), folder / "a.b2nd")
        tifffile.imwrite(folder / "a.tif", values, photometric="minisblack")
        tifffile.imwrite(folder / "z.tiff", values, photometric="minisblack", compression="zlib")
        for file in folder.iterdir():
            content = file.read_bytes()
            found[file.name] = gzip.decompress(content) if file.name.endswith(".gz") else content
    noise = np.random.default_rng(0).integers(0, 255, (9, 11, 3)).astype(np.uint8)
    for name, picture in (
        ("grey.png", Image.fromarray(noise[..., 0])),
        ("colour.png", Image.fromarray(noise)),
        ("deep.png", Image.fromarray(noise[..., 0].astype(np.uint16))),
        ("palette.png", Image.fromarray(noise).quantize(16)),
        ("a.bmp", Image.fromarray(noise)),
        ("a.jpg", Image.fromarray(noise)),
        ("flat.tif", Image.fromarray(noise)),
    ):
        stream = io.BytesIO()
        picture.save(stream, {"jpg": "jpeg", "tif": "tiff"}.get(name[-3:], name[-3:]))
        found[name] = stream.getvalue()
    return found


def dress(name: str, content: bytes) -> bytes:
    """Pack a NIfTI, and make the checksums of a PNG right."""
    if name.endswith(".gz"):
        return gzip.compress(content)
    if not name.endswith(".png"):
        return content
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        parts += [content[place:end], zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")]
        place = end + 4
    return b"".join([*parts, content[place:]])


def read(file: Path) -> None:
    """As commands do: the reader by the ending, then header, image and label map."""
    ending = ".nii.gz" if file.name.endswith(".nii.gz") else file.suffix
    readers = [choose_reader(ending, file)]
    if file.name.endswith(".nii.gz"):
        readers += [reader_by_name(name) for name in ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient")]
    for reader in readers:
        reader.read_header(file)
        reader.read_image([file])
        with contextlib.suppress(SegflowError):  # colours are no labels
            reader.read_label(file)


def test_damaged_images_end_in_an_error_with_their_name(tmp_path: Path) -> None:
    failures = fuzzing.fuzz(__name__, tmp_path, fuzzing.count(INPUTS), TOKENS)
    assert not failures, f"{len(failures)} failures, such as\n" + "\n\n".join(failures[:5])
