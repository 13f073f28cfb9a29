"""One pass over the two label maps of a case: the counts of all pairs of labels, and the box of each label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segflow.core.geometry import Box
from segflow.evaluation.label_maps import LabelMap, slabs_of
from segflow.evaluation.overlap import JointCounts, count_pairs


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over both maps finds.

    Attributes:
        counts: Number of voxels of each pair of labels.
        boxes: Label → its box in both maps together, of those that occur.
    """

    counts: JointCounts
    boxes: Mapping[int, Box]

    def box(self, members: Iterable[int]) -> Box | None:
        """The box of some labels together; None if none of them occurs."""
        found = [self.boxes[value] for value in members if value in self.boxes]
        return None if not found else _hull(found)


def scan_maps(reference: LabelMap, prediction: LabelMap, highest: int) -> Scan:
    """Look at each voxel of both maps once, slab by slab.

    Args:
        reference, prediction: Label maps of one shape.
        highest: Boxes are found of the labels 1 to this one.
    """
    counts: list[JointCounts] = []
    boxes: dict[int, list[Box]] = {}
    background = 0
    for slab in slabs_of(Box.whole(reference.shape)):
        ours, theirs = reference.read(slab), prediction.read(slab)
        filled = _filled(ours | theirs)
        background += ours.size - math.prod(filled.shape)
        if not math.prod(filled.shape):
            continue
        ours, theirs = (np.ascontiguousarray(part[filled.slices]) for part in (ours, theirs))
        counts.append(count_pairs(ours, theirs, values=(0,)))
        corner = [a + b for a, b in zip(slab.start, filled.start, strict=True)]
        for part in (ours, theirs):
            for value, found in enumerate(ndimage.find_objects(part, highest), start=1):
                if found is not None:
                    boxes.setdefault(value, []).append(_moved(found, corner))
    together = JointCounts.together(counts or [JointCounts((0,), np.zeros((1, 1), dtype=np.int64))])
    zero = together.values.index(0)
    together.counts[zero, zero] += background
    return Scan(together, {value: _hull(found) for value, found in boxes.items()})


def _filled(either: np.ndarray) -> Box:
    """The box of all values but 0; an empty one if there are none."""
    planes = np.bitwise_or.reduce(either.reshape(len(either), -1), axis=1)
    flat = np.bitwise_or.reduce(either, axis=0)
    spans = []
    for hits in (planes, flat.any(axis=1), flat.any(axis=0)):
        places = np.flatnonzero(hits)
        spans.append((int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0))
    starts, stops = zip(*spans, strict=True)
    return Box(starts, stops)


def _moved(found: tuple[slice, ...], corner: Iterable[int]) -> Box:
    pairs = list(zip(found, corner, strict=True))
    return Box(tuple(part.start + n for part, n in pairs), tuple(part.stop + n for part, n in pairs))


def _hull(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds some boxes."""
    starts, stops = ([getattr(box, end) for box in boxes] for end in ("start", "stop"))
    return Box(tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True))))
