from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.storage import array_files
from segflow.storage.chunks import chunk_and_block
from segflow.storage.preprocessed_store import PreprocessedStore

SHAPE = (20, 30, 25)


def make_case(case_id: str = "case_1", shape: tuple[int, ...] = SHAPE, channels: int = 2) -> PreprocessedCase:
    random = np.random.default_rng(0)
    image = random.normal(size=(channels, *shape)).astype(np.float32)
    label = random.integers(-1, 3, size=shape).astype(np.int16)
    spatial = SpatialRecord(
        geometry=Geometry((1.0, 1.0, 1.0), {"origin": [1.0, 2.0, 3.0]}),
        shape_original=shape,
        axis_order=(0, 1, 2),
        crop=Box.whole(shape),
        spacing_transposed=(1.0, 1.0, 1.0),
        spacing_plan=(1.0, 1.0, 1.0),
        shape_plan=shape,
    )
    locations = {key: np.argwhere(label == key)[::-1].astype(np.int32) for key in (1, 7)} | {
        (1, 2): np.argwhere(label >= 1).astype(np.int32)
    }
    return PreprocessedCase(case_id, image, label, spatial, locations)


@pytest.fixture
def store(tmp_path: Path) -> PreprocessedStore:
    result = PreprocessedStore(tmp_path / "arrays")
    result.write(make_case(), (8, 16, 16), {"made_from": {"spacing": [1.0]}})
    return PreprocessedStore(tmp_path / "arrays")


def test_what_is_written_is_read(store: PreprocessedStore) -> None:
    case, stored = make_case(), store.open("case_1")
    assert store.case_ids() == ["case_1"]
    assert (stored.case_id, stored.shape, stored.channels) == ("case_1", SHAPE, 2)
    assert stored.spatial == case.spatial
    assert np.array_equal(stored.read_image(), case.image)
    assert np.array_equal(stored.read_label(), case.label)
    assert stored.read_image().dtype == np.float32
    assert stored.read_label().dtype == np.int16
    assert stored.properties["made_from"] == {"spacing": [1.0]}
    assert store.is_whole("case_1")


def test_boxes_are_read_in_part(store: PreprocessedStore) -> None:
    case, stored = make_case(), store.open("case_1")
    box = Box((3, 0, 20), (7, 30, 25))
    assert np.array_equal(stored.read_image(box), case.image[:, 3:7, :, 20:])
    assert np.array_equal(stored.read_label(box), case.label[3:7, :, 20:])
    with pytest.raises(ValueError, match="sticks out"):
        stored.read_label(Box((0, 0, -1), (1, 1, 5)))


def test_locations_come_one_at_a_time(store: PreprocessedStore) -> None:
    case, foreground = make_case(), store.open("case_1").foreground
    assert foreground.keys == (1, (1, 2))
    assert foreground.count(7) == 0
    for key in foreground.keys:
        voxels = case.foreground_locations[key]
        assert foreground.count(key) == len(voxels)
        for index in (0, 1, len(voxels) - 1):
            assert foreground.location(key, index) == tuple(voxels[index])
    with pytest.raises(IndexError):
        foreground.location(1, foreground.count(1))


def test_an_open_store_travels_to_a_worker(store: PreprocessedStore) -> None:
    store.open("case_1").read_image()
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.open("case_1").read_label(), make_case().label)


@pytest.mark.parametrize("at_once", [1, 5000, 1 << 26])
@pytest.mark.parametrize("in_memory", [0, 1 << 26])
@pytest.mark.parametrize("patch", [(16, 16, 16), (24, 24)])
def test_an_array_is_compressed_in_goes_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, in_memory: int, patch: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).normal(size=(2, 37, 50, 41)).round(1).astype(np.float32)
    monkeypatch.setattr(array_files, "_SMALL", 0)
    monkeypatch.setattr(array_files, "_AT_ONCE", at_once)
    monkeypatch.setattr(array_files, "_IN_MEMORY", in_memory)
    checks = array_files.write_array(tmp_path / "a.b2nd", array, patch)
    assert checks["bytes"] == (tmp_path / "a.b2nd").stat().st_size
    options = array_files._options(array, patch, 1)
    if in_memory:
        expected = blosc2.asarray(array, contiguous=True, **options).to_cframe()
    else:
        blosc2.asarray(array, urlpath=str(tmp_path / "b.b2nd"), **options)
        expected = (tmp_path / "b.b2nd").read_bytes()
    assert (tmp_path / "a.b2nd").read_bytes() == expected
    assert np.array_equal(blosc2.open(str(tmp_path / "a.b2nd"), mode="r")[:], array)


