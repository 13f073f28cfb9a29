"""Images as blosc2 arrays: read and written whole and box by box, and refused if they are damaged or hold more."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.storage.images import choose_reader, reader_by_name, same_placement
from segflow.storage.open_volumes import label_sink, map_sink, open_label_source, open_source

READER = reader_by_name("Blosc2IO")
AFFINE = [[0.0, -0.75, 0.0, 3.0], [0.5, 0.0, 0.0, -4.0], [0.0, 0.0, 2.0, 5.0], [0.0, 0.0, 0.0, 1.0]]


def saved(file: Path, array: np.ndarray, **metadata: Any) -> Path:
    stored = blosc2.asarray(np.ascontiguousarray(array), urlpath=str(file), mode="w", chunks=(3,) * array.ndim)
    for key, value in metadata.items():
        stored.schunk.vlmeta[key] = value
    return file


@pytest.mark.parametrize("shape", [(4, 5, 7), (3, 4, 5, 7), (5, 7), (2, 5, 7)])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4", "f8"])
def test_voxels_spacing_and_place_are_read_and_written_back(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    rng = np.random.default_rng(1)
    flat = len(shape) == 2 or shape[0] == 2
    array = rng.integers(0, 99, shape).astype(dtype)
    spacing = [0.75, 0.5] if flat else [2.0, 0.75, 0.5]
    file = saved(tmp_path / "a_0000.b2nd", array, spacing=spacing, affine=AFFINE)
    voxels, geometry = READER.read_image([file])
    channels = shape[0] if len(shape) == (3 if flat else 4) else 1
    np.testing.assert_array_equal(voxels, array.reshape(channels, 1 if flat else shape[-3], *shape[-2:]))
    assert geometry.spacing == ((0.75 * 999, 0.75, 0.5) if flat else (2.0, 0.75, 0.5))
    header = READER.read_header(file)
    assert (header.channels, header.shape, header.geometry) == (channels, voxels.shape[1:], geometry)
    with open_source([file], READER) as source:
        for box in (Box.whole(voxels.shape[1:]), Box((0, 1, 2), (1, 4, 6))):
            np.testing.assert_array_equal(source.read(box), voxels[(slice(None), *box.slices)])
    READER.write_label(voxels[0].astype(np.int16), geometry, tmp_path / "a.b2nd")
    label, own = READER.read_label(tmp_path / "a.b2nd")
    np.testing.assert_array_equal(label, voxels[0])
    assert own == geometry


def test_what_is_written_in_boxes_equals_what_is_written_at_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    shape = (5, 70, 140)
    _, geometry = READER.read_image([saved(tmp_path / "a.b2nd", np.ones(shape, "u1"), spacing=[2, 1, 1])])
    values, label = rng.random(shape, np.float32), rng.integers(0, 300, shape)
    boxes = [Box((z, 0, x), (z + 1, 70, x + 70)) for z, x in itertools.product(range(4, -1, -1), (70, 0))]
    with (
        map_sink(tmp_path / "map.b2nd", shape, geometry, READER) as maps,
        label_sink(tmp_path / "label.b2nd", shape, geometry, READER, highest=300) as labels,
    ):
        for box in boxes:
            maps.write(box, values[box.slices])
            labels.write(box, label[box.slices])
    assert blosc2.open(str(tmp_path / "label.b2nd"))[...].dtype == np.uint16
    np.testing.assert_array_equal(READER.read_image([tmp_path / "map.b2nd"])[0][0], values)
    with open_label_source(tmp_path / "label.b2nd", READER) as source:
        np.testing.assert_array_equal(source.read(Box.whole(shape)), label)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_place_of_a_nifti_goes_into_the_array(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.array(AFFINE)), tmp_path / "a.nii")
    label, geometry = reader_by_name("NibabelIO").read_label(tmp_path / "a.nii")
    READER.write_label(label, geometry, tmp_path / "a.b2nd")
    assert same_placement(READER.read_label(tmp_path / "a.b2nd")[1], geometry)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    array = np.arange(60, dtype="u2").reshape(3, 4, 5)
    made = {
        "a.b2nd": (array, {}, r'a\.b2nd gives no spacing.*vlmeta\["spacing"\]'),
        "b.b2nd": (array, {"spacing": [1, 0, 1]}, "zero, negative"),
        "c.b2nd": (array, {"spacing": "text"}, "cannot be used; found spacing 'text'"),
        "d.b2nd": (array, {"spacing": [1, 1, 1], "affine": [1, 2]}, "cannot be used"),
        "e.b2nd": (array[0], {"spacing": [1, 1, 1]}, r"not an image; found shape \(4, 5\)"),
        "f.b2nd": (array.astype(complex), {"spacing": [1, 1, 1]}, "holds no numbers; found complex128"),
        "g.b2nd": (np.zeros((3, 3, 3), "S4"), {"spacing": [1, 1, 1]}, r"holds no numbers; found \|S4"),
    }
    for name, (values, metadata, words) in made.items():
        saved(tmp_path / name, values, **metadata)
        with pytest.raises(SegflowError, match=words) as caught:
            READER.read_image([tmp_path / name])
        assert name in str(caught.value)


def test_files_that_are_damaged_or_refer_to_others_are_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(3).integers(0, 9999, (6, 6, 6)).astype("u4")
    content = saved(tmp_path / "good.b2nd", array, spacing=[1, 1, 1]).read_bytes()
    bad = tmp_path / "bad.b2nd"
    for length in (0, 10, 37, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:length])
        with pytest.raises(SegflowError, match=r"cannot read .*bad\.b2nd"):
            READER.read_image([bad])
    for place in range(16, len(content), 97):  # whatever happens, this process goes on
        bad.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(SegflowError):
            READER.read_header(bad)
    lazy = blosc2.lazyexpr("a + 1", {"a": blosc2.open(str(tmp_path / "good.b2nd"))})
    lazy.save(str(tmp_path / "lazy.b2nd"))
    with pytest.raises(SegflowError, match=r"cannot read .*lazy\.b2nd: it is not a plain array"):
        READER.read_image([tmp_path / "lazy.b2nd"])
    with pytest.raises(SegflowError, match=r"there is no file .*gone\.b2nd"):
        READER.read_image([tmp_path / "gone.b2nd"])


def test_the_reader_is_chosen_by_its_ending(tmp_path: Path) -> None:
    file = saved(tmp_path / "a_0000.b2nd", np.ones((3, 4, 5), "u1"), spacing=[2, 1, 1])
    assert choose_reader(".b2nd", file).name == "Blosc2IO"
