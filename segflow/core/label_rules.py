"""Which classes the two keys ``labels`` and ``regions_class_order`` of dataset.json describe (recipe 1.2).

An entry may list several values. It is then either a *region*, which may share values with other regions and has an
output of its own, or a *merged class*, whose values mean the same. Lists are regions if

* ``regions_class_order`` is given, since nnU-Net needs it with regions: each of its datasets keeps its meaning; or
* one of them shares a value with another entry, since a voxel cannot belong to two classes.

All other lists are merged classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.core.wording import some

LabelKey = int | tuple[int, ...]
"""A foreground output of the network: a label, or a region as a tuple of labels."""

LARGEST_LABEL = 65535
"""Label maps are written with 16 bits at most."""

MOST_LABELS = 10_000
"""Names that a dataset may give to labels and regions."""

MOST_REGIONS, MOST_LISTED = 1000, 100_000
"""Regions of a dataset, and values in all its lists together."""

BACKGROUND, IGNORE = "background", "ignore"

Entries = dict[str, LabelKey]


@dataclass(frozen=True, slots=True)
class Classes:
    """What the two keys say.

    Attributes:
        entries: Name → class, or tuple of classes for a region.
        order: Class that each region is painted with; None without regions.
        values: Class → its values in files, the written one first; the ignore label's come last.
    """

    entries: Entries
    order: tuple[int, ...] | None
    values: tuple[tuple[int, ...], ...]


def read_entries(labels: Any) -> Entries:
    """Name → value, or tuple of the listed values.

    Raises:
        SegflowError: A value is not a whole number, or ``background`` is missing.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise SegflowError(
            "'labels' must map names to values", found=shortened(labels), expected='{"background": 0, "tumour": 1}'
        )
    if len(labels) > MOST_LABELS:
        raise SegflowError("'labels' names too many", found=len(labels), expected=f"at most {MOST_LABELS}")
    entries = {str(name): _values(str(name), value) for name, value in labels.items()}
    if (listed := sum(len(value) for value in entries.values() if isinstance(value, tuple))) > MOST_LISTED:
        raise SegflowError("'labels' lists too many values", found=listed, expected=f"at most {MOST_LISTED}")
    if BACKGROUND not in entries:
        raise SegflowError(
            "the labels lack 'background'",
            found=shortened(list(entries)),
            fix='Names are keys and values are numbers: {"background": 0, "tumour": 1}.',
        )
    return entries


def read_order(order: Any) -> tuple[int, ...] | None:
    """The labels that regions are painted with.

    Raises:
        SegflowError: They are no labels.
    """
    if order is None:
        return None
    if not isinstance(order, (list, tuple)) or not all(_is_label(value) for value in order):
        raise SegflowError(
            "'regions_class_order' must list labels", found=shortened(order), expected=f"0 to {LARGEST_LABEL}"
        )
    return tuple(order)


def classes_of(entries: Entries, order: tuple[int, ...] | None) -> Classes:
    """Give the values classes 0, 1, …: background, then the others in the order of their first values, then ignore.

    Args:
        entries: See `read_entries`.
        order: See `read_order`.

    Raises:
        SegflowError: A value belongs to two names that are no regions, or the regions have no order, or another number
            of them than ``order`` has labels.
    """
    background, ignore = _once(entries[BACKGROUND]), _once(entries.get(IGNORE, ()))
    named = {name: value for name, value in entries.items() if name not in (BACKGROUND, IGNORE)}
    regions = _are_regions(named, order)
    _refuse_shared(named, background, ignore, nnunet_regions=regions and order is not None)
    groups: dict[int, tuple[int, ...]] = {}
    behind = set(background)
    for value in named.values():
        own = tuple(v for v in _once(value) if v not in behind)
        groups |= {v: (v,) for v in own} if regions else {own[0]: own} if own else {}
    values = (background, *(groups[first] for first in sorted(groups)), *([ignore] if ignore else []))
    class_of = {value: number for number, own in enumerate(values) for value in own}

    def renumbered(name: str, value: LabelKey) -> LabelKey:
        if regions and name in named and isinstance(value, tuple):
            return tuple(class_of[v] for v in value)
        return class_of[members(value)[0]]

    classes = {name: renumbered(name, value) for name, value in entries.items()}
    same = values == tuple((number,) for number in range(len(values)))
    if not regions:
        as_given = same and all(len(members(value)) == 1 for value in entries.values())
        return Classes(entries if as_given else classes, order if same else None, values)
    foreground = [name for name, value in named.items() if set(members(value)) != {0}]
    if len(foreground) > MOST_REGIONS:
        raise SegflowError("there are too many regions", found=len(foreground), expected=f"at most {MOST_REGIONS}")
    if order is None:
        foreground, order = _by_inclusion(entries, foreground)
        first = [name for name in entries if name not in {*foreground, IGNORE}]
        classes = {name: classes[name] for name in (*first, *foreground, IGNORE) if name in classes}
    elif len(order) != len(foreground):
        raise SegflowError(
            "'regions_class_order' must give one label for each region",
            found=list(order),
            expected=f"{len(foreground)} labels",
            fix="It may be left out where every two regions lie apart or one within the other.",
        )
    if not same and (unnamed := [value for value in order if value not in class_of]):
        raise SegflowError(
            "'regions_class_order' paints with a value that no label has", found=unnamed, expected=sorted(class_of)
        )
    return Classes(classes, tuple(class_of.get(value, value) for value in order), values)


