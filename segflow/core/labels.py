"""Meaning of the values in a label map: labels, regions and the ignore label (recipe 1.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.label_rules import (
    LARGEST_LABEL,
    MOST_LABELS,
    LabelKey,
    check_painting,
    classes_of,
    read_entries,
    read_order,
)
from segflow.core.labels_present import LabelsPresent
from segflow.core.names import shortened

__all__ = ["LARGEST_LABEL", "MOST_LABELS", "OUTSIDE", "LabelKey", "Labels", "key_from_text", "key_text"]

OUTSIDE = -1
"""Value of voxels outside the non-zero mask in a preprocessed label map (recipe 2)."""


VOXELS_AT_ONCE = 1 << 18
"""Voxels that are looked up together."""
WIDEST_TABLE = 1 << 17
"""Widest span of values that indexes a table directly."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The label definition of a dataset.

    Files hold *values*, which may be any: 0 and 255, 0 1 2 4. Everything within segflow counts *classes* 0, 1, 2, …:
    background, the others in the order of their values, then ignore. `to_classes` is applied as label maps are read,
    and `to_values` as they are written.

    Attributes:
        entries: Name → class or tuple of classes (a region), in the order of the network's outputs, background and
            ignore included.
        regions_class_order: Class that each region is painted with, in the order of the regions; None without regions.
        values: Class → its values in files, the first of which is written; the ignore label's come last. Empty if
            values and classes are the same.
        present: The labels that were drawn in cases in which not all were; None if all were in all cases. It says
            something of cases, not of labels, so definitions that differ in it are equal.
    """

    entries: Mapping[str, LabelKey]
    regions_class_order: tuple[int, ...] | None = None
    values: tuple[tuple[int, ...], ...] = field(default=())
    present: LabelsPresent | None = field(default=None, compare=False)

    @classmethod
    def from_json(cls, labels: Mapping[str, Any], regions_class_order: Any = None, label_values: Any = None) -> Labels:
        """Check and build from keys of dataset.json; see `segflow.core.label_rules`.

        Args:
            labels: Name → value or list of values.
            regions_class_order: Value that each region is painted with. None lets it follow from inclusion.
            label_values: Values that stand in files for each of the values above; see `to_consecutive`.

        Raises:
            SegflowError: A value is not a whole number or belongs to two names, or the order of regions does not fit
                them or does not follow from them.
        """
        found = classes_of(read_entries(labels), read_order(regions_class_order))
        same = found.values == tuple((number,) for number in range(len(found.values)))
        if label_values is not None:
            return cls(found.entries, found.order, _values_in_files(label_values, found.values))
        return cls(found.entries, found.order, () if same else found.values)

    def check_painting(self) -> None:
        """Refuse regions that a later one covers whole.

        Raises:
            SegflowError: There is one. The error names both.
        """
        if self.has_regions:
            check_painting(self.entries, self.value_of)

    def to_classes(self, array: np.ndarray) -> np.ndarray:
        """The classes of values.

        Args:
            array: Whole numbers as files hold them, any shape.

        Returns:
            The same shape. Values without a name become negative, each another, below `OUTSIDE`.
        """
        if not self.values:
            return array
        class_of = {value: number for number, own in enumerate(self.values) for value in own}
        classes = _looked_up(array, lambda value: class_of.get(value, OUTSIDE - 1))
        if not classes.size or int(classes.min()) >= OUTSIDE:
            return classes
        return _of_each(array, lambda value: class_of.get(value, _stray(value)))

    def to_values(self, array: np.ndarray) -> np.ndarray:
        """The values of classes; undoes `to_classes`, but a class of several values gets its first one.

        Args:
            array: Classes, any shape.

        Raises:
            SegflowError: A class has no value.
        """
        return _looked_up(array, self.value_of) if self.values else array

    def value_of(self, number: int) -> int:
        """The value that is written for a class."""
        if not self.values:
            return number
        if number < 0:
            return _stray_value(number)
        if number >= len(self.values):
            raise SegflowError("a class has no value", found=number, expected=f"0 to {len(self.values) - 1}")
        return self.values[number][0]

    @property
    def classes(self) -> tuple[int, ...]:
        """All classes that a label map may hold, ascending, with background and ignore."""
        return (*self.all_labels, *(() if self.ignore_label is None else (self.ignore_label,)))

    @property
    def declared_values(self) -> tuple[int, ...]:
        """All values that files may hold, ascending, with those of background and ignore."""
        return tuple(sorted(value for own in self.values for value in own)) if self.values else self.classes

    @property
    def highest_written(self) -> int:
        """The highest value of predicted label maps."""
        return max(self.value_of(number) for number in (*self.all_labels, *(self.regions_class_order or (0,))))

    def to_consecutive(self) -> dict[str, Any]:
        """Keys of a dataset.json for nnU-Net, which counts classes, and ``label_values``: their values in our files.

        Returns:
            ``labels``, ``regions_class_order`` with regions, and ``label_values`` if the values differ from the
            classes: one list of values for each class.
        """
        entries = {name: list(v) if isinstance(v, tuple) else v for name, v in self.entries.items()}
        content: dict[str, Any] = {"labels": entries}
        if self.has_regions:
            content["regions_class_order"] = list(self.regions_class_order or ())
        if self.values:
            content["label_values"] = [list(own) for own in self.values]
        return content

    @property
    def ignore_label(self) -> int | None:
        """Value of voxels without supervision, if the dataset has one."""
        value = self.entries.get("ignore")
        return value if isinstance(value, int) else None

    @property
    def has_regions(self) -> bool:
        """Whether any entry unites several labels; the network is then trained with sigmoids."""
        return any(isinstance(value, tuple) and len(value) > 1 for value in self.entries.values())

    @property
    def all_labels(self) -> tuple[int, ...]:
        """All label values but ignore, ascending, background included."""
        found: set[int] = set()
        for name, value in self.entries.items():
            if name != "ignore":
                found.update((value,) if isinstance(value, int) else value)
        return tuple(sorted(found))

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        """All label values but background and ignore, ascending."""
        return tuple(value for value in self.all_labels if value != 0)

    @property
    def regions(self) -> tuple[tuple[int, ...], ...]:
        """The foreground regions in declaration order; empty in a dataset without regions."""
        if not self.has_regions:
            return ()
        return tuple(
            (value,) if isinstance(value, int) else value
            for name, value in self.entries.items()
            if name != "ignore" and value not in (0, (0,))
        )

    @property
    def foreground_keys(self) -> tuple[LabelKey, ...]:
        """The keys of scores and of foreground sampling: the regions if there are any, else the foreground labels.

        The key of a region with a single label is that label.
        """
        if not self.has_regions:
            return self.foreground_labels
        return tuple(region[0] if len(region) == 1 else region for region in self.regions)

    def absent_keys(self, case_id: str) -> tuple[LabelKey, ...]:
        """The foreground keys that were not drawn in a case, so that its label map tells nothing of them."""
        drawn = None if self.present is None else self.present.of(case_id)
        return () if drawn is None else tuple(key for key in self.foreground_keys if key not in drawn)

    def absent_labels(self, case_id: str) -> dict[int, str]:
        """The labels that no voxel of a case may have → the name of the label or region that was not drawn."""
        keys = self.absent_keys(case_id)
        return {value: self.name_of(key) for key in keys for value in ((key,) if isinstance(key, int) else key)}

    @property
    def num_outputs(self) -> int:
        """Output channels of the network: regions, or labels with background."""
        return len(self.regions) if self.has_regions else len(self.all_labels)

    def name_of(self, key: LabelKey) -> str:
        """The name that dataset.json gives a label or region; its number where it has none."""
        wanted = {key} if isinstance(key, int) else {key, key[0]} if len(key) == 1 else {key}
        for name, value in self.entries.items():
            if value in wanted or (isinstance(value, tuple) and len(value) == 1 and value[0] in wanted):
                return name
        return str(key)

    def to_json(self) -> dict[str, Any]:
        """The value of dataset.json's ``labels``, in values of files."""

        def in_files(key: LabelKey) -> int | list[int]:
            if isinstance(key, tuple):
                return [self.value_of(number) for number in key]
            own = self.values[key] if self.values else (key,)
            return own[0] if len(own) == 1 else list(own)

        return {name: in_files(key) for name, key in self.entries.items()}


