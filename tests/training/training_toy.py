"""A tiny preprocessed dataset, and everything a training of it needs."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from segflow.augmentation.batch_augmentation import Augmentation
from segflow.augmentation.intensity import Gamma, Noise
from segflow.augmentation.validation_transform import ValidationTransform
from segflow.core.dataset import DatasetDescription
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.core.run_record import RunRecord
from segflow.core.topology import NetworkTopology
from segflow.loss.compound import DiceCrossEntropy
from segflow.network.build import build_network
from segflow.sampling.patch_sampler import PatchSampler
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.protocols import TrainingParts, TrainResult
from segflow.training.schedule import PolynomialDecay
from segflow.training.train_fold import train_fold
from segflow.training.training_job import FoldArrays
from segflow.training.training_settings import TrainingSettings

PATCH = (16, 16, 16)
CASES = tuple(f"case_{number}" for number in range(8))


def make_case(case_id: str, seed: int, channels: int = 1) -> PreprocessedCase:
    """A bright ball (label 1) with a brighter core (label 2) in noise."""
    generator = np.random.default_rng(seed)
    shape = tuple(int(n) for n in generator.integers(16, 24, size=3))
    centre = [n / 2 + generator.uniform(-2, 2) for n in shape]
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    label = np.where(distance < 3, 2, np.where(distance < 6, 1, 0)).astype(np.int16)
    image = label[None] * 1.5 + generator.normal(0, 0.5, (channels, *shape))
    spacing = (1.0, 1.0, 1.0)
    return PreprocessedCase(
        case_id=case_id,
        image=image.astype(np.float32),
        label=label,
        spatial=SpatialRecord(Geometry(spacing), shape, (0, 1, 2), Box.whole(shape), spacing, spacing, shape),
        foreground_locations={key: np.argwhere(label == key).astype(np.int32) for key in (1, 2)},
    )


def make_store(folder: Path, channels: int = 1) -> PreprocessedStore:
    store = PreprocessedStore(folder)
    present = store.case_ids()
    for seed, case_id in enumerate(CASES):
        if case_id not in present:
            store.write(make_case(case_id, seed, channels), PATCH)
    return store


def make_record(
    *, channels: int = 1, batch_size: int = 2, features: tuple[int, ...] = (4, 8), batch_dice: bool = False
) -> RunRecord:
    levels = len(features)
    topology = NetworkTopology(
        network="plain_unet",
        features=features,
        kernel_sizes=((3, 3, 3),) * levels,
        strides=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
        encoder_blocks=(1,) * levels,
        decoder_convs=(1,) * (levels - 1),
    )
    resampling: dict[str, Any] = {}
    for kind in ("data", "seg", "probabilities"):
        resampling |= {f"resampling_fn_{kind}": "resample_data_or_seg_to_shape", f"resampling_fn_{kind}_kwargs": {}}
    plan = {
        "data_identifier": "toy_3d_fullres",
        "batch_size": batch_size,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": [20.0, 20.0, 20.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": topology.to_architecture(),
        "batch_dice": batch_dice,
        **resampling,
    }
    dataset = {
        "channel_names": {str(c): "MR" for c in range(channels)},
        "labels": {"background": 0, "ball": 1, "core": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    return RunRecord(
        dataset=DatasetDescription.from_json("Dataset999_Toy", dataset),
        plans=Plans(
            dataset_name="Dataset999_Toy",
            plans_name="nnUNetPlans",
            median_spacing=(1.0, 1.0, 1.0),
            median_shape=(20, 20, 20),
            reader="SimpleITKIO",
            axis_order=(0, 1, 2),
            intensities=(ChannelIntensities(1.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.2),) * channels,
            configurations={"3d_fullres": plan},
        ),
        configuration="3d_fullres",
        fold=0,
        train_cases=CASES[:6],
        val_cases=CASES[6:],
        mirror_axes=(),
        settings={"optimizer": {"lr": 0.01}, "trainer": {"max_epochs": 2}},
    )


def make_parts(trainer: dict[str, Any] | None = None, **changes: Any) -> TrainingParts:
    options: dict[str, Any] = {
        "max_epochs": 2,
        "limit_train_batches": 3,
        "limit_val_batches": 2,
        "accelerator": "cpu",
        "devices": 1,
        "precision": "auto",
        "gradient_clip_val": 12.0,
        "enable_progress_bar": False,
    }
    parts = TrainingParts(
        network=build_network,
        loss=DiceCrossEntropy,
        optimizer=functools.partial(torch.optim.SGD, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
        schedule=functools.partial(PolynomialDecay, exponent=0.9),
        sampler=PatchSampler,
        augmentation=Augmentation(steps={"noise": Noise(probability=0.1), "gamma": Gamma(probability=0.3)}),
        trainer=functools.partial(pl.Trainer, **(options | (trainer or {}))),
    )
    return replace(parts, **changes)


TENSORBOARD = functools.partial(TensorBoardLogger, name="", version="", default_hp_metric=False)


class Toy:
    """A toy dataset's training in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = make_store(folder / "preprocessed")
        self.record = make_record()

    def run(self, name: str = "fold_0") -> Fold:
        return Fold(self.folder / name)

    def train(
        self,
        name: str = "fold_0",
        *,
        trainer: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        record: RunRecord | None = None,
        **parts: Any,
    ) -> TrainResult:
        knobs = TrainingSettings(**({"num_workers": 0, "picture_every": 0} | (settings or {})))
        return train_fold(
            self.run(name), record or self.record, FoldArrays(self.store), make_parts(trainer, **parts), knobs
        )

    def weights(self, name: str = "fold_0", checkpoint: str = "final") -> dict[str, torch.Tensor]:
        return torch.load(self.run(name).checkpoint(checkpoint), weights_only=True)["state_dict"]


class Slow(pl.Callback):
    """Leaves time to interrupt a training."""

    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(0.5)


class _Plain(ValidationTransform):
    mirror_axes = ()


def plain_augmentation(patch_size: Sequence[int], *, labels: Labels, previous_stage: bool, **_: Any) -> _Plain:
    """No augmentation."""
    return _Plain(patch_size, labels=labels, previous_stage=previous_stage)


class PowerCut(pl.Callback):
    """Ends a training in the middle of an epoch, as a crash does."""

    def __init__(self, epoch: int, batch: int = 1) -> None:
        self.at = (epoch, batch)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("power cut")
