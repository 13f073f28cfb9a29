"""Meaning of the values in a label map: labels, regions and the ignore label (recipe 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.names import shortened

LabelKey = int | tuple[int, ...]
"""A foreground output of the network: a label, or a region as a tuple of labels."""

LARGEST_LABEL = 65535
"""Label maps are written with 16 bits at most."""

MOST_LABELS = 10_000
"""Names that a dataset may give to labels and regions."""

OUTSIDE = -1
"""Value of voxels outside the non-zero mask in a preprocessed label map (recipe 2)."""


@dataclass(frozen=True, slots=True)
class Labels:
    """The label definition of a dataset.

    Attributes:
        entries: Name → label or tuple of labels, in the order of dataset.json, background and ignore included.
        regions_class_order: Label that each region is painted with, in the order of the regions; None without regions.
    """

    entries: Mapping[str, LabelKey]
    regions_class_order: tuple[int, ...] | None = None

    @classmethod
    def from_json(cls, labels: Mapping[str, Any], regions_class_order: Any = None) -> Labels:
        """Check and build from the two keys of dataset.json.

        Raises:
            SegflowError: background is not 0, ignore is not the highest, a value is not a whole number, or the order
                of regions does not fit them.
        """
        if not isinstance(labels, Mapping) or not labels:
            raise SegflowError(
                "'labels' must map names to values",
                found=shortened(labels),
                expected='{"background": 0, "tumour": 1}',
            )
        if len(labels) > MOST_LABELS:
            raise SegflowError("'labels' names too many", found=len(labels), expected=f"at most {MOST_LABELS}")
        entries: dict[str, LabelKey] = {}
        for name, value in labels.items():
            entries[str(name)] = _label_key(str(name), value)
        if entries.get("background") != 0:
            raise SegflowError(
                "label 'background' must be 0",
                found=entries.get("background", "no 'background'"),
                expected=0,
                fix='Names are keys and values are numbers: {"background": 0, "tumour": 1}.',
            )
        order = None if regions_class_order is None else tuple(regions_class_order)
        if order is not None and not all(_is_label(value) for value in order):
            raise SegflowError(
                "'regions_class_order' must list labels", found=shortened(order), expected=f"0 to {LARGEST_LABEL}"
            )
        result = cls(entries, order)
        result._check()
        return result

    def _check(self) -> None:
        ignore = self.entries.get("ignore")
        if ignore is not None and (not isinstance(ignore, int) or ignore != max(self.all_labels) + 1):
            raise SegflowError(
                "the ignore label must be one above the highest other label",
                found=ignore,
                expected=max(self.all_labels) + 1,
                fix="Renumber them into a new dataset: segflow convert source=FOLDER dataset_id=NUMBER.",
            )
        if self.has_regions:
            order = self.regions_class_order
            if order is None or len(order) != len(self.regions):
                raise SegflowError(
                    "'regions_class_order' must give one label for each region",
                    found=None if order is None else list(order),
                    expected=f"{len(self.regions)} labels",
                )

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
        """The value of dataset.json's ``labels``."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self.entries.items()}


def _label_key(name: str, value: Any) -> LabelKey:
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        raise SegflowError(
            f"label '{name}' must be a whole number or a list of them",
            found=shortened(value),
            fix="Decathlon's inverted form is converted by: segflow convert source=TASK_FOLDER",
        )
    if isinstance(value, int):
        if not _is_label(value):
            raise SegflowError(
                f"label '{name}' has an impossible value", found=shortened(value), expected=f"0 to {LARGEST_LABEL}"
            )
        return value
    if not value or not all(_is_label(v) for v in value):
        raise SegflowError(
            f"region '{name}' must list whole numbers", found=shortened(value), expected=f"0 to {LARGEST_LABEL}"
        )
    return tuple(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_LABEL


def key_text(key: LabelKey) -> str:
    """A label key as text, the way nnU-Net writes it into ``summary.json``: ``1`` or ``(1, 2, 3)``."""
    return str(key[0] if isinstance(key, tuple) and len(key) == 1 else key)


def key_from_text(text: str) -> LabelKey:
    """Inverse of `key_text`. A single label may also read ``(1,)``, as earlier versions wrote it."""
    if not text.startswith("("):
        return int(text)
    values = tuple(int(part) for part in text.strip("()").split(",") if part.strip())
    return values[0] if len(values) == 1 else values