def test_a_case_without_label_or_image(store: PreprocessedStore) -> None:
    whole = make_case("images_only")
    store.write(PreprocessedCase("images_only", whole.image, None, whole.spatial), (8, 8, 8))
    with pytest.raises(SegflowError, match=r"case 'images_only'.*without a reference label"):
        store.open("images_only").read_label()
    store.write(PreprocessedCase("labels_only", whole.image[:0], whole.label, whole.spatial), (8, 8, 8))
    assert store.open("labels_only").channels == 0
    assert np.array_equal(store.open("labels_only").read_label(), whole.label)
    assert store.open("labels_only").foreground.keys == ()


def test_rewriting_and_removing(store: PreprocessedStore) -> None:
    store.open("case_1").read_image()
    changed = make_case()
    changed.image[...] = 3
    store.write(changed, (8, 16, 16))
    assert (store.open("case_1").read_image() == 3).all()
    store.remove("case_1")
    assert store.case_ids() == []
    assert not list(store.folder.iterdir())
    with pytest.raises(SegflowError, match=r"case 'case_1'.*segflow preprocess"):
        store.open("case_1")


def test_nothing_in_the_folder_is_a_pickle(store: PreprocessedStore) -> None:
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".b2nd", ".b2nd", ".json", ".npy"]
    np.load(store.folder / "case_1_locations.npy", allow_pickle=False)
    assert json.loads((store.folder / "case_1.json").read_text())["format"] == 1


def test_other_tools_can_open_the_arrays(store: PreprocessedStore) -> None:
    image = blosc2.open(str(store.folder / "case_1.b2nd"), mode="r")
    assert image.shape == (2, *SHAPE)
    assert image.chunks[0] == 1
    assert blosc2.open(str(store.folder / "case_1_seg.b2nd"), mode="r").shape == (1, *SHAPE)


