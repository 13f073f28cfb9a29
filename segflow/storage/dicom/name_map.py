"""Segments of DICOM objects on a grid: each voxel holds a set of names, since segments may overlap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import LARGEST_LABEL, LabelKey
from segflow.core.wording import counted, some

Names = frozenset[str]

OVERLAP = (
    "Let overlapping segments become regions: overlaps=regions; or give labels in which each overlap has a label of "
    "its own, such as 'labels={liver: [1, 2], tumour: 2}'; or leave one of them out."
)


@dataclass(frozen=True, slots=True)
class NameMap:
    """Which segments each voxel belongs to.

    Attributes:
        numbers: uint16 (Z, Y, X): number of the set of names in ``sets``; 0 is background.
        sets: The sets that occur. The first is empty.
        names: All segments in the order of their files, also those without a voxel.
    """

    numbers: np.ndarray
    sets: tuple[Names, ...]
    names: tuple[str, ...]

    def label_map(self, labels: Mapping[str, LabelKey]) -> np.ndarray:
        """The label map of a label definition; see `label_of_names`.

        Args:
            labels: Name → label, or list of labels for a region. Segments without an entry are left out.

        Returns:
            uint8 or uint16 (Z, Y, X).

        Raises:
            SegflowError: Two segments overlap, and no label stands for both.
        """
        values = label_of_names(labels)
        known = frozenset(name for name, key in labels.items() if key not in (0, (0,)))
        wanted = [names & known for names in self.sets]
        for number, names in enumerate(wanted):
            if names and names not in values:
                self._refuse(number, sorted(names))
        highest = max(values.values(), default=0)
        table = np.array([values.get(names, 0) for names in wanted], np.uint8 if highest < 256 else np.uint16)
        label: np.ndarray = table[self.numbers]
        return label

    def _refuse(self, number: int, names: list[str]) -> None:
        count = int(np.count_nonzero(self.numbers == number))
        where = [int(k) for k in np.argwhere(self.numbers == number)[0]] if count else []
        if len(names) > 1:
            raise SegflowError(
                f"the segments {' and '.join(repr(name) for name in names)} overlap",
                found=f"{counted(count, 'voxel')} in both, the first at z, y, x = {where}",
                expected="segments without a common voxel",
                fix=OVERLAP,
            )
        raise SegflowError(
            f"no label stands for '{names[0]}' alone",
            found=f"{counted(count, 'voxel')} outside the other regions, the first at z, y, x = {where}",
            fix="Give it a label of its own, such as 'labels={liver: [1, 2], tumour: [2, 3]}'.",
        )


class NameMapBuilder:
    """Builds a `NameMap` from the voxels of one segment after another.

    Args:
        shape: Voxels along z, y, x.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._numbers = np.zeros(tuple(shape), np.uint16)
        self._known: dict[Names, int] = {frozenset(): 0}
        self._names: dict[str, None] = {}

    def add(self, name: str, voxels: np.ndarray) -> None:
        """Add voxels to a segment.

        Args:
            name: Its name. A name without a voxel is kept too.
            voxels: int (N,): positions in the flattened grid.

        Raises:
            SegflowError: More sets of segments overlap than a label map has values.
        """
        self._names.setdefault(name)
        flat = self._numbers.reshape(-1)
        old = flat[voxels]
        table = np.zeros(len(self._known), np.uint16)
        sets = list(self._known)
        for number in np.flatnonzero(np.bincount(old, minlength=len(table))).tolist():
            table[number] = self._known.setdefault(sets[number] | {name}, len(self._known))
            if len(self._known) > LARGEST_LABEL:
                raise SegflowError("too many segments overlap in different ways", expected=f"at most {LARGEST_LABEL}")
        flat[voxels] = table[old]

    def build(self) -> NameMap:
        """The map of all voxels so far."""
        return NameMap(self._numbers, tuple(self._known), tuple(self._names))


def label_of_names(labels: Mapping[str, LabelKey]) -> dict[Names, int]:
    """The label that stands for a set of names: the one that belongs to exactly these.

    ``{liver: [1, 2], tumour: 2}`` gives ``{liver} → 1`` and ``{liver, tumour} → 2``.
    """
    names: dict[int, set[str]] = {}
    for name, key in labels.items():
        for value in (key,) if isinstance(key, int) else key:
            names.setdefault(value, set()).add(name)
    result: dict[Names, int] = {}
    for value in sorted(names):
        if value != 0:
            result.setdefault(frozenset(names[value]), value)
    return result


def labels_without_overlap(names: Iterable[str]) -> dict[str, LabelKey]:
    """A label for each name, from 1 on in their order, and background."""
    named = [name for name in dict.fromkeys(names) if name != "background"]
    return {"background": 0, **{name: number for number, name in enumerate(named, 1)}}


def labels_with_overlap(names: Iterable[str], sets: Iterable[Names]) -> dict[str, LabelKey]:
    """Labels in which segments that overlap are regions.

    Each name has a label for itself, from 1 on in their order, and each set of names that occurs together another one
    behind them. A name's region unites all labels that contain it. A name that never occurs alone has no label of its
    own unless it would have none at all. Larger regions come first.

    Args:
        names: The names, of all cases.
        sets: The sets of names that occur, of all cases.
    """
    order = {name: number for number, name in enumerate(dict.fromkeys(n for n in names if n != "background"))}
    found = {frozenset(s) for s in sets if s}
    alone = [frozenset({name}) for name in order if frozenset({name}) in found or not any(name in s for s in found)]
    together = sorted((s for s in found if len(s) > 1), key=lambda s: (len(s), sorted(order[name] for name in s)))
    regions: dict[str, list[int]] = {name: [] for name in order}
    for value, members in enumerate([*alone, *together], 1):
        if value > LARGEST_LABEL:
            raise SegflowError("too many segments overlap in different ways", found=some(sorted(order)))
        for name in members:
            regions[name].append(value)
    larger_first = sorted(regions.items(), key=lambda item: -len(item[1]))
    return {
        "background": 0,
        **{name: values[0] if len(values) == 1 else tuple(values) for name, values in larger_first},
    }


def painting_order(labels: Mapping[str, LabelKey]) -> list[int] | None:
    """``regions_class_order`` for regions that overlap without one containing the other; None if there are none.

    Each region is painted with its first value that no region inside it has.

    Args:
        labels: Name → label or region, larger ones first.
    """
    sets = [{key} if isinstance(key, int) else set(key) for name, key in labels.items() if name != "background"]
    if all(not one & other or one <= other or other <= one for one, other in combinations(sets, 2)):
        return None
    inside = [set().union(*(other for other in sets if other < one)) for one in sets]
    return [min(one - smaller or one) for one, smaller in zip(sets, inside, strict=True)]
