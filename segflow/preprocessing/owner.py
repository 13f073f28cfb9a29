"""Ownership of arrays: plans do not replace arrays that other plans of the dataset use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.labels import Labels
from segflow.preprocessing.provenance import (
    LOCATIONS,
    PLANS,
    choices_of,
    describe_choices,
    differing_choices,
)
from segflow.storage.case_facts import PROVENANCE, VERSION, made_from
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.preprocessed_store import PreprocessedStore


def check_owner(
    store: PreprocessedStore, choices: Mapping[str, Any], plans_name: str, labels: Labels, *, redo: bool
) -> None:
    """Refuse to replace arrays of other plans in the folder above.

    Arrays that no plans would make any more are out of date and may be replaced. So may arrays of plans that were
    changed, unless other plans share them.

    Args:
        store: The folder of arrays.
        choices: Choices of the arrays to make there, see `choices_of`.
        plans_name: Name of the plans file that asks for them.
        labels: The label definition.
        redo: The user asks to replace all. This permits it if these plans made the arrays in the first place.

    Raises:
        SegflowError: They are in use. The error names the plans and the difference.
    """
    for known, maker in _made_otherwise(store, choices):
        for other, configuration in _users(store, known, plans_name, labels):
            mine = maker == plans_name
            if redo and mine:
                continue
            keys = _differing(known, choices)
            consent = f" To replace what '{other}' uses: preprocessing.redo=true." if mine else ""
            raise SegflowError(
                f"the arrays in {store.folder} are those of '{configuration}' in the plans '{other}', and the plans "
                f"'{plans_name}' would replace them by others",
                found=describe_choices(known, keys),
                expected=describe_choices(choices, keys),
                fix=f"Give '{plans_name}' arrays of its own: plan with another planner.plans_name, or write another "
                f"data_identifier into {plans_name}.json.{consent}",
            )


def _made_otherwise(store: PreprocessedStore, choices: Mapping[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """All other choices that cases of the folder were made with, and the plans that made them."""
    kinds: list[tuple[dict[str, Any], Any]] = []
    for case_id in store.case_ids():
        try:
            properties = store.properties(case_id)
            made = made_from(properties)
        except UNUSABLE:
            continue  # damaged, so nobody can use it
        if made is not None and _differing(made[0], choices):
            kind = made[0], properties[PROVENANCE].get(PLANS)
            if kind not in kinds:
                kinds.append(kind)
    return kinds


def _users(
    store: PreprocessedStore, known: Mapping[str, Any], plans_name: str, labels: Labels
) -> Iterator[tuple[str, str]]:
    """Other plans beside the folder, with their configurations, that use these arrays."""
    for other, plans in PreparedDataset(store.folder.parent).all_plans():
        if other == plans_name:
            continue
        for name in plans.configurations:
            try:
                plan = plans.configuration(name)
                is_user = plan.data_identifier == store.folder.name and not _differing(
                    known, choices_of(plans, plan, labels)
                )
            except SegflowError:
                continue
            if is_user:
                yield other, name


def _differing(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys of the plans' choices that differ. Labels and version are left out, since they change for all plans."""
    return [key for key in differing_choices(known, wanted) if key not in (VERSION, LOCATIONS)]
