"""Whether ``segflow train`` would find nothing to do. It is asked before a job is sent to a machine."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from segflow.apps import _sources
from segflow.apps._inputs import Inputs, read_inputs
from segflow.core.errors import SegflowError
from segflow.core.metrics import Summary
from segflow.evaluation.summary import read_scores_of

if TYPE_CHECKING:
    from segflow.apps._training import Trained
    from segflow.apps.train import Train
    from segflow.storage.preprocessed_store import PreprocessedStore

logger = logging.getLogger(__name__)


def trained_before(settings: Train) -> Trained | None:
    """The result of a training that is finished and validated, with these settings and the present arrays.

    Returns:
        The result; None where ``segflow train`` has something to do, or an error to tell.
    """
    try:
        inputs = read_inputs(settings)
        may_go_on = settings.training.extend or not settings.inference.resume
        return None if may_go_on or not inputs.folder.is_finished() else _result(settings, inputs)
    except SegflowError as error:
        logger.debug("not done: %s", error)
        return None


def _result(settings: Train, inputs: Inputs) -> Trained | None:
    from segflow.apps._training import Trained, previous_stage  # slow: torch and Lightning
    from segflow.training.claim_folder import check_arrays_of_run, is_claimed
    from segflow.training.finished_run import finished_before

    folder, record = inputs.folder, inputs.record
    if not is_claimed(folder, record):
        return None
    before = previous_stage(settings, inputs)
    _sources.check_sources(inputs, settings.dataset, settings.paths)
    check_arrays_of_run(folder, record, inputs.store, inputs.preprocess, before)
    summary = _scores(settings, inputs, before) if settings.validation and record.val_cases else None
    result = finished_before(folder)
    if settings.objective not in (None, *result.metrics):
        return None
    return Trained(result, summary, record.dataset.labels, settings.objective)


def _scores(settings: Train, inputs: Inputs, before: PreprocessedStore | None) -> Summary:
    """The scores of the validation cases.

    Raises:
        SegflowError: They are missing or out of date.
    """
    from segflow.inference.predict_validation import is_validated

    folder, record = inputs.folder, inputs.record
    probabilities = settings.inference.probabilities or settings.save_probabilities
    current = is_validated(
        folder,
        inputs.store,
        replace(settings.inference, probabilities=probabilities),
        previous_stage=before,
        next_stages=inputs.next_stages,
        build=settings.network.build(),
    )
    summary = read_scores_of(folder.validation, record.dataset.label_ending)
    if not current or {case.case_id for case in summary.cases} != set(record.val_cases) or summary.failed:
        raise SegflowError(f"{folder.validation} is not complete")
    return summary