def _values_in_files(found: Any, classes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """The checked content of ``label_values``."""
    wanted = f"{len(classes)} lists of values, for 0 to {len(classes) - 1}, without a value twice"
    try:
        values = tuple(tuple(own) for own in found)
        flat = [value for own in values for value in own]
        right = all(type(value) is int and 0 <= value <= LARGEST_LABEL for value in flat) and all(values)
    except TypeError:
        right, values, flat = False, (), []
    consecutive = classes == tuple((number,) for number in range(len(classes)))
    if not right or not consecutive or len(values) != len(classes) or len(set(flat)) != len(flat):
        raise SegflowError(
            "'label_values' must give the values in files of consecutive labels",
            found=shortened(found),
            expected=wanted,
        )
    return values


def _looked_up(array: np.ndarray, function: Callable[[int], int]) -> np.ndarray:
    """A function of each whole number of an array, any shape: int16, or a wider type if a result needs it."""
    if not array.size:
        return array.astype(np.int16)
    lowest, highest = int(array.min()), int(array.max())
    if highest - lowest >= WIDEST_TABLE:
        return _of_each(array, function)
    present = range(lowest, highest + 1)
    table = _table([function(value) for value in present])
    result = np.empty(array.shape, table.dtype)
    rows = np.atleast_1d(result)
    source = np.atleast_1d(array)
    step = max(1, VOXELS_AT_ONCE // max(1, source[0].size))
    for start in range(0, len(source), step):  # in parts, since an index has 64 bits
        rows[start : start + step] = table[source[start : start + step].astype(np.intp) - lowest]
    return result


def _of_each(array: np.ndarray, function: Callable[[int], int]) -> np.ndarray:
    """Like `_looked_up`, slower, and asks only for numbers that occur."""
    distinct, places = np.unique(array, return_inverse=True)
    return _table([function(int(value)) for value in distinct])[places.reshape(array.shape)]


def _table(numbers: list[int]) -> np.ndarray:
    lowest, highest = min(numbers), max(numbers)
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return np.array(numbers, dtype)
    return np.array(numbers, np.int64)


def _stray(value: int) -> int:
    """A negative number below `OUTSIDE` for a value without a class: even for 0, 1, 2, …, odd for -1, -2, …"""
    return -2 - 2 * value if value >= 0 else -1 + 2 * value


def _stray_value(number: int) -> int:
    """Undoes `_stray`; `OUTSIDE` stays as it is."""
    if number == OUTSIDE:
        return number
    return -(number // 2) - 1 if number % 2 == 0 else (number + 1) // 2


def key_text(key: LabelKey) -> str:
    """A label key as text, the way nnU-Net writes it into ``summary.json``: ``1`` or ``(1, 2, 3)``."""
    return str(key[0] if isinstance(key, tuple) and len(key) == 1 else key)


def key_from_text(text: str) -> LabelKey:
    """Inverse of `key_text`. A single label may also read ``(1,)``, as earlier versions wrote it."""
    if not text.startswith("("):
        return int(text)
    values = tuple(int(part) for part in text.strip("()").split(",") if part.strip())
    return values[0] if len(values) == 1 else values
