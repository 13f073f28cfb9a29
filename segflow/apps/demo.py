"""``segflow demo``: all steps from end to end: plan, preprocess, train, predict, evaluate."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import ClassVar

from segflow.apps import _datasets, _next, _terminal, plan, predict, preprocess, train
from segflow.apps._records import within_memory

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Demo(train.Train, plan.Plan, preprocess.Preprocess):
    """Settings of ``segflow demo``: those of the commands that it runs in turn."""

    SECTION: ClassVar = ""
    PLACES: ClassVar[tuple[str, ...]] = train.Train.PLACES


@within_memory
def run(settings: Demo) -> float | None:
    """Run every command in turn. Finished steps are skipped."""
    started = time.monotonic()
    paths = settings.paths
    dataset = _datasets.announce(settings, "demo")
    logger.info("1/5 plan")
    plan.show(plan.plan(settings), settings.estimate_time)
    logger.info("2/5 preprocess")
    preprocess.preprocess(replace(settings, configurations=settings.configuration.name))
    logger.info("3/5 train, and predict and score the validation cases")
    trained = train.train(settings)
    result = trained.result
    raw = _datasets.raw_folder(dataset, paths)
    predictions = result.folder / "predictions"
    images = raw / "imagesTs"
    if result.has_weights and images.is_dir() and any(images.iterdir()):
        from segflow.apps._training import on_training_device  # slow: torch and Lightning

        logger.info("4/5 predict %s", images)
        predict.predict(
            predict.Predict(
                model=result.folder,
                input=[images],
                output=predictions,
                inference=on_training_device(settings),
                network=settings.network,
                normalization=settings.normalization,
            )
        )
    logger.info("5/5 results")
    trained.show(f"Validation cases of {dataset.name}, fold {settings.fold.index}")
    _terminal.say(f"Raw dataset   {raw}")
    _terminal.say(f"Run           {result.folder}")
    _terminal.say(f"  curves      {result.folder / 'progress.png'}, or: tensorboard --logdir {paths.outputs}")
    _terminal.say(f"  validation  {result.folder / 'validation'}")
    if predictions.is_dir():
        _terminal.say(f"  predictions {predictions} (of {images})")
    if result.has_weights:
        _next.say(_next.after_demo(result.folder))
    _terminal.say(f"Done in {time.monotonic() - started:.0f} s.")
    return trained.value
