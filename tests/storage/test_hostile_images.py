"""Image files that are damaged or made to harm: an error with their name, bounded memory, nothing else opened."""

from __future__ import annotations

import gzip
import os
import socket
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

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


@pytest.mark.parametrize("reader", NIFTI_READERS)
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
    with pytest.raises(SegflowError, match=file.name):
        reader_by_name(reader).read_image([file])


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_gzip_that_unpacks_to_far_more_than_its_header_asks_for_costs_no_memory(tmp_path: Path, reader: str) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    with gzip.open(file, "rb") as stream:
        start = stream.read()
    with gzip.open(file, "wb", 9) as stream:
        stream.write(start)
        for _ in range(16):
            stream.write(bytes(16 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(SegflowError, match=r"a\.nii\.gz: it unpacks to far more than its header asks for"):
            reader_by_name(reader).read_image([file])
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize(
    ("tail", "warned"), [(b"\0" * 512, False), (b"some bytes", True), (gzip.compress(b""), False)], ids=str
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