@pytest.mark.parametrize("name", ["case_1.b2nd", "case_1_seg.b2nd", "case_1_locations.npy"])
@pytest.mark.parametrize("damage", ["shorter", "garbage", "middle", "missing"])
def test_a_damaged_array_is_named_with_the_way_out(store: PreprocessedStore, name: str, damage: str) -> None:
    file = store.folder / name
    size = file.stat().st_size
    if damage == "missing":
        file.unlink()
    elif damage == "shorter":
        os.truncate(file, size // 2)
    else:
        start = size // 2 if damage == "middle" else 0
        with file.open("r+b") as stream:
            stream.seek(start)
            stream.write(b"\xa5" * (size - start))
    if damage != "missing":
        os.utime(file, (2e9, 2e9))
    assert not store.is_whole("case_1")
    if name.endswith(".npy") and damage == "middle":
        return  # plain numbers: only the checksum can tell
    stored = store.open("case_1")
    with pytest.raises(SegflowError, match=r"case 'case_1'.*damaged.*segflow preprocess"):
        stored.read_image(), stored.read_label(), stored.foreground.location(1, 0)


def test_touching_a_file_is_not_damage(store: PreprocessedStore) -> None:
    os.utime(store.folder / "case_1.b2nd", (2e9, 2e9))
    assert store.is_whole("case_1")


def test_damaged_properties_are_named(store: PreprocessedStore) -> None:
    (store.folder / "case_1.json").write_text('{"format": 1}')
    with pytest.raises(SegflowError, match=r"case 'case_1'.*properties"):
        store.open("case_1")
    assert not store.is_whole("case_1")


def test_a_full_disk_leaves_no_half_case(tmp_path: Path, store: PreprocessedStore) -> None:
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, previous[1]))
        with pytest.raises(SegflowError, match=r"case 'case_2': cannot write .*case_2.b2nd: File too large"):
            store.write(make_case("case_2"), (8, 16, 16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.case_ids() == ["case_1"]
    assert not [path.name for path in store.folder.iterdir() if path.name.startswith(".writing")]


FEW_FILES = """
import os, resource, sys
from pathlib import Path
from segflow.core.errors import SegflowError
from segflow.storage.preprocessed_store import PreprocessedStore
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
store = PreprocessedStore(Path(sys.argv[1]))
for _ in range(2):
    for case_id in store.case_ids():
        case = store.open(case_id)
        print(float(case.read_image().sum()), case.read_label().sum(), case.foreground.location(1, 0))
held = []
try:
    while True:
        held.append(open(os.devnull))
except OSError:
    pass
for read in (lambda case: case.read_image(), lambda case: case.foreground.location(1, 0)):
    try:
        read(store.open("case_0"))
    except SegflowError as error:
        print(error)
"""


def test_more_cases_than_open_files(tmp_path: Path) -> None:
    store = PreprocessedStore(tmp_path)
    for number in range(40):
        store.write(make_case(f"case_{number}", (4, 6, 5)), (4, 6, 5))
    done = subprocess.run([sys.executable, "-c", FEW_FILES, tmp_path], capture_output=True, text=True, check=True)
    *values, first, second = done.stdout.splitlines()
    case = make_case("any", (4, 6, 5))
    assert (
        values
        == [f"{float(case.image.sum())} {case.label.sum()} {tuple(map(int, case.foreground_locations[1][0]))}"] * 80
    )
    for message, name in ((first, "case_0.b2nd"), (second, "case_0_locations.npy")):
        assert f"{name}: Too many open files" in message
        assert "ulimit -n" in message
        assert "damaged" not in message


def test_leftovers_of_killed_writers_are_cleared(store: PreprocessedStore) -> None:
    old, new = store.folder / ".writing-1-a.b2nd", store.folder / ".writing-2-b.b2nd"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.clear_unfinished()
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize(
    ("shape", "patch", "item", "chunk", "block"),
    [
        ((1, 300, 300, 300), (128, 128, 128), 4, (1, 128, 128, 96), (1, 32, 32, 32)),
        ((1, 300, 300, 300), (128, 128, 128), 2, (1, 192, 128, 128), (1, 64, 32, 32)),
        ((1, 36, 50, 35), (40, 56, 40), 4, (1, 36, 50, 35), (1, 32, 32, 32)),
        ((3, 1, 1500, 1500), (512, 512), 4, (1, 1, 768, 768), (1, 1, 256, 128)),
    ],
)
def test_chunks_of_the_recipe(shape, patch, item, chunk, block) -> None:  # type: ignore[no-untyped-def]
    assert chunk_and_block(shape, patch, item) == (chunk, block)


@given(
    st.tuples(st.integers(1, 4), *[st.integers(1, 700)] * 3),
    st.one_of(st.tuples(*[st.integers(1, 600)] * 2), st.tuples(*[st.integers(1, 300)] * 3)),
    st.sampled_from([2, 4]),
)
def test_chunks_fit_the_array_and_the_limits(shape, patch, item) -> None:  # type: ignore[no-untyped-def]
    chunk, block = chunk_and_block(shape, patch, item)
    assert chunk[0] == block[0] == 1
    assert all(1 <= b <= c <= n for b, c, n in zip(block[1:], chunk[1:], shape[1:], strict=True))
    assert np.prod(block) * item <= 128 * 1024
    assert np.prod(chunk) * item <= 6 * 1024**2


@pytest.mark.parametrize("place", [3, 12, 30, 60, -20])
def test_damage_at_the_ends_of_an_array_is_seen_before_the_library_sees_it(
    store: PreprocessedStore, place: int
) -> None:
    file = store.folder / "case_1_seg.b2nd"
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=r"damaged: case_1_seg\.b2nd is not what was written"):
        store.open("case_1").read_label()


@pytest.mark.parametrize("kind", ["LazyArray", "b2o", "proxy-source"])
def test_a_file_that_would_open_others_or_run_something_is_refused(store: PreprocessedStore, kind: str) -> None:
    file, marker = store.folder / "case_1_seg.b2nd", store.folder / "case_1.json"
    blosc2.asarray(np.zeros((1, *SHAPE), np.int16), urlpath=str(file), mode="w", meta={kind: {"kind": "lazyexpr"}})
    content = json.loads(marker.read_text())
    content["files"][file.name] = {"bytes": file.stat().st_size, "crc32": 0}  # as arrays of earlier releases have it
    marker.write_text(json.dumps(content))
    with pytest.raises(SegflowError, match="it is not a plain array"):
        PreprocessedStore(store.folder).open("case_1").read_label()


def test_a_case_reads_no_files_but_its_own(store: PreprocessedStore) -> None:
    (store.folder.parent / "secret").write_bytes(b"x")
    marker = store.folder / "case_1.json"
    content = json.loads(marker.read_text())
    content["files"]["../secret"] = {"bytes": 2, "crc32": 0}
    marker.write_text(json.dumps(content))
    assert store.is_whole("case_1")  # of what is listed, only the case's own files count
    with pytest.raises(SegflowError, match="the name of a case"):
        store.open("../secret")
