"""Partly labelled datasets: which labels the label map of a case tells of, by dataset.json's key ``labels_present``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.label_rules import BACKGROUND, IGNORE, LabelKey
from segflow.core.names import shortened
from segflow.core.wording import some

LABELS_PRESENT = "labels_present"
"""Our key of dataset.json, and of a case in its list ``dataset``. nnU-Net does not know it."""

EXAMPLE = '{"site_b_*": ["liver"]}: cases by their names or by patterns, and the labels that were drawn in them'


@dataclass(frozen=True, slots=True)
class LabelsPresent:
    """The labels that were drawn in the cases in which not all were.

    Attributes:
        of_cases: Name of a case, or a shell pattern → the labels or regions that were drawn. Names count before
            patterns, and of patterns the first that matches. Other cases have all labels.
    """

    of_cases: Mapping[str, frozenset[LabelKey]]

    def of(self, case_id: str) -> frozenset[LabelKey] | None:
        """The labels or regions that were drawn in a case; None if all were."""
        if case_id in self.of_cases:
            return self.of_cases[case_id]
        return next((keys for pattern, keys in self.of_cases.items() if fnmatchcase(case_id, pattern)), None)

    def to_json(self) -> dict[str, list[str]]:
        """Case or pattern → the keys as text, for stamps."""
        return {case: sorted(map(str, keys)) for case, keys in self.of_cases.items()}

    def unused(self, case_ids: Iterable[str]) -> list[str]:
        """The names and patterns that fit none of some cases."""
        known = list(case_ids)
        return [name for name in self.of_cases if name not in known and not any(fnmatchcase(c, name) for c in known)]


def read_labels_present(raw: Mapping[str, Any], entries: Mapping[str, LabelKey]) -> LabelsPresent | None:
    """Check and build from dataset.json; None if every case has all labels.

    Args:
        raw: The whole of dataset.json.
        entries: Name of each label or region → its key.

    Raises:
        SegflowError: The key cannot be used. The error names the case.
    """
    listed = raw.get("dataset")
    cases = listed.items() if isinstance(listed, Mapping) else ()
    found = {str(name): entry[LABELS_PRESENT] for name, entry in cases if _has_own(entry)}
    common = raw.get(LABELS_PRESENT)
    if common is not None and not isinstance(common, Mapping):
        raise SegflowError(
            f"dataset.json: '{LABELS_PRESENT}' must map cases to labels", found=shortened(common), expected=EXAMPLE
        )
    found |= {str(name): names for name, names in (common or {}).items() if str(name) not in found}
    return LabelsPresent({name: _keys(name, names, entries) for name, names in found.items()}) if found else None


def _has_own(entry: Any) -> bool:
    return isinstance(entry, Mapping) and LABELS_PRESENT in entry


def _keys(case: str, names: Any, entries: Mapping[str, LabelKey]) -> frozenset[LabelKey]:
    """The keys of the named labels or regions, without background and ignore, which belong to every case."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise SegflowError(
            f"dataset.json: '{LABELS_PRESENT}' must list names of labels", case=case, found=names, expected=EXAMPLE
        )
    known = {name: key for name, key in entries.items() if name not in (BACKGROUND, IGNORE)}
    unknown = [str(name) for name in names if name not in entries]
    if unknown or not any(name in known for name in names):
        near = get_close_matches(unknown[0], list(known), n=1) if unknown else []
        raise SegflowError(
            f"dataset.json: '{LABELS_PRESENT}' names what is no label"
            if unknown
            else f"dataset.json: '{LABELS_PRESENT}' names no label of a case",
            case=case,
            found=some(unknown) if unknown else list(names),
            expected=f"some of {', '.join(known)}",
            fix=f"Did you mean '{near[0]}'?"
            if near
            else "Give names of labels, not numbers."
            if unknown
            else "Leave out a case without any label.",
        )
    keys = (known[name] for name in names if name in known)
    return frozenset(key[0] if isinstance(key, tuple) and len(key) == 1 else key for key in keys)
