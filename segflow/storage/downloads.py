"""Downloads of large files: continued where they broke off, and compared with their checksum."""

from __future__ import annotations

import hashlib
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.json_files import read_json, write_json
from segflow.storage.scratch_files import check_space

STAGE = "download"
PART_ENDING = ".part"
RECORD_ENDING = ".checksum.json"
BLOCK = 1 << 20
SECONDS = 60
"""Time after which a silent connection is given up."""


def download(url: str, file: Path, checksum: str | None = None, progress: Progress = silent) -> Path:
    """Download a file, unless it is there.

    A download that broke off goes on from where it was. Without a checksum, that of the first download is recorded
    beside the file, and later ones are compared with it.

    Args:
        url: Where it is.
        file: Where it goes. Its folder is made if it is missing.
        checksum: ``md5:…`` or ``sha256:…``, or None if none is known.
        progress: Called after each block, in MB.

    Raises:
        SegflowError: The server cannot be reached or breaks off, the disk is too small, or the file is not the one that
            was expected. The error says what to do.
    """
    expected = checksum or _recorded(file)
    if file.is_file():
        _compare(file, expected, url)
        return file
    part = file.with_name(file.name + PART_ENDING)
    file.parent.mkdir(parents=True, exist_ok=True)
    _fetch(url, part, progress)
    try:
        found = _compare(part, expected, url)
    except SegflowError:
        part.unlink()
        raise
    if checksum is None:
        write_json(_record(file), {"url": url, "checksum": found})
    part.replace(file)
    return file


def _fetch(url: str, part: Path, progress: Progress) -> None:
    """Get what is missing of a file. What was got stays, so that the next call goes on."""
    before = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={before}-"} if before else {})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            goes_on = answer.status == 206 and re.match(rf"bytes {before}-", answer.headers.get("Content-Range", ""))
            done = before if goes_on else 0
            size = int(answer.headers.get("Content-Length") or 0)
            check_space(part.parent, size, part)
            with part.open("ab" if goes_on else "wb") as stream:
                while block := answer.read(BLOCK):
                    stream.write(block)
                    done += len(block)
                    progress(ProgressEvent(STAGE, part.name.removesuffix(PART_ENDING), done >> 20, (done + size) >> 20))
            if size and part.stat().st_size < (before if goes_on else 0) + size:
                raise HTTPException("the connection ended early")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise _failed(url, f"the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(url, str(error) or type(error).__name__) from error


def _failed(url: str, reason: str) -> SegflowError:
    return SegflowError(
        f"cannot download {url}",
        found=reason,
        fix="The same command goes on from where it broke off. Without a network, get the file in another way: "
        "dataset.source=PATH",
    )


def _compare(file: Path, expected: str | None, url: str) -> str:
    """The checksum of a file, which must be the expected one."""
    kind = expected.partition(":")[0] if expected else "sha256"
    with file.open("rb") as stream:
        found = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
    if expected is not None and found != expected:
        raise SegflowError(
            f"{file.name.removesuffix(PART_ENDING)} is not the file that {url} should give",
            found=found,
            expected=expected,
            fix=f"Remove {file} and download it again. If the dataset has a new version, name its files yourself: "
            "dataset.source=PATH",
        )
    return found


def _record(file: Path) -> Path:
    return file.with_name(file.name + RECORD_ENDING)


def _recorded(file: Path) -> str | None:
    record = _record(file)
    content = read_json(record) if record.is_file() else None
    value = content.get("checksum") if isinstance(content, dict) else None
    return value if isinstance(value, str) and re.fullmatch(r"(md5|sha256):[0-9a-f]+", value) else None
