"""``segflow train``: one fold, from preprocessed arrays to scores of its validation cases."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _datasets, _invocation, _processes, _terminal
from segflow.apps._parts import Part
from segflow.apps._records import ConfigurationSettings, DatasetCommand, FoldSettings
from segflow.core.command_line import command_line
from segflow.inference.predict_settings import PredictSettings
from segflow.training.training_settings import TrainerSettings, TrainingSettings

if TYPE_CHECKING:
    from pathlib import Path

    from segflow.apps._training import Trained

SHIPPED_NETWORK = "segflow.network.build.build_network"
"""Prediction builds it unless told otherwise."""


@dataclass(kw_only=True)
class Train(DatasetCommand):
    """Settings of ``segflow train``.

    Attributes:
        configuration: Which of the planned configurations.
        fold: Which fold, and how the cases are divided.
        trainer: Lightning's trainer.
        training: Everything else about the training itself.
        network: The network; ``planned`` is what the plans describe.
        loss: The loss.
        optimizer: The optimizer.
        schedule: How the learning rate changes from epoch to epoch.
        sampling: How patches are chosen.
        augmentation: How patches are changed.
        inference: How validation cases are predicted.
        logger: Where curves and pictures go beside the run's folder: name → logger.
        callbacks: More of Lightning's callbacks: name → ``{_target_: …}``.
        plans: Name of the plans.
        run_name: Part of the run's folder; runs with other settings need another name.
        previous_run_name: The run that a cascade builds on; null: that of the same name.
        validation: Whether the fold's whole validation cases are predicted and scored at the end.
        save_probabilities: Keep their probabilities too, for ensembles.
    """

    PLACES: ClassVar = (
        *("paths.outputs", "dataset.source", "dataset.name", "dataset.path"),
        *("plans", "configuration.name", "run_name", "fold.index"),
    )

    configuration: ConfigurationSettings = field(default_factory=ConfigurationSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    optimizer: Part
    fold: FoldSettings = field(default_factory=FoldSettings)
    schedule: Part
    network: Part
    loss: Part
    sampling: Part
    augmentation: Part
    inference: PredictSettings = field(default_factory=PredictSettings)
    logger: dict[str, Part | None] = field(default_factory=dict)
    plans: str = "nnUNetPlans"
    run_name: str = "default"
    previous_run_name: str | None = None
    validation: bool = True
    save_probabilities: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)
    callbacks: dict[str, Part | None] = field(default_factory=dict)


def run(settings: Train) -> float | None:
    """Train one fold, and print the scores of its validation cases.

    Returns:
        What a sweep optimises, see `Trained.value`.
    """
    if _invocation.is_sweep() and settings.trainer.devices not in (1, "1"):
        _processes.run_alone("train")  # several ranks start this command line again: it must not be the sweep's
        return None
    _datasets.announce(settings, "train")
    trained = train(settings)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    result = trained.result
    trained.show(f"Validation cases of {result.folder}")
    if not result.has_weights:
        _terminal.say(f"Trained {result.epochs} epochs and kept no weights. Figures lie in {result.folder}.")
        return trained.value
    if not result.finished:
        _terminal.say(f"Stopped after {result.epochs} epochs. The same command goes on.")
    _terminal.say(f"The run lies in {result.folder}. Next: {_predict_command(settings, result.folder)}")
    return trained.value


def train(settings: Train) -> Trained:
    """Train the fold that settings describe, then predict and score its validation cases.

    Raises:
        SegflowError: Plans or arrays are missing, which is said before torch is loaded; or a training failed.
    """
    from segflow.apps._inputs import read_inputs

    inputs = read_inputs(settings)
    from segflow.apps._training import train_inputs  # slow: torch and Lightning

    return train_inputs(settings, inputs)


def _predict_command(settings: Train, folder: Path) -> str:
    """What to type to predict, with the network where it is one of the user's own."""
    own = settings.network.target != SHIPPED_NETWORK
    named = [override for override in _invocation.overrides() if override.startswith("network")]
    words = [*_invocation.config_flags(), *named] if own else []
    return command_line("predict", *words, model=folder, input="DIR", output="DIR")
