"""Division of a dataset's cases into folds (recipe 10)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import Split
from segflow.core.wording import some


def make_splits(
    case_ids: Iterable[str],
    settings: SplitSettings,
    *,
    groups: Mapping[str, str] | None = None,
    strata: Mapping[str, str] | None = None,
) -> list[Split]:
    """Divide cases into folds.

    Args:
        case_ids: All training cases; their order does not matter.
        settings: How to divide them. The caller has read ``group_by``, ``stratify_by`` and ``file``.
        groups: Case id → group, where ``group_by`` is set.
        strata: Case id → stratum, where ``stratify_by`` is set.

    Raises:
        SegflowError: There are fewer cases, or groups, than folds.
    """
    cases = sorted(set(case_ids))
    units = {case: groups[case] if groups else case for case in cases}
    names = sorted(set(units.values()))
    if settings.scheme == "leave_one_group_out":
        folds = [[name] for name in names]
    else:
        _check_enough(names, settings.folds, grouped=bool(groups))
        if settings.scheme == "stratified":
            folds = _deal(names, settings, _stratum_of_units(units, strata or {}))
        else:
            folds = _kfold(names, settings)
    if len(folds) < 2:
        raise SegflowError("leaving one group out needs at least two groups", found=names)
    splits = []
    for held_out in map(set, folds):
        val = tuple(case for case in cases if units[case] in held_out)
        train = tuple(case for case in cases if units[case] not in held_out)
        splits.append(Split(train, val))
    return splits


def _check_enough(names: Sequence[str], folds: int, *, grouped: bool) -> None:
    if len(names) >= folds:
        return
    kind = "groups of cases" if grouped else "training cases"
    raise SegflowError(
        f"{folds} folds need at least {folds} {kind}",
        found=f"{len(names)}: {', '.join(names)}",
        fix="Use fewer folds, or train on all cases with fold=all.",
    )


def _kfold(names: Sequence[str], settings: SplitSettings) -> list[list[str]]:
    """scikit-learn's shuffled KFold, number for number: the first ``n mod k`` folds hold one more."""
    order = np.arange(len(names))
    np.random.RandomState(settings.seed).shuffle(order)
    return [[names[i] for i in part] for part in np.array_split(order, settings.folds)]


def _deal(names: Sequence[str], settings: SplitSettings, stratum_of: Mapping[str, str]) -> list[list[str]]:
    """Shuffle each stratum and deal it out to the folds. Each stratum starts at the fold where the last one ended."""
    generator = np.random.RandomState(settings.seed)
    folds: list[list[str]] = [[] for _ in range(settings.folds)]
    dealt = 0
    for stratum in sorted(set(stratum_of.values())):
        members = np.array([name for name in names if stratum_of[name] == stratum], dtype=object)
        generator.shuffle(members)
        for name in members:
            folds[dealt % settings.folds].append(str(name))
            dealt += 1
    return folds


def _stratum_of_units(units: Mapping[str, str], strata: Mapping[str, str]) -> dict[str, str]:
    """Each group's stratum: the one that most of its cases have."""
    votes: dict[str, Counter[str]] = {}
    for case, unit in units.items():
        votes.setdefault(unit, Counter())[strata[case]] += 1
    return {unit: max(sorted(count), key=lambda value: count[value]) for unit, count in votes.items()}


def values_by_pattern(case_ids: Iterable[str], pattern: str) -> dict[str, str]:
    """Case id → the first group of a regular expression on it, or the whole match.

    Raises:
        SegflowError: It is not a regular expression, or does not match some case.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SegflowError(f"'{pattern}' is not a regular expression: {error}") from None
    found, unmatched = {}, []
    for case in case_ids:
        match = compiled.search(case)
        value = None if match is None else match.group(1 if compiled.groups else 0)
        if value:
            found[case] = value
        else:
            unmatched.append(case)
    if unmatched:
        raise SegflowError(
            f"the regular expression '{pattern}' finds nothing in {len(unmatched)} cases",
            found=some(sorted(unmatched)),
            expected="one value for every case",
        )
    return found
