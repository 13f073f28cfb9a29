"""Settings of a training beside its parts (network, loss, optimizer, schedule, trainer, …)."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.errors import SegflowError

_CHOICES = {
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
        augmentation_device: ``cpu`` augments in the workers, ``device`` on the training device. ``auto`` takes the
            device if it is a GPU with fewer than 6 cores each.
        deep_supervision: Train all resolutions of the decoder.
        compile: Compile the network: ``on``, ``off``, or ``auto``, which measures on a GPU whether it helps.
        picture_every: Epochs between pictures of validation patches in TensorBoard; 0 draws none.
        picture_count: Number of validation patches in a picture.
        volume_every: Epochs between scores of whole validation cases; 0 scores none.
        volume_count: Number of validation cases to score.
        initial_weights: A trained model of any form, or a checkpoint file, to start from; null starts from random
            weights.
        freeze: Shell patterns of parameter names that are not trained, such as ``encoder.*``.
        lr_factors: Shell pattern of parameter names → factor on the learning rate. The first match counts.
        extend: Allow an existing run to be continued to another ``trainer.max_epochs``.
        skip_limit: Steps in a row that may be skipped because their loss or gradient is not finite. One more ends the
            training; 0 ends it with the first.
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
    lr_factors: dict[str, float] = field(default_factory=dict)
    extend: bool = False
    skip_limit: int = 20
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
        negative = {pattern: factor for pattern, factor in self.lr_factors.items() if not factor >= 0}
        if negative:
            raise SegflowError("training.lr_factors must not be negative", found=negative)
