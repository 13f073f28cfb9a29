"""``segflow demo``: the whole job, end to end: plan, preprocess, train, predict, evaluate."""

from __future__ import annotations

import logging
import time

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal, evaluate, plan, predict, preprocess, train

logger = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Run every command in turn; what is done already is skipped."""
    started = time.monotonic()
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _datasets.announce(config, "demo")
    logger.info("1/5 plan")
    plan.show(plan.plan(config))
    logger.info("2/5 preprocess")
    preprocess.preprocess(config)
    logger.info("3/5 train, and predict and score the validation cases")
    result, summary, labels = train.train(config)
    raw = _datasets.raw_folder(dataset, paths)
    predictions = result.folder / "predictions"
    images = raw / "imagesTs"
    if result.has_weights and images.is_dir() and any(images.iterdir()):
        logger.info("4/5 predict %s", images)
        predict.predict(config, str(result.folder), str(images), predictions)
    logger.info("5/5 results")
    if summary is not None:
        evaluate.show(summary, labels, f"Validation cases of {dataset.name}, fold {config.fold.index}")
    _terminal.say(f"Raw dataset   {raw}")
    _terminal.say(f"Run           {result.folder}")
    _terminal.say(f"  curves      {result.folder / 'progress.png'}, or: tensorboard --logdir {paths.outputs}")
    _terminal.say(f"  validation  {result.folder / 'validation'}")
    if predictions.is_dir():
        _terminal.say(f"  predictions {predictions} (of {images})")
    _terminal.say(f"Done in {time.monotonic() - started:.0f} s.")