def check_painting(entries: Mapping[str, LabelKey], value_of: Callable[[int], int]) -> None:
    """Refuse regions that a later one covers whole, so that no prediction could show them.

    Args:
        entries: Name → class or region, in the order of painting.
        value_of: Class → its value in dataset.json, for the message.

    Raises:
        SegflowError: There is one. The error names both.
    """
    named = [(name, set(members(key))) for name, key in entries.items() if name not in (BACKGROUND, IGNORE)]
    for (first, inner), (second, outer) in combinations(named, 2):
        if inner <= outer:
            raise SegflowError(
                f"region '{second}' is painted after region '{first}', and covers it whole",
                found=f"'{first}' {shortened(sorted(map(value_of, inner)))}, "
                f"then '{second}' {shortened(sorted(map(value_of, outer)))}",
                fix=f"Put '{second}' before '{first}' in 'labels', and its label before in 'regions_class_order'; or "
                "leave out 'regions_class_order'.",
            )


def members(value: LabelKey) -> tuple[int, ...]:
    """The labels of a label or region."""
    return (value,) if isinstance(value, int) else value


def _once(value: LabelKey) -> tuple[int, ...]:
    """The labels of an entry, each once."""
    return tuple(dict.fromkeys(members(value)))


def _are_regions(named: Entries, order: tuple[int, ...] | None) -> bool:
    """See the module."""
    if order is not None:
        return any(len(members(value)) > 1 for value in named.values())
    lists = [own for value in named.values() if len(own := set(members(value))) > 1]
    single = {value for key in named.values() if len(set(members(key))) == 1 for value in members(key)}
    distinct = set().union(single, *lists)
    return len(distinct) < len(single) + sum(map(len, lists))


def _refuse_shared(named: Entries, background: Sequence[int], ignore: Sequence[int], *, nnunet_regions: bool) -> None:
    """Refuse values that background or ignore share with others. nnU-Net lets regions contain background."""
    checked = [(IGNORE, set(ignore), {**named, BACKGROUND: tuple(background)})]
    if not nnunet_regions or len(background) > 1:
        checked.append((BACKGROUND, set(background), named))
    for name, values, others in checked:
        for other, key in others.items():
            theirs = set(members(key))
            if (shared := values & theirs) and not (name == BACKGROUND and theirs <= values):
                raise SegflowError(
                    f"'{name}' and '{other}' share values",
                    found=shortened(sorted(shared)),
                    fix="Each value belongs to one of them.",
                )


def _by_inclusion(entries: Entries, names: Sequence[str]) -> tuple[list[str], tuple[int, ...]]:
    """The regions with larger ones first, and the value that each is painted with.

    This is the first of its values that no smaller region inside it has.
    """
    sets = {name: set(members(entries[name])) for name in names}
    ordered = sorted(names, key=lambda name: -len(sets[name]))
    smallest: dict[int, str] = {}  # the smallest region so far that has a value
    for name in ordered:
        around = {smallest.get(value) for value in sets[name]}
        for other in sorted(around - {None}, key=str):
            if other is not None and not sets[name] < sets[other]:
                raise _unordered(other, name, sets, names)
        smallest |= dict.fromkeys(sets[name], name)
    own = {name: [value for value in members(entries[name]) if smallest[value] == name] for name in names}
    return ordered, tuple((own[name] or members(entries[name]))[0] for name in ordered)


def _unordered(first: str, second: str, sets: Mapping[str, set[int]], names: Sequence[str]) -> SegflowError:
    """The error for two regions of which none contains the other, and whose values say no order."""
    one, other = sorted([first, second], key=list(names).index)
    if sets[one] == sets[other]:
        return SegflowError(
            f"regions '{one}' and '{other}' are the same", found=sorted(sets[one]), fix="Remove one of them."
        )
    return SegflowError(
        f"regions '{one}' and '{other}' overlap, and neither contains the other",
        found=f"{shortened(sorted(sets[one]))} and {shortened(sorted(sets[other]))}",
        fix="Say what is painted over what: add 'regions_class_order', one label for each region in the order "
        f"of 'labels' ({some(names)}). Later regions cover earlier ones.",
    )


def _values(name: str, value: Any) -> LabelKey:
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        raise SegflowError(
            f"label '{name}' must be a whole number or a list of them",
            found=shortened(value),
            fix="Decathlon's inverted form is converted by: segflow convert source=TASK_FOLDER"
            if name.isdecimal()
            else "Write it without quotes and decimal point, such as 1.",
        )
    if isinstance(value, int):
        if not _is_label(value):
            raise SegflowError(
                f"label '{name}' has an impossible value", found=shortened(value), expected=f"0 to {LARGEST_LABEL}"
            )
        return value
    if not value or not all(_is_label(v) for v in value):
        raise SegflowError(
            f"label '{name}' must list whole numbers", found=shortened(value), expected=f"0 to {LARGEST_LABEL}"
        )
    return tuple(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_LABEL
