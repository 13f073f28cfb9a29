"""Scores of whole validation cases during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from segflow.core.preprocessed_case import PreprocessedCase
from segflow.core.run_record import RunRecord
from segflow.evaluation.evaluate_settings import overlap_only
from segflow.evaluation.score_case import score_case, told_scores
from segflow.inference.load_model import Model
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.predictor import Predictor
from segflow.storage.images import reader_by_name
from segflow.storage.label_mapping import in_classes
from segflow.storage.preprocessed_store import PreprocessedStore


def volume_scorer(
    record: RunRecord,
    store: PreprocessedStore,
    references: Path,
    settings: SlidingWindowSettings,
    *,
    previous_stage: PreprocessedStore | None = None,
) -> Callable[[nn.Module, Sequence[str]], Mapping[str, Mapping[str, float]]]:
    """Make a function that predicts whole cases with a network and scores them in image space.

    Args:
        record: Record of the run.
        store: Preprocessed cases.
        references: Folder of reference label maps.
        settings: How a case is covered with patches.
        previous_stage: Label maps of the previous stage, for a cascade.

    Returns:
        ``(network, case ids)`` → case id → label or region name → Dice, NaN where it is not defined. The network keeps
        its mode.
    """
    labels = record.dataset.labels
    reader = in_classes(reader_by_name(record.plans.reader), labels)

    def score(network: nn.Module, case_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        training, supervised = network.training, getattr(network, "deep_supervision", None)
        device = next(network.parameters()).device
        network.eval()
        if supervised is not None:
            network.deep_supervision = False  # type: ignore[assignment]
        found: dict[str, dict[str, float]] = {}
        try:
            predictor = Predictor(
                Model(record, (network,), (str(record.fold),), references), device=device, settings=settings
            )
            for case_id in case_ids:
                stored = store.open(case_id)
                before = None if previous_stage is None else previous_stage.open(case_id).read_label()
                case = PreprocessedCase(case_id, stored.read_image(), before, stored.spatial, missing=stored.missing)
                with torch.inference_mode():
                    prediction = predictor.predict_preprocessed(case)
                file = references / f"{case_id}{record.dataset.label_ending}"
                reference, geometry = reader.read_label(file)
                scores = score_case(reference, prediction, geometry.spacing, labels, overlap_only())
                scores = told_scores(scores, labels.absent_keys(case_id))
                found[case_id] = {labels.name_of(key): float(metrics["Dice"]) for key, metrics in scores.items()}
        finally:
            network.train(training)
            if supervised is not None:
                network.deep_supervision = supervised
        return found

    return score
