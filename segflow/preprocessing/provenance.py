"""What preprocessed arrays were made from, so that a second run makes only what is out of date.

A case is made again when one of its files changed, or a choice of the plans that its arrays depend on. Choices that
they do not depend on (batch size, patch size, topology, learning rate) redo nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels, key_text
from segflow.core.plans import ConfigurationPlan, Plans
from segflow.preprocessing.foreground import location_keys
from segflow.storage.json_files import read_json
from segflow.storage.label_map_files import files_beside
from segflow.storage.preprocessed import PreprocessedStore
from segflow.storage.stamps import FileStamp, is_same_file, stamp_file

PROVENANCE = "made_from"
"""Key of a stored case's properties."""

_VERSION = 2  # raise it when preprocessing makes other arrays from the same choices

Stamps = dict[str, FileStamp]


def choices_of(plans: Plans, plan: ConfigurationPlan, labels: Labels) -> dict[str, Any]:
    """Everything in the plans and dataset.json that a configuration's arrays depend on, as plain JSON."""
    channels = []
    for number, (scheme, use_mask) in enumerate(zip(plan.normalization_schemes, plan.use_mask_for_norm, strict=True)):
        entry: dict[str, Any] = {"scheme": scheme, "use_mask": use_mask}
        if scheme == "CTNormalization" and number < len(plans.intensities):
            statistics = plans.intensities[number]
            entry |= {name: getattr(statistics, name) for name in ("mean", "std", "percentile_00_5", "percentile_99_5")}
        channels.append(entry)
    choices = {
        "version": _VERSION,
        "reader": plans.reader,
        "axis_order": list(plans.axis_order),
        "spacing": list(plan.spacing),
        "channels": channels,
        "resampling_image": [plan.resampling_image.method, dict(plan.resampling_image.options)],
        "resampling_label": [plan.resampling_label.method, dict(plan.resampling_label.options)],
        "locations": [key_text(key) for key in location_keys(labels)],
    }
    return json.loads(json.dumps(choices))


def stamp_files(files: CaseFiles) -> Stamps:
    """Size, time and content of a case's files. Taken before they are read, so that no later change goes unseen."""
    return {role: stamp_file(path) for role, path in _roles(files)}


def is_current(store: PreprocessedStore, files: CaseFiles, choices: dict[str, Any]) -> bool:
    """Whether the stored case is whole and was made from these files by these choices.

    Contents are compared only of files whose time differs, such as after copying a dataset.
    """
    try:
        made_from = read_json(store.folder / f"{files.case_id}.json")[PROVENANCE]
        stamps, known_choices = made_from["files"], made_from["choices"]
    except (SegflowError, KeyError, TypeError):
        return False
    roles = _roles(files)
    if known_choices != choices or sorted(stamps) != sorted(role for role, _ in roles):
        return False
    return all(is_same_file(path, stamps[role]) for role, path in roles) and store.is_whole(files.case_id)


def _roles(files: CaseFiles) -> Sequence[tuple[str, Path]]:
    """What each file is to the case; its folder may change without a change of content."""
    roles = [(f"image_{number}", path) for number, path in enumerate(files.images)]
    if files.label is not None:
        roles.append(("label", files.label))
    beside = [(f"{role}_beside_{k}", file) for role, path in roles for k, file in enumerate(files_beside(path))]
    return [*roles, *beside]
