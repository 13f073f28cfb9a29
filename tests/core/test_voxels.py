"""Reading and writing of volumes box by box."""

import numpy as np

from segflow.core.geometry import Box
from segflow.core.voxels import ArraySink, ArraySource


def test_boxes_read_and_written_one_by_one_give_the_volume():
    volume = np.random.default_rng(0).integers(0, 200, (1, 7, 5, 4)).astype(np.int16)
    source, copy = ArraySource(volume), np.zeros((7, 5, 4), np.float32)
    sink = ArraySink(copy)
    for start in range(0, 7, 3):
        box = Box((start, 0, 0), (min(start + 3, 7), 5, 4))
        sink.write(box, source.read(box)[0])
    assert source.shape == (1, 7, 5, 4)
    np.testing.assert_array_equal(copy, volume[0])


def test_what_is_read_belongs_to_the_caller():
    volume = np.ones((1, 2, 2, 2), np.float32)
    ArraySource(volume).read(Box.whole((2, 2, 2)))[...] = 5
    assert volume.max() == 1
