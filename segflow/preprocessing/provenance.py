"""Origin of preprocessed arrays, so that a second run makes only arrays that are out of date.

A case is made again if one of its files has changed, or a choice of the plans that its arrays depend on. Other choices
(batch size, patch size, topology, learning rate) cause nothing to be made again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import UNUSABLE
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.preprocessing.foreground import location_keys
from segflow.storage.case_facts import VERSION, made_from
from segflow.storage.file_stamps import FileStamp, is_same_file, stamp_file
from segflow.storage.label_map_files import case_inputs
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.stamps import MISSING

_VERSION = 2  # raise it when the same choices would give other arrays

PLANS = "plans"
"""Key for the name of the plans' file that the arrays were first made for. Other plans may share them."""

LOCATIONS = "locations"
"""Key of the choices for the labels, which the plans do not make; nor do they make `VERSION`."""

VALUES = "label_values"
"""Key of the choices for the values of each class in files; missing if they are the same."""

LABEL = "label"
"""Role of the reference label map of a case."""

_NAMES = {
    VERSION: "version of preprocessing",
    "axis_order": "axis order",
    "channels": "normalization",
    "resampling_image": "resampling of images",
    "resampling_label": "resampling of labels",
    LOCATIONS: "set of labels",
    VALUES: "meaning of the label maps' values",
}


def choices_of(plans: Plans, plan: ConfigurationPlan, labels: Labels) -> dict[str, Any]:
    """Everything in the plans and dataset.json that a configuration's arrays depend on, as plain JSON."""
    channels = []
    for number, (scheme, use_mask) in enumerate(zip(plan.normalization_schemes, plan.use_mask_for_norm, strict=True)):
        entry: dict[str, Any] = {"scheme": scheme, "use_mask": use_mask}
        if scheme == "CTNormalization" and number < len(plans.intensities):
            statistics = plans.intensities[number]
            entry |= {name: getattr(statistics, name) for name in ("mean", "std", "percentile_00_5", "percentile_99_5")}
        if scheme in plans.own_normalizations:
            statistics_of_all = asdict(plans.intensities[number]) if number < len(plans.intensities) else None
            entry |= {"own": plans.own_normalizations[scheme], "intensities": statistics_of_all}
        channels.append(entry)
    choices = {
        VERSION: _VERSION,
        "reader": plans.reader,
        "axis_order": list(plans.axis_order),
        "spacing": list(plan.spacing),
        "channels": channels,
        "resampling_image": [plan.resampling_image.method, dict(plan.resampling_image.options)],
        "resampling_label": [plan.resampling_label.method, dict(plan.resampling_label.options)],
        # Regions are always tuples, as in version 1, so that its arrays do not seem to have other labels.
        LOCATIONS: [
            str((key,) if labels.has_regions and isinstance(key, int) else key) for key in location_keys(labels)
        ],
    }
    if labels.values:
        choices[VALUES] = labels.values
    as_read: dict[str, Any] = json.loads(json.dumps(choices))
    return as_read


def stamp_files(files: CaseFiles) -> dict[str, FileStamp]:
    """Size, time and digest of a case's files. Take them before reading the files, so that every change is seen."""
    return {role: stamp_file(path) for role, path in roles_of(files)}


def why_outdated(store: PreprocessedStore, files: CaseFiles, choices: Mapping[str, Any]) -> str | None:
    """Why a case must be made anew; None if it is complete and was made from these files with these choices.

    Contents are compared only for files whose time differs, such as after copying a dataset.
    """
    if not store.has(files.case_id):
        return MISSING
    try:
        made = made_from(store.properties(files.case_id))
    except UNUSABLE:
        made = None
    if made is None:
        return "nothing says what it was made from"
    known, stamps = made
    if differing := differing_choices(known, choices):
        return f"made with another {', another '.join(_NAMES.get(key, key) for key in differing)}"
    roles = roles_of(files)
    if sorted(stamps) != sorted(role for role, _ in roles):
        return "made from other files"
    changed = next((role for role, path in roles if not is_same_file(path, stamps[role])), None)
    if changed is not None:
        return "another label" if changed.startswith(LABEL) else "another image"
    return None if store.is_whole(files.case_id) else "a file is missing or damaged"


def differing_choices(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Keys of choices that differ."""
    return [key for key in {**wanted, **known} if known.get(key) != wanted.get(key)]


def describe_choices(choices: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Some choices as a text for the user."""
    return ", ".join(f"{_NAMES.get(key, key)} {json.dumps(choices.get(key))}" for key in keys)


def roles_of(files: CaseFiles) -> list[tuple[str, Path]]:
    """Role and path of each file of a case. A role does not depend on the folder."""
    return list(case_inputs(files).items())
