"""Settings of prediction."""

from __future__ import annotations

from dataclasses import dataclass, field

from segflow.core.case_part import WHOLE, first_and_step
from segflow.core.errors import SegflowError

AUTO = "auto"

SUMS = (AUTO, "float32", "float16")
"""Types in which logits are summed."""

PRECISIONS = {
    AUTO: AUTO,
    **dict.fromkeys(("16", "16-mixed"), "16"),
    **dict.fromkeys(("bf16", "bf16-mixed"), "bf16"),
    **dict.fromkeys(("32", "32-true"), "32"),
}
"""A precision as it may be written, also as of a training → its one name in prediction."""


@dataclass(kw_only=True, slots=True)
class SlidingWindowSettings:
    """How an image is covered with patches.

    Attributes:
        overlap: Share of a patch that it shares with its neighbour along an axis, ``0 <= overlap < 1``.
        gaussian: Weight voxels by their distance from the patch's centre; false weights all voxels alike.
        mirroring: Average over the mirrored views that the network was trained with.
        batch_size: Tiles and mirrored views that are computed together; ``auto`` takes as many as memory allows. On a
            CPU they may be several forward passes side by side.
        sums: ``float32`` or ``float16``. The latter is nnU-Net's arithmetic: it takes half the memory, decides nearly
            equal logits as nnU-Net does, and is coarse in outer corners, whose weights are very small. ``auto`` takes
            float16 for a model that nnU-Net trained, and float32 for others.
        precision: Type of number in which the network computes: ``16``, ``bf16`` or ``32``. ``auto`` takes that of the
            training on CUDA, float16 for models of nnU-Net, and float32 on other devices; an image whose output is not
            finite in float16 is then predicted again in float32. A CPU has bf16 and 32, MPS has 32.
    """

    overlap: float = 0.5
    gaussian: bool = True
    mirroring: bool = True
    batch_size: int | str = "auto"
    sums: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not 0.0 <= self.overlap < 1.0:
            raise SegflowError("overlap of the sliding window", found=self.overlap, expected="0 <= overlap < 1")
        if self.batch_size != "auto" and (not str(self.batch_size).isdigit() or int(self.batch_size) < 1):
            raise SegflowError(
                "batch_size of the sliding window", found=self.batch_size, expected="auto, or a number from 1"
            )
        if self.sums not in SUMS:
            raise SegflowError("sums of the sliding window", found=self.sums, expected=" | ".join(SUMS))
        if str(self.precision) not in PRECISIONS:
            raise SegflowError(
                "inference.precision is unknown",
                found=self.precision,
                expected=" | ".join(dict.fromkeys(PRECISIONS.values())),
            )
        self.precision = PRECISIONS[str(self.precision)]


WARN, REFUSE, IGNORE = "warn", "refuse", "ignore"
UNLIKE = (WARN, REFUSE, IGNORE)
"""What is done about images that are unlike the training images."""


@dataclass(kw_only=True, slots=True)
class PredictSettings(SlidingWindowSettings):
    """Choice of a model, and its use on many cases.

    Attributes:
        folds: ``all``, one fold, or a list of folds, whose logits are averaged.
        checkpoint: ``final``, ``best`` or ``last``; ``raw`` is ``final`` before ``training.average``.
        configuration: Configuration to take if the path holds several; null if it holds one.
        device: ``auto`` for CUDA if there is such a device, else MPS, else the CPU; or ``cpu``, ``cuda``, ``cuda:1``,
            ``mps``. In ``segflow train``, ``auto`` is the device of the training.
        devices: Devices that share the cases, each with a process of its own: ``auto`` for all GPUs of this machine,
            their number, or a list such as ``[0,1]`` or ``[cuda:0,cuda:1]``. Null predicts with one, ``device``.
        previous_stage: Model of a cascade's previous stage; null takes the one beside the cascade.
        previous_stage_predictions: Folder of that stage's label maps; null predicts them.
        probabilities: Also write the probability of each label or region.
        entropy: Also write the entropy of the probabilities, 0 to 1.
        disagreement: Also write the share of folds whose label differs from the result.
        on_unlike: What is done about an image whose values, spacing or order of channels are unlike those of the
            training images: ``warn``, with the numbers; ``refuse``; or ``ignore``. Unless it is ``ignore``, an image of
            an orientation that no training image has is turned to the usual one, and its label map back.
        missing_channels: Names of channels to do without though there are files of them. The model must have been
            trained for it, see ``training.drop_channels``. Channels without a file are missing without a setting.
        resume: Skip finished cases, whose outputs exist and were made from the same images by the same model and
            settings.
        part: ``k/n`` predicts only every n-th case, starting at the k-th (from 0).
        readers, writers: Threads that read and preprocess, and that write; after a CPU these bring the result back to
            the image's grid, which a GPU does itself.
    """

    folds: str | int | list[str | int] = "all"
    checkpoint: str = "final"
    configuration: str | None = None
    device: str = "auto"
    devices: str | list[str] | None = None
    previous_stage: str | None = None
    previous_stage_predictions: str | None = None
    probabilities: bool = False
    entropy: bool = False
    disagreement: bool = False
    on_unlike: str = WARN
    missing_channels: list[str] = field(default_factory=list)
    resume: bool = True
    part: str = WHOLE
    readers: int = 1
    writers: int = 1

    def __post_init__(self) -> None:
        SlidingWindowSettings.__post_init__(self)
        if isinstance(self.folds, (list, tuple)):
            self.folds = [str(fold) for fold in self.folds]
        else:
            self.folds = "all" if self.folds == "all" else [str(self.folds)]
        if self.folds == ["all"]:
            self.folds = "all"
        if self.on_unlike not in UNLIKE:
            raise SegflowError("inference.on_unlike is unknown", found=self.on_unlike, expected=" | ".join(UNLIKE))
        if self.readers < 1 or self.writers < 1:
            raise SegflowError("readers and writers must be at least 1", found=f"{self.readers}, {self.writers}")
        if self.devices is not None and self.device != "auto":
            raise SegflowError(
                "both inference.device and inference.devices are given",
                found=f"{self.device} and {self.devices}",
                fix="Leave one out: devices= spreads the cases over several.",
            )
        if self.devices == [] or self.devices in ("0", ""):
            raise SegflowError("inference.devices names no device", fix="Name some, such as auto or [0,1], or null.")
        first_and_step(self.part)

    @property
    def window(self) -> SlidingWindowSettings:
        """The settings of the sliding window alone."""
        return SlidingWindowSettings(
            overlap=self.overlap,
            gaussian=self.gaussian,
            mirroring=self.mirroring,
            batch_size=self.batch_size,
            sums=self.sums,
            precision=self.precision,
        )
