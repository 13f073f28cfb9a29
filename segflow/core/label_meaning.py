"""What the labels of a dataset.json mean, and what cases lack, told to people."""

from __future__ import annotations

from collections.abc import Sequence

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.label_rules import IGNORE
from segflow.core.labels import Labels
from segflow.core.missing_channels import missing_told
from segflow.core.wording import some


def what_cases_lack(description: DatasetDescription, cases: Sequence[CaseFiles]) -> list[str]:
    """What the labels mean, and which of the training cases lack labels or channels: one sentence for each kind."""
    missing = missing_told({case.case_id: case.missing for case in cases}, description.channels)
    return [
        *label_meaning(description),
        *_partly_labelled(description.labels, [case.case_id for case in cases]),
        *missing,
    ]


def label_meaning(description: DatasetDescription) -> list[str]:
    """What goes beyond consecutive labels, and regions with an order: one sentence for each kind."""
    labels, told = description.labels, []
    if merged := _merged(labels):
        told.append(f"lists of values that share none are classes, not regions: {'; '.join(merged)}")
    if labels.values:
        pairs = [f"{_listed(own)} → {number}" for number, own in enumerate(labels.values)]
        told.append(
            f"values of label maps are mapped as they are read, and back in predictions: {'; '.join(pairs)}. "
            "It needs no conversion"
        )
    if labels.has_regions and description.raw.get("regions_class_order") is None:
        painted = zip(labels.regions, labels.regions_class_order or (), strict=True)
        told.append(
            "lists share values, so that they are regions, and smaller ones are painted over larger ones: "
            + ", then ".join(f"{labels.name_of(region)} as {labels.value_of(paint)}" for region, paint in painted)
        )
    order = labels.regions_class_order if description.raw.get("regions_class_order") is not None else None
    if changed := _repainted(labels, order or ()):
        told.append(
            f"regions_class_order makes other values of those in label maps: {', '.join(changed)}. It lists one value "
            "for each region, in the order of 'labels'"
        )
    return told


def _partly_labelled(labels: Labels, case_ids: Sequence[str]) -> list[str]:
    """In how many cases each label was not drawn, if dataset.json has ``labels_present``."""
    without: dict[str, list[str]] = {}
    for case_id in case_ids:
        for key in labels.absent_keys(case_id):
            without.setdefault(labels.name_of(key), []).append(case_id)
    if not without:
        return []
    counts = [
        f"{name} was not drawn in {len(ids)} of {len(case_ids)} cases ({some(ids)})" for name, ids in without.items()
    ]
    return [f"partly labelled: {'; '.join(counts)}. What was not drawn is neither trained nor scored there"]


def _repainted(labels: Labels, order: tuple[int, ...]) -> list[str]:
    """Values that come back from a prediction as one that is in other regions."""

    def regions_with(label: int) -> tuple[int, ...]:
        return tuple(number for number, region in enumerate(labels.regions) if label in region)

    told = []
    for label in labels.all_labels if order else ():
        own = regions_with(label)
        if own and regions_with(painted := order[own[-1]]) != own:
            told.append(f"{labels.value_of(label)} becomes {labels.value_of(painted)}")
    return told


def _merged(labels: Labels) -> list[str]:
    """Names of classes of several values."""
    told = []
    for name, key in labels.entries.items():
        if labels.values and isinstance(key, int) and len(own := labels.values[key]) > 1:
            told.append(f"{name} is {_listed(own)}" + ("" if name == IGNORE else f", predicted as {own[0]}"))
    return told


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
