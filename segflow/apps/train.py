"""``segflow train``: one fold, from preprocessed arrays to scores of its validation cases."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _datasets, _invocation, _next, _processes, _terminal
from segflow.apps._parts import Part
from segflow.apps._records import ConfigurationSettings, DatasetCommand, FoldSettings, within_memory
from segflow.execution.place import Place, place_of
from segflow.inference.predict_settings import PredictSettings
from segflow.training.training_settings import TrainerSettings, TrainingSettings

if TYPE_CHECKING:
    from segflow.apps._inputs import Inputs
    from segflow.apps._training import Trained
    from segflow.training.protocols import EpochJudge


@dataclass(kw_only=True)
class Train(DatasetCommand):
    """Settings of ``segflow train``.

    Attributes:
        configuration: The planned configuration.
        fold: The fold, and how cases are divided.
        trainer: Lightning's trainer.
        training: All other settings of the training.
        network: The network; ``planned`` is that of the plans.
        loss: The loss.
        optimizer: The optimizer.
        schedule: The learning rate over the epochs.
        sampling: Choice of patches.
        augmentation: Changes of patches.
        inference: Prediction of validation cases.
        logger: Loggers of curves and pictures: name → logger.
        callbacks: Further Lightning callbacks: name → ``{_target_: …}``.
        plans: Name of the plans.
        run_name: Name of the run, a part of its folder. Runs with other settings need another name.
        previous_run_name: Run of a cascade's previous stage; null takes that of the same name.
        validation: Predict and score the fold's whole validation cases at the end.
        save_probabilities: Keep the probabilities of validation cases, for ensembles.
        objective: The value that a sweep optimises, one that is logged, such as ``val/dice_ema`` or ``val/loss``. null
            is the mean Dice of the validation cases, or ``val/dice_ema`` if they are not predicted. Higher is better
            for a Dice and lower for a loss, which a sweeper is told by its own ``direction``.
    """

    PLACES: ClassVar[tuple[str, ...]] = (
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
    objective: str | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    callbacks: dict[str, Part | None] = field(default_factory=dict)


@within_memory
def run(settings: Train) -> float | None:
    """Train one fold, and print the scores of its validation cases.

    Returns:
        The value that a sweep optimises, see `Trained.value`.
    """
    if _invocation.is_sweep() and not settings.trainer.is_one_process:
        return _processes.run_alone("train")  # ranks start this command line again, which must not be that of the sweep
    is_first = place_in_team(settings).is_first
    _datasets.announce(settings, "train", silent=not is_first)
    trained = train(settings)
    if not is_first:
        return None
    result = trained.result
    trained.show(f"Validation cases of {result.folder}")
    if not result.has_weights:
        _terminal.say(f"Trained {result.epochs} epochs and kept no weights. Figures are in {result.folder}.")
        return trained.value
    if not result.finished:
        _terminal.say(f"Stopped after {result.epochs} epochs. To continue, run the same command again.")
    _terminal.say(f"The run is in {result.folder}.")
    _next.say(_next.after_train(settings, result.folder, finished=result.finished))
    return trained.value


def train(settings: Train, judge: EpochJudge | None = None) -> Trained:
    """Train the fold of the settings, then predict and score its validation cases.

    Args:
        settings: Settings of the command.
        judge: Decides after each epoch whether the training is worth going on.

    Raises:
        SegflowError: Plans or arrays are missing, which is reported before torch is loaded; or the training failed.
    """
    from segflow.apps._inputs import read_inputs

    place = place_in_team(settings)
    if place.several:  # torch prints the stack of each lost connection; see `segflow.training.watch` for the message
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if place.together > 1:
        from segflow.apps._training import join

        with join(settings):  # the others hear of missing inputs too
            return _train(settings, read_inputs(settings), judge)
    return _train(settings, read_inputs(settings), judge)


def place_in_team(settings: Train) -> Place:
    """The place of this process among those that train the fold together."""
    trainer = settings.trainer
    return place_of(trainer.devices, trainer.num_nodes, trainer.strategy)


def _train(settings: Train, inputs: Inputs, judge: EpochJudge | None) -> Trained:
    from segflow.apps._training import train_inputs  # slow: torch and Lightning

    return train_inputs(settings, inputs, judge)
