"""The cases of a run in the page's viewer: image, reference and prediction in three planes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.metrics import CaseMetrics
from segflow.reporting.reported_run import ReportedRun, case_score
from segflow.reporting.viewed_cases import ViewedCase, check_channel, pack_cases, ranked
from segflow.storage.images import reader_by_name
from segflow.storage.label_mapping import in_classes


def viewer_data(run: ReportedRun, images: Mapping[str, CaseFiles], channel: int) -> dict[str, Any] | None:
    """What ``viewer.html.j2`` shows; None if there are no cases with images.

    Args:
        run: The run.
        images: Case → its image files. Other cases are left out.
        channel: Channel of the image to show first.

    Raises:
        SegflowError: There is no such channel.
    """
    record = run.record
    channels = record.dataset.channels
    check_channel(channel, channels)
    cases = {case.case_id: case for case in run.summary.cases if case.case_id in images}
    if not cases:
        return None
    groups = {case: f"fold {fold}" for case, fold in run.fold_of.items()} if len(run.folds) > 1 else {}
    order = ranked({case_id: case_score(case) for case_id, case in cases.items()}, groups)
    labels = record.dataset.labels

    def viewed(case: CaseMetrics, rank: str) -> ViewedCase:
        maps = {"reference": Path(case.reference_file), "prediction": Path(case.prediction_file)}
        scores = {labels.name_of(key): values["Dice"] for key, values in case.metrics.items() if key != 0}
        files = images[case.case_id]
        return ViewedCase(case.case_id, files.images, maps, rank, case_score(case), scores, files.missing)

    reader = in_classes(reader_by_name(record.plans.reader), labels)
    shown = [viewed(cases[case_id], rank) for case_id, rank in order.items()]
    return pack_cases(shown, labels, reader, channels, first_channel=channel)
