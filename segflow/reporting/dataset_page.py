"""A page about a raw dataset, to be read before anything is trained."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.labels import LabelKey, Labels
from segflow.core.wording import some
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.reporting.dataset_outliers import Outlier, find_outliers
from segflow.reporting.looked_case import BYTES_PER_VOXEL, LookedCase, look_at_case
from segflow.reporting.overlays import PALETTE
from segflow.reporting.page import write_page
from segflow.reporting.viewed_cases import ViewedCase, check_channel, library, pack_cases
from segflow.storage.case_features import SHARES, CaseFeatures
from segflow.storage.dataset_check import examine
from segflow.storage.images import ImageIO
from segflow.storage.label_mapping import in_classes
from segflow.storage.problems import Problem

STAGE = "look"
MOST_PICTURES = 40
"""Cases in the mosaic."""
MOST_COLUMNS = 12
"""Labels with a column of their own in the table of cases."""
LISTED_PROBLEMS = 500
"""Problems that the page lists."""
AXES = ("z", "y", "x")
SHOWN = {SHARES[0]: "1st percentile", 0.5: "median", SHARES[-1]: "99th percentile"}
"""Quantiles of a channel that the page shows → their names."""


@dataclass(frozen=True, slots=True)
class _Dataset:
    """What the sections of the page are made of.

    Attributes:
        description: dataset.json.
        looked: Case → its measurements; cases that could not be read are missing.
        problems: What doctor found.
        outliers: Values far from those of other cases.
    """

    description: DatasetDescription
    looked: Mapping[str, LookedCase]
    problems: Sequence[Problem]
    outliers: Sequence[Outlier]

    @property
    def labels(self) -> Labels:
        """The label definition."""
        return self.description.labels

    @property
    def flat(self) -> bool:
        """Whether all images are 2D."""
        return bool(self.looked) and all(case.flat for case in self.looked.values())

    @property
    def errors(self) -> int:
        """Number of errors among the problems."""
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def unit(self) -> str:
        """Unit of volumes."""
        return "pixels" if self.flat else "ml"

    def name(self, key: LabelKey) -> str:
        """Name of a label or region."""
        return self.labels.name_of(key)


def write_dataset_page(
    file: Path,
    raw: Path,
    description: DatasetDescription,
    reader: ImageIO,
    *,
    fingerprint: Fingerprint | None = None,
    channel: int = 0,
    processes: int = 0,
    progress: Progress = silent,
) -> int:
    """Write one HTML page about the training cases of a raw dataset. Cases that cannot be read are named in it.

    Args:
        file: The page.
        raw: The dataset's folder.
        description: Its dataset.json.
        reader: How to read its files, whose label maps hold values.
        fingerprint: The dataset's measurements, if there are current ones: intensities within labels come from them.
        channel: Channel of the images to show first.
        processes: Cases at once; 0 works in this process.
        progress: Called after each case.

    Returns:
        The number of errors that the page names.

    Raises:
        SegflowError: The dataset has no folders for images and label maps or no such channel, or the page cannot be
            written.
    """
    check_channel(channel, description.channels)
    examined = examine(raw, description, reader, processes=processes, progress=progress)
    cases = examined.found.cases
    mapped = in_classes(reader, description.labels)
    jobs = [Job(case.case_id, (case, mapped, description.labels, channel), *_need_of(case, reader)) for case in cases]
    looked = gather(run_jobs(look_at_case, jobs, processes=processes), len(jobs), STAGE, progress)
    measured = {case.case_id: looked.values[case.case_id] for case in cases if case.case_id in looked.values}
    features = {case.case_id: case.features for case in examined.cases}
    found = [*examined.problems, *_unread(looked.failed, measured, examined.problems)]
    problems = sorted(found, key=lambda problem: problem.severity)  # errors first
    quantities = _quantities(description, measured, features)
    dataset = _Dataset(description, measured, problems, find_outliers(quantities))
    viewer = pack_cases(
        _viewed(cases, dataset), description.labels, mapped, description.channels, first_channel=channel
    )
    write_page(
        file,
        "dataset.html.j2",
        _page_data(dataset, cases, quantities),
        way="dataset report",
        dataset=description.name,
        folder=raw,
        headline=_headline(dataset, cases),
        problems=problems[:LISTED_PROBLEMS],
        more_problems=max(0, len(problems) - LISTED_PROBLEMS),
        outliers=len(dataset.outliers),
        labels_table=_labels_table(dataset),
        intensities=_intensities(description, fingerprint),
        pictures=_pictures(dataset, cases),
        viewer=viewer,
        viewer_library=library(),
    )
    return dataset.errors


def _need_of(case: CaseFiles, reader: ImageIO) -> tuple[int, str]:
    try:
        shape = reader.read_header(case.images[0]).shape
    except SegflowError:
        return 0, ""
    return BYTES_PER_VOXEL * math.prod(shape), f"{' × '.join(map(str, shape))} voxels"


def _unread(failed: Mapping[str, str], measured: Mapping[str, LookedCase], known: Sequence[Problem]) -> list[Problem]:
    """Problems of cases that could not be measured, and of which doctor reports no error."""
    told = {problem.case for problem in known if problem.severity == "error"}
    also = {case_id: case.problem for case_id, case in measured.items() if case.problem}
    return [Problem(case, "error", text) for case, text in {**failed, **also}.items() if case not in told]


def _quantities(
    description: DatasetDescription, looked: Mapping[str, LookedCase], features: Mapping[str, CaseFeatures]
) -> dict[str, dict[str, float]]:
    """Quantity → case → value. Volumes and parts of labels that a case does not have are left out."""
    found: dict[str, dict[str, float]] = {}

    def add(quantity: str, case_id: str, value: float) -> None:
        found.setdefault(quantity, {})[case_id] = float(value)

    flat = bool(looked) and all(case.flat for case in looked.values())
    for case_id, case in looked.items():
        for axis, size, mm in zip(AXES, case.shape, case.spacing, strict=True):
            if not (flat and axis == "z"):
                add(f"size {axis} (voxels)", case_id, size)
            if not flat:
                add(f"spacing {axis} (mm)", case_id, mm)
        for key, volume in case.volumes.items():
            if volume > 0:
                name = description.labels.name_of(key)
                add(f"{name}: volume ({'pixels' if flat else 'ml'})", case_id, volume)
                add(f"{name}: parts", case_id, case.components[key])
    for case_id, own in features.items():
        if len(own.channels) < len(description.channels):
            continue  # it lacks a channel, or one could not be read
        for number, channel in enumerate(own.channels[: len(description.channels)]):
            for share, value in zip(SHARES, channel.quantiles, strict=True):
                if share in SHOWN:
                    add(f"{description.channels[number]}: {SHOWN[share]}", case_id, value)
    return found


def _headline(dataset: _Dataset, cases: Sequence[CaseFiles]) -> dict[str, str]:
    channels = dataset.description.channels
    shown = {"cases": str(len(cases)), "channels": ", ".join(channels)}
    for number, name in enumerate(channels):
        if lacking := sum(number in case.missing for case in cases):
            shown[f"without {name}"] = str(lacking)
    for key in dataset.labels.foreground_keys:
        if undrawn := sum(key in dataset.labels.absent_keys(case.case_id) for case in cases):
            shown[f"{dataset.name(key)} not drawn"] = str(undrawn)
    if dataset.looked:
        shapes = np.array([case.shape for case in dataset.looked.values()])
        spacings = np.array([case.spacing for case in dataset.looked.values()])
        shown["median size (z, y, x)"] = " × ".join(f"{n:g}" for n in np.median(shapes, axis=0))
        if not dataset.flat:
            shown["median spacing"] = " × ".join(f"{s:.3g}" for s in np.median(spacings, axis=0)) + " mm"
    return {
        **shown,
        "errors": str(dataset.errors),
        "warnings": str(len(dataset.problems) - dataset.errors),
        "outliers": str(sum(len(one.case_ids) == 1 for one in dataset.outliers)),
    }


def _labels_table(dataset: _Dataset) -> list[list[str]]:
    """Rows of the table of labels; the first is the heading."""
    heading = [
        "label",
        "cases that have it",
        f"volume ({dataset.unit}), median",
        "5 % to 95 %",
        "parts, median",
        "most",
    ]
    rows = [heading]
    for key in dataset.labels.foreground_keys:
        labelled = [
            case
            for case_id, case in dataset.looked.items()
            if case.volumes and key not in dataset.labels.absent_keys(case_id)
        ]
        volumes = np.array([case.volumes[key] for case in labelled if case.volumes[key] > 0])
        parts = np.array([case.components[key] for case in labelled if case.volumes[key] > 0])
        if not len(volumes):
            rows.append([dataset.name(key), f"0 of {len(labelled)}", "–", "–", "–", "–"])
            continue
        low, middle, high = np.quantile(volumes, [0.05, 0.5, 0.95])
        row = [f"{len(volumes)} of {len(labelled)}", _shown(middle), f"{_shown(low)} to {_shown(high)}"]
        rows.append([dataset.name(key), *row, f"{np.median(parts):g}", str(parts.max())])
    return rows


def _shown(value: float) -> str:
    """A number with three digits, or all before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _intensities(description: DatasetDescription, fingerprint: Fingerprint | None) -> list[list[str]]:
    """Rows of the table of intensities within labels, from the fingerprint."""
    if fingerprint is None:
        return []
    names = [*description.channels, *map(str, range(len(description.channels), len(fingerprint.intensities)))]
    heading = ["channel", "mean", "standard deviation", "median", "0.5 % to 99.5 %", "lowest", "highest"]
    rows = [heading]
    for name, one in zip(names, fingerprint.intensities, strict=False):
        numbers = [f"{value:.4g}" for value in (one.mean, one.std, one.median)]
        middle = f"{one.percentile_00_5:.4g} to {one.percentile_99_5:.4g}"
        rows.append([name, *numbers, middle, f"{one.min:.4g}", f"{one.max:.4g}"])
    return rows


