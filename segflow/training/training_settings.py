"""Settings of a training beside its parts (network, loss, optimizer, schedule, trainer, …)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError

_CHOICES = {
    "average": ("none", "ema", "swa"),
    "compile": ("auto", "on", "off"),
    "augmentation_device": ("auto", "cpu", "device"),
}


@dataclass(kw_only=True, slots=True)
class TrainingSettings:
    """Settings of a training. Those of Lightning's trainer have Lightning's names, under ``trainer``.

    Attributes:
        seed: Seed of weights, patches, augmentation and dropout. On a CPU, runs with the same seed and settings end
            with the same weights to the bit, even if they are interrupted and started again.
        num_workers: Processes that make batches; 0 makes them in the training process. -1 chooses: for a GPU as many as
            the machine has cores, up to 12; on a CPU none with fewer than 4 cores, else a few.
        augmentation_device: ``cpu`` augments in the workers, ``device`` on the training device. On a GPU ``auto``
            measures at every start which of them makes a step quicker; elsewhere it takes the workers.
        deep_supervision: Train all resolutions of the decoder.
        compile: Compile the network: ``on``, ``off``, or ``auto``, which measures on a GPU whether it helps.
        picture_every: Epochs between pictures of validation patches in TensorBoard; 0 draws none.
        picture_count: Number of validation patches in a picture.
        volume_every: Epochs between scores of whole validation cases; 0 scores none.
        volume_count: Number of validation cases to score.
        initial_weights: A trained model of any form, a checkpoint file, or an encoder that nnssl pretrained (``.pth``),
            to start from; null starts from random weights.
        freeze: Shell patterns of parameter names that are not trained, such as ``encoder.*``.
        average: Average of the weights that is validated, kept and predicted with: ``none``; ``ema``, a moving average
            over the steps; ``swa``, the mean over the last epochs, for which ``schedule=swa`` keeps the rate up.
        average_half_life: Share of the steps so far from which half of ``ema`` comes. It fits a training of any length.
        average_decay: Upper limit of the factor by which a step of ``ema`` keeps what was, such as 0.999; null: none.
        average_start: Share of the run after which ``swa`` begins.
        lr_factors: Shell pattern of parameter names → factor on the learning rate. The first match counts.
        extend: Allow an existing run to be continued to another ``trainer.max_epochs``.
        skip_limit: Steps in a row that may be skipped because their loss or gradient is not finite. One more ends the
            training; 0 ends it with the first.
        drop_channels: Probability that a channel of a training patch is taken away, at least one stays: a number, or
            channel name → its own, such as ``{T2: 0.5}``. The model then predicts images that lack such channels.
        drop_together: Groups of channel names that are taken away together, such as ``[[in, opposed]]``.
        channel_mask: Tell the network which channels are there, by one more input for each.
        repeat_batch: Train on the first batch again and again, to measure the network without the data (recipe 16).
    """

    seed: int = 0
    num_workers: int = -1
    augmentation_device: str = "auto"
    deep_supervision: bool = True
    compile: str = "auto"
    picture_every: int = 10
    picture_count: int = 4
    volume_every: int = 0
    volume_count: int = 4
    initial_weights: str | None = None
    freeze: list[str] = field(default_factory=list)
    average: str = "none"
    average_half_life: float = 0.05
    average_decay: float | None = None
    average_start: float = 0.75
    lr_factors: dict[str, float] = field(default_factory=dict)
    extend: bool = False
    skip_limit: int = 20
    drop_channels: float | dict[str, float] = 0.0
    drop_together: list[list[str]] = field(default_factory=list)
    channel_mask: bool = False
    repeat_batch: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise SegflowError(f"training.{name} is unknown", found=value, expected=" | ".join(choices))
        if self.num_workers < -1:
            raise SegflowError("training.num_workers must be -1 (automatic) or more", found=self.num_workers)
        if self.seed < 0:
            raise SegflowError("training.seed must not be negative", found=self.seed)
        if self.skip_limit < 0:
            raise SegflowError("training.skip_limit must be 0 or more", found=self.skip_limit)
        for name in ("picture", "volume"):
            every, count = getattr(self, f"{name}_every"), getattr(self, f"{name}_count")
            if every < 0 or count < 1:
                raise SegflowError(
                    f"training.{name}_every must be 0 or more and {name}_count 1 or more", found=f"{every} and {count}"
                )
        for value in self.drop_channels.values() if isinstance(self.drop_channels, dict) else (self.drop_channels,):
            if not 0 <= value < 1:
                raise SegflowError(
                    "training.drop_channels must be probabilities", found=self.drop_channels, expected="0 <= … < 1"
                )
        self._check_average()
        negative = {pattern: factor for pattern, factor in self.lr_factors.items() if not factor >= 0}
        if negative:
            raise SegflowError("training.lr_factors must not be negative", found=negative)

    def _check_average(self) -> None:
        if not 0 < self.average_half_life < 1:
            raise SegflowError(
                "training.average_half_life must be a share of the run, between 0 and 1", found=self.average_half_life
            )
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise SegflowError(
                "training.average_decay must lie between 0 and 1, or be null",
                found=self.average_decay,
                expected="a factor such as 0.999",
            )
        if not 0 <= self.average_start < 1:
            raise SegflowError(
                "training.average_start must be a share of the run, from 0 to below 1, for an epoch to average",
                found=self.average_start,
                expected="0.75 for the last quarter",
            )


@dataclass(kw_only=True, slots=True)
class TrainerSettings:
    """Settings of Lightning's Trainer, under Lightning's own names.

    Attributes:
        _target_: The class; Lightning's, or one that derives from it.
        _partial_: Always true: the run adds what follows from its folder.
        max_epochs: Epochs of the training.
        max_time: ``2h``, ``13m``, ``1d``: the training takes this time, its validation of patches included. Every step
            has the rate of the share of the time that is used, so that the whole schedule fits, warm-up included.
        limit_train_batches: Training batches of an epoch, or a share of 250 as 0.1.
        limit_val_batches: Validation batches of an epoch, or a share of 50.
        check_val_every_n_epoch: Epochs from one validation to the next.
        accelerator: ``auto``, ``cpu``, ``gpu``, ``cuda``, ``mps``. Validation cases are predicted on the same device.
        devices: ``auto`` or -1 for all, a number of devices, or a list of them such as ``[0]`` or ``'0,1'``. On a CPU a
            number of processes, and all are one.
        num_nodes: Machines that train together.
        strategy: ``auto``, ``ddp``, and what else Lightning has.
        precision: ``auto`` is 16-mixed on CUDA and 32-true elsewhere; or ``16``, ``bf16-mixed``, ``32``, ….
        gradient_clip_val: Largest norm of the gradient; longer ones are scaled down. null: none are.
        accumulate_grad_batches: Batches whose gradients make one step.
        benchmark: cuDNN's search for quick kernels; null: on unless deterministic.
        deterministic: Whether GPUs must repeat results bit by bit; ``warn`` only says where they cannot.
        profiler: ``simple`` or ``advanced``; null: none.
        enable_checkpointing: Whether weights are kept.
        enable_progress_bar: Whether a bar is shown; null: on a terminal.
        more: Any other argument of Lightning's Trainer.
    """

    _target_: str = "pytorch_lightning.Trainer"
    _partial_: bool = True
    max_epochs: int | None = 1000
    max_time: str | dict[str, int] | None = None
    limit_train_batches: int | float | None = 250
    limit_val_batches: int | float | None = 50
    check_val_every_n_epoch: int | None = 1
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: int | str | None = "auto"
    gradient_clip_val: int | float | None = 12.0
    accumulate_grad_batches: int = 1
    benchmark: bool | None = None
    deterministic: bool | str | None = False
    profiler: str | None = None
    enable_checkpointing: bool = True
    enable_progress_bar: bool | None = None
    more: dict[str, Any] = field(default_factory=dict, metadata={"rest": True})

    def __post_init__(self) -> None:
        decided = {name: why for name, why in DECIDED_HERE.items() if name in self.more}
        if decided:
            name, why = next(iter(decided.items()))
            raise SegflowError(f"'trainer.{name}' is not to be set", fix=why)
        parse_devices(self.devices)

    @property
    def is_one_process(self) -> bool:
        """Whether one process trains, on one device. For ``auto`` and -1 it asks the machine, which loads torch."""
        if self.num_nodes != 1:
            return False
        devices = parse_devices(self.devices)
        if devices in ("auto", ALL_DEVICES):
            from segflow.training.training_devices import training_devices

            options = {"accelerator": self.accelerator, "devices": self.devices}
            return len(training_devices(options).devices) <= 1
        return devices == 1 or (isinstance(devices, list) and len(devices) == 1)


ALL_DEVICES = -1
"""The number that asks for all devices."""


def parse_devices(devices: int | str | Sequence[int]) -> int | str | list[int]:
    """A choice of devices as Lightning understands it.

    Args:
        devices: See `TrainerSettings`; a text of numbers too, such as ``2``, ``0,1`` or ``0,``.

    Returns:
        ``auto``, `ALL_DEVICES`, a number of devices from 1, or the numbers of devices, of which none occurs twice.

    Raises:
        SegflowError: It is none of these.
    """
    text = devices.strip() if isinstance(devices, str) else devices
    if text == "auto":
        return "auto"
    try:
        if isinstance(text, str) and "," in text:
            text = [int(word) for word in text.split(",") if word.strip()]
        parsed = int(text) if isinstance(text, int | str) else [int(number) for number in text]
    except ValueError:
        parsed = []
    few = parsed != ALL_DEVICES and parsed < 1 if isinstance(parsed, int) else not parsed or min(parsed) < 0
    if few or (isinstance(parsed, list) and len(set(parsed)) < len(parsed)):
        raise SegflowError(
            "trainer.devices is not a choice of devices",
            found=devices,
            expected="auto | -1 | a number from 1 | a list of different numbers from 0, such as [0,1]",
            fix="Type trainer.devices=1.",
        )
    return parsed


DECIDED_HERE = {
    "logger": "Choose one with logger=csv, logger=tensorboard, …",
    "default_root_dir": "The run's folder follows from paths.outputs and run_name.",
    "num_sanity_val_steps": "The first epoch's validation is soon enough.",
    "use_distributed_sampler": "The dataset divides its batches among processes.",
}
"""Arguments of Lightning's Trainer that a run gives itself, and why."""
