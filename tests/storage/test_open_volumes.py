"""Images, label maps and maps that are read and written box by box hold the same values as those handled at once."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.storage.image_formats import inflate
from segflow.storage.images import ImageIO, reader_by_name
from segflow.storage.listing import list_folder
from segflow.storage.open_volumes import label_sink, map_sink, open_label_source, open_source, writes_in_boxes

NIFTI_READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
SCALINGS = [None, (2.5, -100.0)]
DTYPES = ["<u1", "<i2", ">i2", "<u2", "<i4", "<f4", ">f4", "<f8"]
Usage = namedtuple("Usage", "total used free")


def some_boxes(shape: tuple[int, ...], rng: np.random.Generator, count: int = 6) -> list[Box]:
    starts = [[int(rng.integers(0, n)) for n in shape] for _ in range(count)]
    stops = [[int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)] for start in starts]
    return [Box.whole(shape), *(Box(tuple(a), tuple(b)) for a, b in zip(starts, stops, strict=True))]


def tiling(shape: tuple[int, ...], rng: np.random.Generator) -> list[Box]:
    """Boxes that cover a volume once, in any order."""
    cuts = [sorted({0, n, *(int(c) for c in rng.integers(0, n + 1, 2))}) for n in shape]
    pairs = [list(itertools.pairwise(c)) for c in cuts]
    boxes = [Box(tuple(a for a, _ in p), tuple(b for _, b in p)) for p in itertools.product(*pairs)]
    return [boxes[k] for k in rng.permutation(len(boxes))]


def saved(
    file: Path, array: np.ndarray, scaling: tuple[float, float] | None = None, affine: np.ndarray | None = None
) -> Path:
    """Stored numbers (x, y, z, channels) in a NIfTI of their own type and byte order."""
    affine = np.diag([0.5, 0.75, 2.0, 1.0]) if affine is None else affine
    order = ">" if array.dtype.byteorder == ">" else "<"
    image = nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=order), dtype=array.dtype)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize("name", NIFTI_READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_boxes_of_a_nifti_hold_what_the_whole_image_holds(tmp_path: Path, name: str, ending: str) -> None:
    rng = np.random.default_rng(1)
    reader = reader_by_name(name)
    shapes = [(4, 5, 6), (4, 5, 6, 3), (7, 4)]
    for number, (dtype, scaling) in enumerate(itertools.product(DTYPES, SCALINGS)):
        array = rng.integers(0, 120, shapes[number % 3]).astype(dtype)
        file = saved(tmp_path / f"a_0000{ending}", array, scaling)
        whole, geometry = reader.read_image([file])
        with open_source([file], reader) as source:
            assert (source.shape, source.geometry) == (whole.shape, geometry)
            for box in some_boxes(source.shape[1:], rng):
                part = source.read(box)
                assert part.dtype == np.float32
                np.testing.assert_array_equal(part, whole[(slice(None), *box.slices)])


@pytest.mark.parametrize("name", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_boxes_follow_every_order_of_the_axes_when_read_and_when_written(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(2)
    reader = reader_by_name(name)
    canonical = nibabel.Nifti1Image(
        np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5), np.diag([0.5, 0.75, 2.0, 1.0])
    )
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            file = tmp_path / "turned.nii"
            nibabel.save(canonical.as_reoriented(np.array(list(zip(order, flips, strict=True)))), file)
            whole, geometry = reader.read_image([file])
            with open_source([file], reader) as source:
                assert (source.shape, source.geometry) == (whole.shape, geometry)
                for box in some_boxes(source.shape[1:], rng, 2):
                    np.testing.assert_array_equal(source.read(box), whole[(slice(None), *box.slices)])
            reader.write_label(whole[0].astype(np.int16), geometry, tmp_path / "whole.nii")
            with label_sink(tmp_path / "boxes.nii", whole.shape[1:], geometry, reader, highest=59) as sink:
                for box in tiling(whole.shape[1:], rng):
                    sink.write(box, whole[0][box.slices].astype(np.int16))
            assert (tmp_path / "boxes.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()


@pytest.mark.parametrize("name", NIFTI_READERS)
def test_boxes_of_labels_hold_what_the_whole_label_map_holds(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(3)
    reader = reader_by_name(name)
    for dtype, scaling in [("<u1", None), ("<i2", (0.5, 0.0)), (">u2", None), ("<f4", None), ("<f8", None)]:
        array = (rng.integers(0, 4, (4, 5, 6)) * (2 if scaling else 1)).astype(dtype)
        file = saved(tmp_path / "a.nii.gz", array, scaling)
        whole, geometry = reader.read_label(file)
        with open_label_source(file, reader) as source:
            assert (source.shape, source.geometry) == (whole.shape, geometry)
            for box in some_boxes(source.shape, rng):
                part = source.read(box)
                assert part.dtype == source.dtype
                np.testing.assert_array_equal(part, whole[box.slices])


@pytest.mark.parametrize("name", NIFTI_READERS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("flat", [False, True])
def test_what_is_written_in_boxes_equals_what_is_written_at_once(
    tmp_path: Path, name: str, ending: str, flat: bool
) -> None:
    rng = np.random.default_rng(4)
    reader = reader_by_name(name)
    affine = np.array([[0, -0.75, 0, 3], [0.5, 0, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    image = saved(tmp_path / "a_0000.nii", rng.integers(0, 9, (4, 5) if flat else (4, 5, 6)).astype("i2"), None, affine)
    voxels, geometry = reader.read_image([image])
    shape = voxels.shape[1:]
    planes = [Box((z, 0, 0), (z + 1, *shape[1:])) for z in range(shape[0])]
    one, many = tmp_path / f"one{ending}", tmp_path / f"many{ending}"
    for boxes in (planes, tiling(shape, rng), [*planes[:1], *planes[:0:-1]]):
        for highest in (4, 254, 255, 65535):
            label = rng.integers(0, highest + 1, shape)
            label.flat[0] = highest
            reader.write_label(label, geometry, one)
            with label_sink(many, shape, geometry, reader, highest=highest) as sink:
                for box in boxes:
                    sink.write(box, label[box.slices])
                assert not many.exists() or many.stat().st_mtime_ns < one.stat().st_mtime_ns
            assert_same_nifti(one, many)
        values = rng.random(shape, np.float32)
        reader.write_map(values, geometry, one)
        with map_sink(many, shape, geometry, reader) as sink:
            for box in boxes:
                sink.write(box, values[box.slices])
        assert_same_nifti(one, many)
    assert {file.name for file in tmp_path.iterdir()} == {"a_0000.nii", one.name, many.name}


def assert_same_nifti(one: Path, other: Path) -> None:
    first, second = (file.read_bytes() for file in (one, other))
    assert (first == second) if one.suffix == ".nii" else gzip.decompress(first) == gzip.decompress(second)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_voxels_that_are_never_written_are_background(tmp_path: Path, ending: str) -> None:
    reader, geometry = reader_by_name("SimpleITKIO"), Geometry((2.0, 1.0, 1.0))
    file = tmp_path / f"a{ending}"
    for box in (Box((0, 0, 0), (1, 4, 5)), Box((1, 1, 1), (2, 3, 3))):
        with label_sink(file, (3, 4, 5), geometry, reader, highest=3) as sink:
            sink.write(box, np.full(box.shape, 3, np.uint8))
        expected = np.zeros((3, 4, 5), np.int16)
        expected[box.slices] = 3
        np.testing.assert_array_equal(reader.read_label(file)[0], expected)


def test_a_format_that_is_read_at_once_is_not_opened_and_written_all_the_same(tmp_path: Path) -> None:
    reader, geometry = reader_by_name("SimpleITKIO"), Geometry((2.0, 1.0, 1.0))
    file = tmp_path / "a_0000.nrrd"
    values = np.random.default_rng(5).random((3, 4, 5), np.float32)
    with map_sink(file, (3, 4, 5), geometry, reader) as sink:
        sink.write(Box.whole((3, 4, 5)), values)
    np.testing.assert_array_equal(reader.read_image([file])[0][0], values)
    assert open_source([file], reader) is None
    assert open_label_source(file, reader) is None
    assert not writes_in_boxes(file, reader)
    assert writes_in_boxes(tmp_path / "a.nii.gz", reader)


def test_channels_of_several_files_follow_one_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    reader = reader_by_name("NibabelIO")
    files = [
        saved(tmp_path / f"a_000{k}.nii.gz", rng.integers(0, 99, (4, 5, 6, *more)).astype("i2"))
        for k, more in enumerate(((), (2,), ()))
    ]
    whole, _ = reader.read_image(files)
    with open_source(files, reader) as source:
        assert source.shape == (4, 6, 5, 4)
        for box in some_boxes((6, 5, 4), rng):
            np.testing.assert_array_equal(source.read(box), whole[(slice(None), *box.slices)])
    other = saved(tmp_path / "b_0001.nii", np.zeros((4, 5, 7), "i2"))
    with pytest.raises(SegflowError, match=r"differ in shape .*b_0001"):
        open_source([files[0], other], reader)
    other = saved(tmp_path / "b_0001.nii", np.zeros((4, 5, 6), "i2"), None, np.diag([1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(SegflowError, match=r"differ in spacing .*b_0001"):
        open_source([files[0], other], reader)


def test_a_packed_file_of_several_members_and_with_bytes_behind_them_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inflate, "STEP_BYTES", 100)
    array = np.random.default_rng(7).integers(0, 99, (9, 8, 7)).astype("i2")
    content = saved(tmp_path / "a.nii", array).read_bytes()
    packed = b"".join(gzip.compress(content[k : k + 700]) for k in range(0, len(content), 700))
    for tail in (b"", b"\0" * 300, b"more"):
        (tmp_path / "b.nii.gz").write_bytes(packed + tail)
        with open_source([tmp_path / "b.nii.gz"], reader_by_name("NibabelIO")) as source:
            np.testing.assert_array_equal(source.read(Box.whole((7, 8, 9)))[0], array.T)
        assert ("passed over" in caplog.text) == (tail == b"more")


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Name → content and the words that its error has."""
    array = np.random.default_rng(8).integers(0, 99, (20, 20, 20)).astype("i2")
    plain = saved(folder / "good.nii", array).read_bytes()
    packed = gzip.compress(plain)
    wrong_sum = bytearray(packed)
    wrong_sum[-6] ^= 1
    return {
        "short.nii": (plain[:-1], "truncated"),
        "short.nii.gz": (packed[: len(packed) // 2], "truncated"),
        "endless.nii.gz": (packed[:-4], "truncated"),
        "less.nii.gz": (gzip.compress(plain[:-1]), "truncated"),
        "sum.nii.gz": (bytes(wrong_sum), "checksum"),
        "more.nii.gz": (gzip.compress(plain + bytes(inflate.SURPLUS_BYTES + 1)), "far more"),
        "text.nii": (b"no image " * 99, "not a NIfTI"),
    }


def test_damaged_files_are_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name, (content, words) in bad_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SegflowError, match=rf"cannot read .*{name}.*{words}"):
            open_source([tmp_path / name], reader_by_name("NibabelIO"))
        (tmp_path / name).unlink()
    assert [file.name for file in tmp_path.iterdir()] == ["good.nii"]
    with pytest.raises(SegflowError, match=r"there is no file .*gone\.nii"):
        open_source([tmp_path / "gone.nii"], reader_by_name("NibabelIO"))


def test_a_label_map_of_several_channels_or_with_fractions_is_refused(tmp_path: Path) -> None:
    reader = reader_by_name("NibabelIO")
    with pytest.raises(SegflowError, match="several channels"):
        open_label_source(saved(tmp_path / "a.nii", np.zeros((3, 4, 5, 2), "u1")), reader)
    array = np.zeros((3, 4, 5), "f4")
    array[2, 3, 4] = 0.5
    with open_label_source(saved(tmp_path / "b.nii", array), reader) as source:
        assert not source.read(Box((0, 0, 0), (4, 4, 3))).any()
        with pytest.raises(SegflowError, match=r"b\.nii holds values that are not whole"):
            source.read(Box.whole((5, 4, 3)))


def write_a_wrong_label(file: Path, reader: ImageIO, geometry: Geometry, box: Box) -> None:
    values = np.full(box.shape, 7, np.int16)
    values[0, 0, 0] = -1
    with label_sink(file, (3, 4, 5), geometry, reader, highest=3) as sink:
        sink.write(box, np.ones(box.shape, np.uint8))
        sink.write(box, values)


def stop_while_writing(file: Path, reader: ImageIO, geometry: Geometry, box: Box) -> None:
    with map_sink(file, (3, 4, 5), geometry, reader) as sink:
        sink.write(box, np.ones(box.shape, np.float32))
        raise KeyboardInterrupt


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_a_sink_that_fails_leaves_no_file_and_an_earlier_one_as_it_was(tmp_path: Path, ending: str) -> None:
    reader, geometry = reader_by_name("SimpleITKIO"), Geometry((2.0, 1.0, 1.0))
    file, box = tmp_path / f"a{ending}", Box((1, 0, 0), (2, 4, 5))
    for _ in range(2):
        before = file.read_bytes() if file.exists() else None
        with pytest.raises(SegflowError, match=r"labels -1…7.*expected 0…3"):
            write_a_wrong_label(file, reader, geometry, box)
        with pytest.raises(KeyboardInterrupt):
            stop_while_writing(file, reader, geometry, box)
        assert (file.read_bytes() if file.exists() else None) == before
        assert [found.name for found in tmp_path.iterdir()] == ([] if before is None else [file.name])
        reader.write_label(np.ones((3, 4, 5), np.uint8), geometry, file)


def test_space_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, geometry = reader_by_name("NibabelIO"), Geometry((2.0, 1.0, 1.0))
    packed = saved(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), "i2"))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10, 0, 10))
    with pytest.raises(SegflowError, match=r"reading .*a\.nii\.gz needs more temporary space.*TMPDIR") as caught:
        open_source([packed], reader)
    assert not isinstance(caught.value, NoSpaceError)  # the next image may be smaller
    with pytest.raises(NoSpaceError), label_sink(tmp_path / "b.nii", (3, 4, 5), geometry, reader, highest=3):
        pytest.fail("the work began")
    assert not (tmp_path / "b.nii").exists()


@pytest.mark.parametrize(
    ("name", "ending"),
    [("NibabelIO", ".nii"), ("NibabelIO", ".nii.gz"), ("OMEZarrIO", ".ome.zarr"), ("Blosc2IO", ".b2nd")],
)
def test_a_killed_process_leaves_nothing_that_looks_like_a_label_map(tmp_path: Path, name: str, ending: str) -> None:
    reader, geometry, file = reader_by_name(name), Geometry((2.0, 1.0, 1.0)), tmp_path / f"a{ending}"
    box, values = Box((0, 0, 0), (2, 4, 5)), np.ones((2, 4, 5), np.uint8)
    child = os.fork()
    if child == 0:
        with label_sink(file, (3, 4, 5), geometry, reader, highest=3) as sink:
            sink.write(box, values)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    listing = list_folder(tmp_path)
    assert not listing.files
    assert not listing.folders
    with label_sink(file, (3, 4, 5), geometry, reader, highest=3) as sink:
        sink.write(box, values)
    label, _ = reader.read_label(file)
    assert label.sum() == values.sum()
    assert list_folder(tmp_path).files == (file.name,)
