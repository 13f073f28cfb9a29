"""Damaged and hostile archives are unpacked into their folder, or end in an error with their name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import fuzzing

from segflow.storage.archives import unpack

INPUTS = 250
FILES = {"Task/dataset.json": b'{"training": []}' * 40, "Task/imagesTr/a.nii.gz": bytes(range(256)) * 4}
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@cache
def samples() -> dict[str, bytes]:
    """Whole archives by name; compressed tars are damaged within their packing and outside of it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    whole = stream.getvalue()
    found = {"a.tar": whole, **{f"a.tar{ending}": whole for ending in PACKERS}}
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for path, content in FILES.items():
                archive.writestr(path, content)
        found[name] = stream.getvalue()
    return found


def dress(name: str, content: bytes) -> bytes:
    """Compress a tar."""
    return PACKERS.get(Path(name).suffix, bytes)(content)


def read(file: Path) -> None:
    """As the converter of a known dataset does."""
    unpack(file, file.parent / "unpacked")


def test_damaged_and_hostile_archives_end_in_an_error_with_their_name(tmp_path: Path) -> None:
    failures = fuzzing.fuzz(__name__, tmp_path, fuzzing.count(INPUTS))
    assert not failures, f"{len(failures)} failures, such as\n" + "\n\n".join(failures[:5])
