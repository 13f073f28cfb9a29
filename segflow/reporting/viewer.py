"""Pictures of cases for a page: the slice that shows most of the reference, of the best, median and worst case."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.metrics import CaseMetrics
from segflow.core.run_record import RunRecord
from segflow.execution.machine import check_room
from segflow.reporting.overlays import PALETTE, best_slice, channel_of, draw_overlay
from segflow.reporting.reported_run import case_score
from segflow.storage.images import reader_by_name
from segflow.storage.label_mapping import in_classes


def viewer_data(
    record: RunRecord, cases: Sequence[CaseMetrics], images: Mapping[str, CaseFiles], channel: int
) -> dict[str, Any]:
    """What ``viewer.html.j2`` shows.

    Args:
        record: Record of a fold of the run.
        cases: Scored cases, the worst first.
        images: Case → its image files. Other cases are left out.
        channel: Channel of the image to show.
    """
    return {"examples": _examples(record, cases, images, channel), "colors": _colors(record)}


def _colors(record: RunRecord) -> dict[str, str]:
    """Name of a label → its colour in the pictures, as CSS has it."""
    labels = record.dataset.labels
    return {
        labels.name_of(value): "rgb({}, {}, {})".format(*PALETTE[(value - 1) % len(PALETTE)])
        for value in labels.foreground_labels
    }


def _examples(
    record: RunRecord, cases: Sequence[CaseMetrics], images: Mapping[str, CaseFiles], channel: int
) -> list[dict[str, Any]]:
    """The best, the median and the worst case; each only once, and none if there are no images."""
    shown = [case for case in cases if case.case_id in images]
    if not shown:
        return []
    chosen = {"Best": shown[-1], "Median": shown[len(shown) // 2], "Worst": shown[0]}
    first = {case.case_id: name for name, case in reversed(chosen.items())}
    return [
        _example(name, record, case, images[case.case_id], channel)
        for name, case in chosen.items()
        if first[case.case_id] == name
    ]


def _example(name: str, record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> dict[str, Any]:
    caption = f"{name}: {case.case_id}, mean Dice {case_score(case):.3f}"
    try:
        drawn = _draw_case(record, case, files, channel)
    except SegflowError as error:
        return {"caption": caption, "pictures": {}, "problem": str(error)}
    pictures = {side: base64.b64encode(png).decode("ascii") for side, png in drawn.items()}
    return {"caption": caption, "pictures": pictures, "problem": None}


def _draw_case(record: RunRecord, case: CaseMetrics, files: CaseFiles, channel: int) -> dict[str, bytes]:
    """Image, reference and prediction as PNG, of the slice that shows most of the reference."""
    reader = in_classes(reader_by_name(record.plans.reader), record.dataset.labels)
    header = reader.read_header(files.images[0])
    values = math.prod(header.shape) * header.channels * len(files.images)
    shape = " × ".join(map(str, header.shape))
    check_room(8 * values, "the picture of a case", found=f"{shape} voxels", case=case.case_id)
    image, geometry = reader.read_image(files.images)
    reference, _ = reader.read_label(Path(case.reference_file))
    prediction, _ = reader.read_label(Path(case.prediction_file))
    grey = channel_of(image, channel, case.case_id)
    if not reference.shape == prediction.shape == grey.shape:
        raise SegflowError("image and label maps differ in shape", case=case.case_id)
    index = best_slice(reference if (reference > 0).any() else prediction)
    sides = {"image": np.zeros_like(reference), "reference": reference, "prediction": prediction}
    pictures = {}
    for side, label in sides.items():
        drawn = draw_overlay(grey[index], label[index], geometry.spacing[1:])
        stream = io.BytesIO()
        Image.fromarray(drawn).save(stream, format="PNG", optimize=True)
        pictures[side] = stream.getvalue()
    return pictures
