"""Folders of arrays to make, and which cases of each are out of date."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.wording import some
from segflow.preprocessing.provenance import choices_of, why_outdated
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.stamps import say_why

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ArrayTarget:
    """One folder of arrays to make.

    Attributes:
        plan: A configuration that uses it.
        store: The folder.
        plans_name: Name of the plans' file.
        choices: See `choices_of`.
    """

    plan: ConfigurationPlan
    store: PreprocessedStore
    plans_name: str
    choices: dict[str, Any]


def array_targets(
    plans: Plans, plans_name: str, configurations: Sequence[str], labels: Labels, prepared: PreparedDataset
) -> tuple[ArrayTarget, ...]:
    """One target for each folder of arrays. Configurations that share a folder must agree on its arrays."""
    targets: dict[str, ArrayTarget] = {}
    for name in configurations:
        plan = plans.configuration(name)
        identifier = plan.data_identifier
        target = ArrayTarget(plan, prepared.arrays_to_write(plan), plans_name, choices_of(plans, plan, labels))
        known = targets.setdefault(identifier, target)
        if known.choices != target.choices:
            differing = [key for key, value in known.choices.items() if value != target.choices[key]]
            raise SegflowError(
                f"configurations '{known.plan.name}' and '{name}' share the folder '{identifier}' but differ in "
                f"{', '.join(differing)}",
                fix="Give one of them a data_identifier of its own in the plans.",
            )
    return tuple(targets.values())


def check_names(cases: Iterable[CaseFiles]) -> None:
    """Refuse names of cases whose files could be mistaken for those of another case."""
    ids = {case.case_id for case in cases}
    for case_id in sorted(ids):
        for ending in ("_seg", "_locations"):
            if f"{case_id}{ending}" in ids:
                raise SegflowError(
                    f"the arrays of '{case_id}{ending}' would overwrite those of '{case_id}'",
                    fix="Rename one of the two cases.",
                )


def remove_others(targets: Sequence[ArrayTarget], case_ids: set[str]) -> tuple[str, ...]:
    """Delete the arrays of cases that the dataset no longer has, and what killed writers left.

    Returns:
        Their ids, sorted.
    """
    removed: set[str] = set()
    for target in targets:
        for case_id in set(target.store.case_ids()) - case_ids:
            target.store.remove(case_id)
            removed.add(case_id)
        target.store.clear_unfinished()
    if removed:
        log.warning("deleted arrays of cases that the dataset no longer has: %s", some(sorted(removed)))
    return tuple(sorted(removed))


def out_of_date(
    cases: Sequence[CaseFiles], targets: Sequence[ArrayTarget], *, redo: bool
) -> dict[str, tuple[ArrayTarget, ...]]:
    """Targets to make for each case. Reasons are logged, except for cases that are made for the first time."""
    if redo:
        return {case.case_id: tuple(targets) for case in cases}
    needed: dict[str, tuple[ArrayTarget, ...]] = {}
    reasons: dict[str, str] = {}
    for case in cases:
        stale = []
        for target in targets:
            why = why_outdated(target.store, case, target.choices)
            if why is not None:
                stale.append(target)
                reasons[case.case_id] = why
        needed[case.case_id] = tuple(stale)
    say_why("cases", reasons, len(cases))
    return needed


def is_current(case: CaseFiles, targets: Iterable[ArrayTarget]) -> bool:
    """Whether a case's arrays are there and up to date."""
    return all(why_outdated(target.store, case, target.choices) is None for target in targets)
