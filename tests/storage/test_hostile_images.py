"""Image files that are damaged or made to harm: an error with their name, bounded memory, nothing else opened."""

from __future__ import annotations

import gzip
import os
import socket
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from segflow.core.errors import SegflowError
from segflow.storage.images import reader_by_name

NIFTI_READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
VALUES = (np.arange(8 * 7 * 6) % 5).astype(np.int16).reshape(6, 7, 8)


def nifti(file: Path, **fields: object) -> Path:
    """A small NIfTI file with some fields of its header set by hand."""
    image = nibabel.Nifti1Image(VALUES.T, np.diag([1.0, 1.5, 2.0, 1.0]))
    header = nibabel.Nifti1Header(image.header.binaryblock, check=False)
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + VALUES.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


@pytest.mark.parametrize("reader", [*NIFTI_READERS, "NaturalImage2DIO", "Tiff3DIO"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_only_regular_files_are_read(tmp_path: Path, reader: str, kind: str) -> None:
    """A pipe would block for ever."""
    file = tmp_path / f"a{reader_by_name(reader).endings[0] if reader_by_name(reader).endings else '.nii.gz'}"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(file))
    for read in (reader_by_name(reader).read_header, reader_by_name(reader).read_label):
        with pytest.raises(SegflowError, match=rf"{file.name}; found a {kind}; expected a regular file"):
            read(file)


# --- NIfTI ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", NIFTI_READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "fields",
    [
        {"vox_offset": np.inf},
        {"vox_offset": np.nan},
        {"vox_offset": -1},
        {"vox_offset": 3e38},
        {"dim": (60, 8, 7, 6, 1, 1, 1, 1)},
        {"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)},
        {"dim": (7, *[32767] * 7)},
        {"dim": (3, 8, -7, 6, 1, 1, 1, 1)},
        {"dim": (3, -1, 1, 1, 1, 1, 1, 1), "glmin": 0},
        {"datatype": 77},
        {"scl_inter": np.inf},
        {"pixdim": (1, 1, 1e30, 1, 1, 1, 1, 1)},
        {"sform_code": 1, "qform_code": 0, "srow_x": (np.nan, 0, 0, 0)},
        {"sform_code": 1, "qform_code": 0, "srow_x": (3e38, 3e38, 3e38, 3e38)},
        {"sform_code": 1, "qform_code": 0, "srow_y": (0, 0, 0, 0)},
        {"sform_code": 0, "qform_code": 1, "quatern_b": 5, "quatern_c": 5},
    ],
    ids=str,
)
def test_a_hostile_nifti_header_is_refused(tmp_path: Path, reader: str, ending: str, fields: dict) -> None:
    file = nifti(tmp_path / f"a{ending}", **fields)
    for read in (reader_by_name(reader).read_header, reader_by_name(reader).read_label):
        with pytest.raises(SegflowError, match=file.name):
            read(file)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_gzip_that_unpacks_to_far_more_than_its_header_asks_for_costs_no_memory(tmp_path: Path, reader: str) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    with gzip.open(file, "rb") as stream:
        start = stream.read()
    with gzip.open(file, "wb", 1) as stream:
        stream.write(start)
        for _ in range(4):
            stream.write(bytes(16 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(SegflowError, match=r"a\.nii\.gz: it unpacks to far more than its header asks for"):
            reader_by_name(reader).read_image([file])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize(
    ("tail", "warned"),
    [(b"\0" * 512, False), (b"some bytes", True), (gzip.compress(b""), False)],
    ids=["zeros", "text", "empty member"],
)
def test_a_gzip_with_trailing_bytes_is_read(
    tmp_path: Path, reader: str, tail: bytes, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    file.write_bytes(file.read_bytes() + tail)
    np.testing.assert_array_equal(reader_by_name(reader).read_image([file])[0][0], VALUES)
    assert ("a.nii.gz: 10 bytes behind its packed data are passed over" in caplog.text) == warned


def test_a_gzip_of_many_members_is_read(tmp_path: Path) -> None:
    """As bgzip writes it."""
    file = nifti(tmp_path / "a.nii")
    content = file.read_bytes()
    packed = b"".join(gzip.compress(content[i : i + 400]) for i in range(0, len(content), 400))
    file = tmp_path / "a.nii.gz"
    file.write_bytes(packed)
    np.testing.assert_array_equal(reader_by_name("SimpleITKIO").read_image([file])[0][0], VALUES)


def test_a_gzip_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=r"cannot read .*a\.nii\.gz"):
        reader_by_name("NibabelIO").read_image([file])


# --- MetaImage and NRRD --------------------------------------------------------------------------------------------


def itk_file(file: Path, *, packed: bool = False) -> Path:
    image = sitk.GetImageFromArray(VALUES)
    image.SetSpacing((1.0, 1.5, 2.0))
    sitk.WriteImage(image, str(file), packed)
    return file


def with_line(file: Path, start: str, line: str) -> Path:
    """A text header with the line that begins so replaced, or with one more as its second."""
    content = file.read_bytes()
    old = next((text for text in content.split(b"\n") if text.startswith(start.encode())), None)
    first = content.split(b"\n", 1)[0]
    target, new = (old, line.encode()) if old is not None else (first, first + b"\n" + line.encode())
    file.write_bytes(content.replace(target, new, 1))
    return file


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the images' own, with a file that no header may name, and a pipe."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(VALUES.tobytes())
    os.mkfifo(folder / "pipe")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "pipe")
    (tmp_path / "images" / "link").symlink_to(folder / "secret")
    return folder


META = [
    ("NDims", "NDims = -3"),
    ("NDims", "NDims = 3\nNDims = -3"),
    ("NDims", "NDims = 1000000"),
    ("DimSize", "DimSize = 8 7"),
    ("DimSize", "DimSize = 8 7 -6"),
    ("DimSize", "DimSize = 100000 100000 6"),
    ("TransformMatrix", "TransformMatrix = 1e308 1e308 0 0 1e308 0 0 0 1e308"),
    ("TransformMatrix", "TransformMatrix = 1 0 0 1 0 0 0 0 1"),
    ("TransformMatrix", "TransformMatrix = 0 0 0 0 0 0 0 0 0"),
    ("Offset", "Offset = nan 0 0"),
    ("ElementSpacing", "ElementSpacing = one 1 1"),
    ("ElementSpacing", "ElementSpacing = 1 1e300 1"),
    ("ElementSpacing", "ElementSpacing = 1 1"),
    ("ElementType", "ElementType = MET_NONSENSE"),
    ("ElementNumberOfChannels", "ElementNumberOfChannels = 1000000000"),
    ("CompressedDataSize", "CompressedDataSize = -7"),
    ("CompressedDataSize", "CompressedDataSize = 99999999"),
    ("Name", "Name = " + "x" * 300),
    ("x" * 300, "x" * 300 + " = 1"),
]
NRRD = [
    ("dimension", "dimension: -3"),
    ("dimension", "dimension: 17"),
    ("sizes", "sizes: 8 7"),
    ("sizes", "sizes: 100000 100000 6"),
    ("sizes", "sizes: 8 7 nan"),
    ("type", "type: block"),
    ("encoding", "encoding: nonsense"),
    ("space directions", "space directions: (1e308,0,0) (0,1,0) (0,0,1)"),
    ("space directions", "space directions: (1,0,0) (1,0,0) (0,0,1)"),
    ("space directions", "space directions: (((("),
    ("space origin", "space origin: (nan,0,0)"),
    ("byte skip", "byte skip: 9999999"),
    ("kinds", "kinds: domain domain domain\nkinds: domain domain domain"),
    ("labels", "labels: " + "x" * 2000),
]


@pytest.mark.parametrize(
    ("name", "start", "line"),
    [("a.mha", *case) for case in META] + [("a.nrrd", *case) for case in NRRD],
    ids=lambda value: value[:40],
)
def test_a_hostile_text_header_is_refused(tmp_path: Path, name: str, start: str, line: str) -> None:
    """Among them are some that end ITK's process (two NDims, a long name or label) or make it hang (1e308)."""
    file = with_line(itk_file(tmp_path / name, packed=True), start, line)
    reader = reader_by_name("SimpleITKIO")
    for read in (reader.read_header, reader.read_label):
        with pytest.raises(SegflowError, match=name):
            read(file)


FIELD = {".mha": "ElementDataFile = ", ".mhd": "ElementDataFile = ", ".nrrd": "data file: ", ".nhdr": "datafile: "}


@pytest.mark.parametrize("ending", FIELD)
@pytest.mark.parametrize(
    "target",
    [
        *("{outside}/secret", "../outside/secret", "../images/../outside/secret", "link", "pipe", "{outside}/pipe"),
        *("LIST\n../outside/secret", "LIST\nlink", "LIST\npipe", "LIST\n{outside}/pipe", "../outside/sec%dret 1 1 1"),
        *("pip%s 1 1 1", "%n%n 1 1 1", "/dev/zero", "/dev/stdin", "-", "..", ".", "", "no_such_file"),
    ],
)
def test_a_header_reads_nothing_but_regular_files_beside_it(outside: Path, ending: str, target: str) -> None:
    folder = outside.parent / "images"
    line = FIELD[ending] + target.format(outside=outside)
    if ending in (".mha", ".mhd"):
        file = with_line(itk_file(folder / f"a{ending}"), "ElementDataFile", line)
    else:
        file = itk_file(folder / f"a{ending}")
        header = file.read_bytes().split(b"\n\n")[0].decode()
        kept = [text for text in header.split("\n") if not text.replace(" ", "").startswith("datafile")]
        file.write_text("\n".join(["NRRD0004" if "NRRD" in kept[0] else kept[0], *kept[1:], line]) + "\n")
    with pytest.raises(SegflowError, match=f"a{ending}|images/pipe; found a pipe|no_such_file"):
        reader_by_name("SimpleITKIO").read_image([file])


@pytest.mark.parametrize("line", ["Color = 1 1", "ElementMin =", "ElementToIntensityFunctionSlope =", "ID = 1 2"])
def test_a_field_that_lacks_a_number_does_not_hide_the_one_below(outside: Path, line: str) -> None:
    """ITK takes the number from the next line, and its voxels from the file that a later line names."""
    file = itk_file(outside.parent / "images" / "a.mha")
    content = file.read_bytes()
    local = b"ElementDataFile = LOCAL\n"
    assert local in content
    hidden = line.encode() + b"\n" + local + b"ElementDataFile = ../outside/secret\n"
    file.write_bytes(content.replace(local, hidden))
    with pytest.raises(SegflowError, match=r"a\.mha: .* in its header"):
        reader_by_name("SimpleITKIO").read_image([file])


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
@pytest.mark.parametrize("linked", [False, True])
def test_voxels_beside_their_header_are_read(tmp_path: Path, ending: str, linked: bool) -> None:
    """Also where both are links into a store, as git-annex keeps files."""
    store = tmp_path / "store"
    store.mkdir()
    file = itk_file(store / f"a{ending}")
    if linked:
        (tmp_path / "images").mkdir()
        for part in store.iterdir():
            (tmp_path / "images" / part.name).symlink_to(part)
        file = tmp_path / "images" / file.name
    voxels, geometry = reader_by_name("SimpleITKIO").read_image([file])
    np.testing.assert_array_equal(voxels[0], VALUES)
    assert geometry.spacing == (2.0, 1.5, 1.0)


def test_voxels_in_numbered_and_listed_files_are_read(tmp_path: Path) -> None:
    itk_file(tmp_path / "a.mhd")
    for number, plane in enumerate(VALUES):
        (tmp_path / f"p{number}.raw").write_bytes(plane.tobytes())
    names = "\n".join(f"p{number}.raw" for number in range(len(VALUES)))
    for target in (f"LIST\n{names}", "p%d.raw 0 5 1"):
        with_line(tmp_path / "a.mhd", "ElementDataFile", f"ElementDataFile = {target}")
        voxels, _ = reader_by_name("SimpleITKIO").read_image([tmp_path / "a.mhd"])
        np.testing.assert_array_equal(voxels[0], VALUES)
        itk_file(tmp_path / "a.mhd")


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize("packed_well", [True, False])
def test_packed_voxels_that_unpack_to_far_more(tmp_path: Path, name: str, packed_well: bool) -> None:
    """They are read as far as the header asks for; a file that can only be another one's is refused."""
    file = itk_file(tmp_path / name, packed=True)
    more = bytes(64 << 20) if packed_well else np.random.default_rng(0).bytes(2 << 20)
    pack = gzip.compress if name == "a.nrrd" else zlib.compress
    packed = pack(VALUES.tobytes() + more, 9 if packed_well else 1)
    content = file.read_bytes()
    begin = content.index(b"\n\n") + 2 if name == "a.nrrd" else content.index(b"LOCAL\n") + 6
    file.write_bytes(content[:begin] + packed)
    if name == "a.mha":
        with_line(file, "CompressedDataSize", f"CompressedDataSize = {len(packed)}")
    if packed_well:
        np.testing.assert_array_equal(reader_by_name("SimpleITKIO").read_image([file])[0][0], VALUES)
    else:
        with pytest.raises(SegflowError, match=f"{name}: it holds far more than its header asks for"):
            reader_by_name("SimpleITKIO").read_image([file])


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["NaturalImage2DIO", "Tiff3DIO"])
def test_a_tiff_whose_pages_go_in_a_circle_is_refused(tmp_path: Path, reader: str) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, VALUES, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(file) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1].offset
        tags = len(tiff.pages[-1].tags)
    content = bytearray(file.read_bytes())
    content[last + 2 + 12 * tags :][:4] = first.to_bytes(4, "little")
    file.write_bytes(bytes(content[: last + 2 + 12 * tags]) + first.to_bytes(4, "little"))
    with pytest.raises(SegflowError, match=r"a\.tif: its pages go in a circle"):
        reader_by_name(reader).read_image([file])


def test_a_picture_that_is_a_program_is_refused(tmp_path: Path) -> None:
    """Pillow would give PostScript to its interpreter."""
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(SegflowError, match=r"a\.png: it is not a picture of a known format"):
        reader_by_name("NaturalImage2DIO").read_image([file])


def test_a_png_of_a_size_that_its_bytes_cannot_hold_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(VALUES[0].astype(np.uint8)).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = (13000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=r"a\.png: it is too short for its size; found 13000 x 13000 pixels"):
        reader_by_name("NaturalImage2DIO").read_header(file)
