"""The record of a trained fold: everything that prediction needs beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.missing_channels import MISSING_CHANNELS, MissingChannels
from segflow.core.names import check_fold, safe_name, safe_names, shortened
from segflow.core.plans import Plans
from segflow.core.training_images import TRAINING_IMAGES, TrainingImages


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The content of ``run.json``, plain JSON.

    Attributes:
        dataset: The dataset's description.
        plans: The plans that it was trained with, overrides applied.
        configuration: Name of the configuration within the plans.
        fold: Index of the fold, or ``all``.
        train_cases, val_cases: Case ids of the fold.
        mirror_axes: Spatial axes that were mirrored in training and may be in prediction; 0 is the patch's first axis.
        settings: All settings of the run, for people and for comparison on resume.
        arrays: Origin of the preprocessed arrays, compared with that of other folds and on resume. Empty if it was not
            recorded.
        machine: Facts of the machine that trained it last, for people and for the precision of prediction: device,
            host, versions, ``begun`` (date of the first start) and ``date`` (of the last). They count for nothing when
            a run is continued. Records of earlier versions have none, or only some.
        initial_weights: Where the first weights came from, and the names of tensors that were copied, adapted and left
            out. Empty for random ones. It counts for nothing when a run is continued.
        images: What new images are compared with at prediction; None if it is not known, as for models of nnU-Net.
        mean_of: The folds whose mean of weights this is, each with its run, fold and a digest of its weights. Empty for
            weights that were trained. A mean has seen the validation cases of all of them.
        missing: How it was trained for images that lack channels; None if it was not.
    """

    dataset: DatasetDescription
    plans: Plans
    configuration: str
    fold: int | str
    train_cases: tuple[str, ...]
    val_cases: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    initial_weights: Mapping[str, Any] = field(default_factory=dict)
    images: TrainingImages | None = None
    mean_of: tuple[Mapping[str, Any], ...] = ()
    missing: MissingChannels | None = None

    def __post_init__(self) -> None:
        safe_name(self.dataset.name, "the name of the dataset")
        safe_name(self.configuration, "the name of the configuration")
        check_fold(self.fold)
        safe_names((*self.train_cases, *self.val_cases), "the name of a case")

    def check(self) -> None:
        """Refuse a record whose parts do not fit together.

        Raises:
            SegflowError: The plan cannot be used, or its channels or axes differ from the rest.
        """
        plan = self.plan
        plan.check()
        axes = self.mirror_axes
        if len(set(axes)) != len(axes) or not set(axes) <= set(range(plan.spatial_dims)):
            raise SegflowError(
                "the mirror axes are not axes of the patch",
                found=shortened(list(axes)),
                expected=f"some of {list(range(plan.spatial_dims))}",
            )
        if len(plan.normalization_schemes) != len(self.dataset.channels):
            raise SegflowError(
                f"configuration '{self.configuration}' has another number of channels than the dataset",
                found=len(plan.normalization_schemes),
                expected=len(self.dataset.channels),
            )
        if self.images is not None and self.images.channels != len(self.dataset.channels):
            raise SegflowError(
                "the record of the training images has another number of channels than the dataset",
                found=self.images.channels,
                expected=len(self.dataset.channels),
            )

    @property
    def plan(self) -> ConfigurationPlan:
        """The configuration that was trained."""
        return self.plans.configuration(self.configuration)

    @property
    def in_channels(self) -> int:
        """Input channels of the network: the image's, one per foreground label of a previous stage, and the mask.

        The mask has one for each channel of the image; see `MissingChannels`.
        """
        extra = len(self.dataset.labels.foreground_labels) if self.plan.previous_stage else 0
        mask = len(self.dataset.channels) if self.has_channel_mask else 0
        return len(self.dataset.channels) + extra + mask

    @property
    def has_channel_mask(self) -> bool:
        """Whether the network is told which channels of an image are there."""
        return self.missing is not None and self.missing.mask

    @property
    def from_nnunet(self) -> bool:
        """Whether it was imported from nnU-Net. Its setting ``trainer`` is then the name of a class, not a mapping."""
        return isinstance(self.settings.get("trainer"), str)

    @property
    def trained_precision(self) -> str | None:
        """Lightning's name of the precision in which it was trained; None if it is not known."""
        trainer = self.settings.get("trainer")
        asked_for = trainer.get("precision") if isinstance(trainer, Mapping) else None
        known = self.machine.get("precision") or asked_for
        return None if known in (None, "auto") else str(known)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "format": 1,
            "dataset_name": self.dataset.name,
            "dataset": self.dataset.to_json(),
            "plans": self.plans.to_json(),
            "configuration": self.configuration,
            "fold": self.fold,
            "train_cases": list(self.train_cases),
            "val_cases": list(self.val_cases),
            "mirror_axes": list(self.mirror_axes),
            "settings": dict(self.settings),
            **({"arrays": dict(self.arrays)} if self.arrays else {}),
            **({"machine": dict(self.machine)} if self.machine else {}),
            **({"initial_weights": dict(self.initial_weights)} if self.initial_weights else {}),
            **({} if self.images is None else {TRAINING_IMAGES: self.images.to_json()}),
            **({"mean_of": [dict(member) for member in self.mean_of]} if self.mean_of else {}),
            **({} if self.missing is None else {MISSING_CHANNELS: self.missing.to_json()}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRecord:
        """Inverse of `to_json`.

        Raises:
            SegflowError: A value cannot be used, or values do not fit together; see `check`.
        """
        dataset = DatasetDescription.from_json(value["dataset_name"], value["dataset"])
        missing = value.get(MISSING_CHANNELS)
        record = cls(
            dataset=dataset,
            plans=Plans.from_json(value["plans"]),
            configuration=value["configuration"],
            fold=value["fold"],
            train_cases=tuple(value["train_cases"]),
            val_cases=tuple(value["val_cases"]),
            mirror_axes=tuple(int(axis) for axis in value["mirror_axes"]),
            settings=dict(value.get("settings", {})),
            arrays=dict(value.get("arrays", {})),
            machine=dict(value.get("machine", {})),
            initial_weights=dict(value.get("initial_weights", {})),
            images=TrainingImages.from_json(value[TRAINING_IMAGES]) if TRAINING_IMAGES in value else None,
            mean_of=tuple(dict(member) for member in value.get("mean_of", ())),
            missing=None if missing is None else MissingChannels.from_json(missing, len(dataset.channels)),
        )
        record.check()
        return record
