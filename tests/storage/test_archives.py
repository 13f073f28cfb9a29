"""Damaged archives are named, and nothing of them stays."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.storage.archives import unpack

CONTENT = bytes(range(256)) * 40


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_an_archive_with_one_wrong_byte_is_named(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"task{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", CONTENT)
    else:
        with tarfile.open(file, f"w:{ending[5:]}") as tar:
            entry = tarfile.TarInfo("a")
            entry.size = len(CONTENT)
            tar.addfile(entry, io.BytesIO(CONTENT))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=rf"cannot unpack .*task\{ending}"):
        unpack(file, tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
