"""Names of the values that a training logs after each epoch."""

from __future__ import annotations

from segflow.core.labels import Labels

FINAL_DICE, FINAL_DICE_OF = "final/dice_mean", "final/dice/"
"""Scores of the fold's whole validation cases after the training: the mean, and the prefix of each label's."""

TRAINING_HOURS = "time/training_hours"
"""Sum of all epochs' times."""


def possible_tags(labels: Labels, *, validation: bool = True, volumes: bool = True) -> list[str]:
    """Every name that segflow itself may log. Callbacks of a user's own log others beside them.

    Args:
        labels: The label definition.
        validation: Whether there are validation batches.
        volumes: Whether whole validation cases are scored during training.
    """
    names = [labels.name_of(key) for key in labels.foreground_keys]
    tags = ["train/loss", "lr", "time/data_wait", "time/compute", "time/epoch", "memory/gpu_peak_gib"]
    if validation:
        tags += ["val/loss", "val/dice_mean", "val/dice_ema", *(f"val/dice/{name}" for name in names)]
    if validation and volumes:
        whole = ["val_volume/dice_mean", *(f"val_volume/dice/{name}" for name in names)]
        tags += [*whole, "time/volume_validation"]
    return tags
