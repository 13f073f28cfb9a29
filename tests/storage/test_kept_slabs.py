from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segflow.core.geometry import Box
from segflow.storage import kept_slabs
from segflow.storage.images import reader_by_name
from segflow.storage.kept_slabs import KeptSlabs
from segflow.storage.open_volumes import open_source


class Chunks:
    """An array that counts how often each of its chunks is unpacked."""

    def __init__(self, array: np.ndarray, chunk: tuple[int, ...]) -> None:
        self.array, self.chunk = array, chunk
        self.unpacked = np.zeros([-(-n // c) for n, c in zip(array.shape[1:], chunk, strict=True)], int)

    def read(self, box: Box) -> np.ndarray:
        touched = (slice(a // c, -(-b // c)) for a, b, c in zip(box.start, box.stop, self.chunk, strict=True))
        self.unpacked[tuple(touched)] += 1
        return self.array[(slice(None), *box.slices)]


@pytest.mark.parametrize("in_memory", [0, 1 << 26])
def test_each_chunk_is_unpacked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_memory: int) -> None:
    monkeypatch.setattr(kept_slabs, "IN_MEMORY", in_memory)
    monkeypatch.setattr(kept_slabs, "_AT_ONCE", 1000)
    array = np.random.default_rng(0).integers(0, 999, size=(2, 45, 30, 20)).astype(np.int16)
    chunks = Chunks(array, (16, 8, 8))
    kept = KeptSlabs(chunks.read, array.shape, array.dtype, chunks.chunk, tmp_path)
    for z in range(0, 45, 3):  # each reading goes back a little, as those of tiles and bands do
        box = Box((max(0, z - 5), 0, 0), (min(45, z + 3), 30, 20))
        values = kept.read(box)
        assert values.dtype == np.int16
        assert np.array_equal(values, array[(slice(None), *box.slices)])
    assert (chunks.unpacked == 1).all()


SHARES = st.integers(0, 1000).map(lambda n: n / 1000)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    chunk=st.tuples(*[st.integers(1, 7)] * 3),
    corners=st.lists(st.tuples(*[st.tuples(SHARES, SHARES)] * 3), min_size=1, max_size=6),
)
def test_any_box_has_its_values(shape: tuple[int, ...], chunk: tuple[int, ...], corners: list) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    kept = KeptSlabs(Chunks(array, chunk).read, array.shape, array.dtype, chunk)
    for corner in corners:
        start = tuple(int(a * (n - 1)) for (a, _), n in zip(corner, shape, strict=True))
        stop = tuple(s + 1 + int(b * (n - s - 1)) for s, (_, b), n in zip(start, corner, shape, strict=True))
        box = Box(start, stop)
        assert np.array_equal(kept.read(box), array[(slice(None), *box.slices)])


def test_slices_of_a_compressed_array_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, size=(20, 30, 40)).astype(np.uint8)
    stored = blosc2.asarray(array, urlpath=str(tmp_path / "x_0000.b2nd"), chunks=(8, 16, 16), blocks=(8, 8, 8))
    stored.schunk.vlmeta["spacing"] = [1.0, 1.0, 1.0]
    del stored
    reads: list[Box] = []
    plain = kept_slabs.KeptSlabs._boxes
    monkeypatch.setattr(KeptSlabs, "_boxes", lambda self, *ends: [reads.append(b) or b for b in plain(self, *ends)])
    with open_source([tmp_path / "x_0000.b2nd"], reader_by_name("Blosc2IO")) as source:
        for z in range(20):
            found = source.read(Box((z, 0, 0), (z + 1, 30, 40)))
            assert found.dtype == np.float32
            assert np.array_equal(found[0, 0], array[z])
    assert [(box.start[0], box.stop[0]) for box in reads] == [(0, 8), (8, 16), (16, 20)]
