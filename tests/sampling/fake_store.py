"""Cases in memory with the interface of stored ones."""

from __future__ import annotations

import numpy as np

from segflow.core.geometry import Box


class FakeForeground:
    """Locations of every key in a dictionary of coordinates."""

    def __init__(self, locations):
        self.locations = {key: np.asarray(value) for key, value in locations.items() if len(value)}

    @property
    def keys(self):
        return tuple(self.locations)

    def count(self, key):
        return len(self.locations[key])

    def location(self, key, index):
        return tuple(int(v) for v in self.locations[key][index])


class FakeCase:
    """A case whose arrays lie in memory; refuses boxes that stick out, as the stored one does."""

    case_id = "fake"

    def __init__(self, image, label, locations=None):
        self.image, self.label = image, label
        self.shape, self.channels = image.shape[1:], image.shape[0]
        if locations is None:
            locations = {int(k): np.argwhere(label == k) for k in np.unique(label) if k > 0}
        self.foreground = FakeForeground(locations)
        self.voxels_read = 0

    def _check(self, box):
        assert all(0 <= a < b <= n for a, b, n in zip(box.start, box.stop, self.shape, strict=True)), box

    def read_image(self, box: Box):
        self._check(box)
        self.voxels_read += int(np.prod(box.shape))
        return self.image[(slice(None), *box.slices)]

    def read_label(self, box: Box):
        self._check(box)
        return self.label[box.slices]


class FakeStore:
    """A dictionary of cases."""

    def __init__(self, cases):
        self.cases = cases

    def open(self, case_id):
        return self.cases[case_id]


def make_case(shape=(20, 24, 28), channels=1, seed=0):
    """Random image, label map with a few voxels of labels 1 and 2."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    label = np.zeros(shape, np.int16)
    label[shape[0] // 4 : shape[0] // 2, 3:8, 4:9] = 1
    label[-1, -3:, -3:] = 2
    return FakeCase(image, label)
