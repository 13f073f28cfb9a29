"""Damaged and hostile OME-Zarr images end in an error with their name, whatever they hold."""

from __future__ import annotations

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, GzipCodec, ZstdCodec

from segflow.core.errors import SegflowError
from segflow.storage.images import reader_by_name

INPUTS = 1400
KINDS = ("two", "three", "shards")
VALUES = (np.arange(4 * 5 * 6) % 5).astype(np.int16).reshape(4, 5, 6)


def _described(version: str) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    steps = [{"type": "scale", "scale": [2.0, 1.0, 0.5]}, {"type": "translation", "translation": [0.0, 1.0, 2.0]}]
    image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": steps}]}
    return {"ome": {"version": version, "multiscales": [image]}} if version == "0.5" else {"multiscales": [image]}


@cache
def _images() -> dict[str, dict[str, bytes]]:
    """Kind of image → relative path → content of its files."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in KINDS:
            folder = Path(temporary, kind)
            version = "0.4" if kind == "two" else "0.5"
            group = zarr.open_group(
                folder, mode="w", zarr_format=2 if kind == "two" else 3, attributes=_described(version)
            )
            options: dict[str, Any] = {"chunks": (2, 5, 3)}
            if kind == "three":
                options["compressors"] = [GzipCodec()]
            if kind == "shards":
                options |= {
                    "shards": VALUES.shape,
                    "compressors": [ZstdCodec(), Crc32cCodec()],
                }
            group.create_array("s0", shape=VALUES.shape, dtype=VALUES.dtype, **options)[...] = VALUES
            files = [file for file in folder.rglob("*") if file.is_file()]
            found[kind] = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files)}
    return found


@cache
def samples() -> dict[str, bytes]:
    """The description of each image, that of its array, and its first chunk: ``KIND@PATH`` with ``+`` for ``/``."""
    found: dict[str, bytes] = {}
    for kind, files in _images().items():
        chunk = next(path for path in files if not Path(path).name.startswith((".z", "zarr")))
        names = [path for path in files if not Path(path).name.startswith((".zgroup", ".zmeta"))]
        for path in [path for path in names if path == chunk or files[path].startswith(b"{\n")]:
            found[f"{kind}@{path.replace('/', '+')}"] = files[path]
    return found


def mutate(name: str, content: bytes, rng: np.random.Generator) -> bytes | None:
    """Put hostile values into the descriptions."""
    if not content.startswith(b"{"):
        return None
    return fuzzing.as_json(fuzzing.mutate_tree(json.loads(content), rng))


def read(file: Path) -> None:
    """As commands do: header, image and label map, with the other files of the image in their places."""
    kind, path = file.name.split("@")
    image = file.parent / "image.zarr"
    for other, content in {**_images()[kind], path.replace("+", "/"): file.read_bytes()}.items():
        (image / other).parent.mkdir(parents=True, exist_ok=True)
        (image / other).write_bytes(content)
    reader = reader_by_name("OMEZarrIO")
    try:
        reader.read_header(image)
        reader.read_image([image])
        with contextlib.suppress(SegflowError):
            reader.read_label(image)
    except SegflowError as error:
        if image.name not in str(error):
            raise
        raise SegflowError(f"{file.name}: {error}") from error


def test_damaged_and_hostile_zarr_images_end_in_an_error_with_their_name(tmp_path: Path) -> None:
    failures = fuzzing.fuzz(__name__, tmp_path, fuzzing.count(INPUTS))
    assert not failures, f"{len(failures)} failures, such as\n" + "\n\n".join(failures[:5])