def _page_data(
    dataset: _Dataset, cases: Sequence[CaseFiles], quantities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """What dataset.js reads."""
    volume_columns = dataset.labels.foreground_keys[:MOST_COLUMNS]
    return {
        "charts": [
            {"name": name, "boxes": [{**box, "values": dict(quantities[box["quantity"]])} for box in boxes], "log": log}
            for name, boxes, log in _charts(dataset, quantities)
        ],
        "columns": [
            {"title": f"{dataset.name(key)} ({dataset.unit})", "field": f"v{place}", "numeric": True}
            for place, key in enumerate(volume_columns)
        ],
        "cases": [_row(dataset, case.case_id, volume_columns) for case in cases],
        "outliers": [
            {
                "case": one.case_ids[0],
                "cases": some(one.case_ids),
                "quantity": one.quantity,
                "value": one.value,
                "usual": f"{_shown(one.low)} to {_shown(one.high)}",
            }
            for one in dataset.outliers
        ],
    }


def _charts(
    dataset: _Dataset, quantities: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, list[dict[str, Any]], bool]]:
    """Charts: name, boxes with name, colour and quantity, and whether the axis is logarithmic."""

    def boxes(quantity_of: Mapping[str, str], colors: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        return [
            {"name": name, "quantity": quantity, "color": (colors or {}).get(name)}
            for name, quantity in quantity_of.items()
            if quantity in quantities
        ]

    names = [dataset.name(key) for key in dataset.labels.foreground_keys]
    colors = {}
    for place, key in enumerate(dataset.labels.foreground_keys):
        index = key - 1 if isinstance(key, int) else place
        colors[dataset.name(key)] = "rgb({}, {}, {})".format(*PALETTE[index % len(PALETTE)])
    volumes = {name: f"{name}: volume ({dataset.unit})" for name in names}
    charts = [
        (f"volume of labels ({dataset.unit})", boxes(volumes, colors), True),
        ("parts of labels", boxes({n: f"{n}: parts" for n in names}, colors), True),
        ("spacing (mm)", boxes({axis: f"spacing {axis} (mm)" for axis in AXES}), False),
        ("size (voxels)", boxes({axis: f"size {axis} (voxels)" for axis in AXES}), False),
    ]
    for channel in dataset.description.channels:
        charts.append((f"intensities of {channel}", boxes({n: f"{channel}: {n}" for n in SHOWN.values()}), False))
    return [chart for chart in charts if chart[1]]


def _row(dataset: _Dataset, case_id: str, volume_columns: Sequence[LabelKey]) -> dict[str, Any]:
    """A row of the table of cases."""
    severities = {problem.severity for problem in dataset.problems if problem.case == case_id}
    state = next((severity for severity in ("error", "warning") if severity in severities), "")
    row: dict[str, Any] = {"id": case_id, "state": state, "size": "", "spacing": "", "axes": "", "labels": ""}
    case = dataset.looked.get(case_id)
    if case is None:
        return {**row, **{f"v{place}": math.nan for place in range(len(volume_columns))}}
    return {
        **row,
        "size": " × ".join(map(str, case.shape)),
        "spacing": "" if case.flat else " × ".join(f"{s:.4g}" for s in case.spacing),
        "axes": case.orientation,
        "labels": str(sum(volume > 0 for volume in case.volumes.values())) if case.volumes else "",
        **{f"v{place}": case.volumes.get(key, math.nan) for place, key in enumerate(volume_columns)},
    }


def _in_order(dataset: _Dataset, cases: Sequence[CaseFiles]) -> dict[str, str]:
    """The cases in the order in which the page should show them → why: problems, outliers, then evenly the others."""
    known = {case.case_id for case in cases}
    order: dict[str, str] = {}
    for problem in dataset.problems:
        if problem.case in known:
            order.setdefault(problem.case, problem.severity)
    for one in dataset.outliers:
        if len(one.case_ids) == 1:
            order.setdefault(one.case_ids[0], f"outlier: {one.quantity}")
    picked = list(order)[: MOST_PICTURES // 2]  # the others show what is usual
    rest = [case.case_id for case in cases if case.case_id not in picked]
    step = max(1, len(rest) // (MOST_PICTURES - len(picked)))
    spread = [case_id for start in range(step) for case_id in rest[start::step]]
    return {case_id: order.get(case_id, "") for case_id in (*picked, *spread)}


def _viewed(cases: Sequence[CaseFiles], dataset: _Dataset) -> list[ViewedCase]:
    files = {case.case_id: case for case in cases}
    return [
        ViewedCase(case_id, files[case_id].images, _maps(files[case_id]), why, missing=files[case_id].missing)
        for case_id, why in _in_order(dataset, cases).items()
        if case_id in dataset.looked
    ]


def _maps(files: CaseFiles) -> dict[str, Path]:
    return {} if files.label is None else {"reference": files.label}


def _pictures(dataset: _Dataset, cases: Sequence[CaseFiles]) -> list[dict[str, str]]:
    """The mosaic: name, reason and picture of each case, those with a reason first."""
    order = [(name, why) for name, why in _in_order(dataset, cases).items() if name in dataset.looked]
    found = []
    for case_id, why in order:
        picture = dataset.looked[case_id].picture
        if picture is not None:
            found.append({"id": case_id, "why": why, "data": base64.b64encode(picture).decode("ascii")})
    return found[:MOST_PICTURES]
