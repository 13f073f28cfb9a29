"""From the settings of a training to the channels that its samples, and later images, may lack."""

from __future__ import annotations

from collections.abc import Sequence

from segflow.core.errors import SegflowError
from segflow.core.missing_channels import MissingChannels, channel_number
from segflow.core.run_record import RunRecord
from segflow.sampling.channel_presence import ChannelPresence
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.training_settings import TrainingSettings


def dropping_of(settings: TrainingSettings, channels: Sequence[str]) -> ChannelPresence:
    """What is taken away from training samples.

    Args:
        settings: Settings of the training.
        channels: Names of the dataset's channels.

    Raises:
        SegflowError: A setting names no channel of the dataset, or a channel twice; there is but one channel; or a
            group has several probabilities, or all channels, of which one must stay.
    """
    chosen, groups = settings.drop_channels, settings.drop_together
    if isinstance(chosen, dict):
        numbers = {channel_number(name, channels, "training.drop_channels"): value for name, value in chosen.items()}
        probabilities = tuple(float(numbers.get(number, 0.0)) for number in range(len(channels)))
    else:
        probabilities = (float(chosen),) * len(channels)
    if any(probabilities) and len(channels) == 1:
        raise SegflowError(
            "training.drop_channels needs several channels: at least one stays", found=f"only {channels[0]}"
        )
    together = tuple(
        tuple(channel_number(name, channels, "training.drop_together") for name in group) for group in groups if group
    )
    flat = [number for group in together for number in group]
    if len(set(flat)) < len(flat):
        raise SegflowError("training.drop_together names a channel twice", found=groups)
    if flat and not any(probabilities):
        raise SegflowError("training.drop_together needs training.drop_channels", found=groups)
    for group in together:
        own = {channels[number]: probabilities[number] for number in group}
        if len({probabilities[number] for number in group}) > 1:
            raise SegflowError(
                "training.drop_together: channels of a group have one probability", found=own,
                fix="Give each of them the same in training.drop_channels.",
            )  # fmt: skip
        if len(group) == len(channels) and any(probabilities):
            raise SegflowError(
                "training.drop_together: a group of all channels is never taken away, since one must stay",
                found=list(own), fix="Leave one of them out of the group.",
            )  # fmt: skip
    return ChannelPresence(probabilities, together)


def missing_channels_of(
    settings: TrainingSettings, record: RunRecord, store: PreprocessedStore
) -> MissingChannels | None:
    """What the images of a model may lack; None if it is trained on whole images and is not told of channels.

    Args:
        settings: Settings of the training.
        record: Record of the fold.
        store: Its arrays.

    Raises:
        SegflowError: See `dropping_of`.
    """
    dropped = dropping_of(settings, record.dataset.channels)
    may_lack = {number for number, probability in enumerate(dropped.probabilities) if probability}
    lacking = False
    if record.dataset.allows_missing_channels:
        for case_id in (*record.train_cases, *record.val_cases):
            own = store.open(case_id).missing
            lacking = lacking or bool(own)
            may_lack |= set(own) if case_id in record.train_cases else set()
    if not may_lack and not lacking and not settings.channel_mask:
        return None
    return MissingChannels(tuple(sorted(may_lack)), settings.channel_mask)
