"""A model and images for predictions that do not fit into memory: random weights, smooth noise, any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.geometry import Box, Geometry
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.topology import NetworkTopology
from segflow.network.build import build_network
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.open_volumes import label_sink, map_sink

STATISTICS = {"max": 800.0, "mean": 50.0, "median": 40.0, "min": -900.0}
STATISTICS |= {"percentile_00_5": -800.0, "percentile_99_5": 600.0, "std": 200.0}


class LargeModel(NamedTuple):
    """A network for large images.

    Attributes:
        patch: Voxels along z, y, x.
        spacing: mm along z, y, x.
        features: Of each level.
        strides: Of each level.
        outputs: Labels, with the background.
        convolutions: Of each level.
    """

    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    outputs: int
    convolutions: int = 2


TOTAL_3MM = LargeModel(
    (112, 112, 128),
    (3.0, 3.0, 3.0),
    (32, 64, 128, 256, 320, 320),
    ((1, 1, 1), *((2, 2, 2),) * 4, (1, 1, 2)),
    118,
)
"""As TotalSegmentator's models for 3 mm: the patch, the features and the number of labels."""

SMALL = TOTAL_3MM._replace(patch=(64, 64, 64), features=(4, 8, 16), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
"""The same labels and spacing with a network that is quick, since only memory is looked at."""

PLAIN = LargeModel((64, 64, 64), (1.0, 1.0, 1.0), (2, 4), ((1, 1, 1), (2, 2, 2)), 2, 1)
"""Two labels at 1 mm, with a network of a few features, since only memory is looked at."""


def make_run(folder: Path, model: LargeModel, ending: str = ".nii.gz", reader: str = "SimpleITKIO") -> Path:
    """A run as training leaves it, with random weights. Returns its folder."""
    import torch

    labels = {"background": 0} | {f"label{number}": number for number in range(1, model.outputs)}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 5, "file_ending": ending}
    dataset = DatasetDescription.from_json("Dataset990_Large", description)
    record = RunRecord(
        dataset=dataset,
        plans=_plans(model, reader),
        configuration="3d_fullres",
        fold=0,
        train_cases=("a", "b"),
        val_cases=(),
        mirror_axes=(0, 1, 2),
    )
    run = folder / "Dataset990_Large" / "nnUNetPlans" / "3d_fullres" / "default"
    fold = Fold(run / "fold_0")
    fold.write_record(record)
    fold.checkpoints.mkdir(exist_ok=True)
    torch.manual_seed(0)
    network = build_network(record.plan.topology, 1, model.outputs)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1, "hyper_parameters": {}}, fold.checkpoint("final"))
    fold.mark_finished()
    return run


def _plans(model: LargeModel, reader: str) -> Plans:
    levels = len(model.features)
    topology = NetworkTopology(
        network="plain_unet",
        features=model.features,
        kernel_sizes=((3, 3, 3),) * levels,
        strides=model.strides,
        encoder_blocks=(model.convolutions,) * levels,
        decoder_convs=(model.convolutions,) * (levels - 1),
    )
    plan: dict[str, Any] = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(model.patch),
        "median_image_size_in_voxels": [float(2 * n) for n in model.patch],
        "spacing": list(model.spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "architecture": topology.to_architecture(),
        "batch_dice": False,
    }
    for kind, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        plan[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        arguments = {"is_seg": kind == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        plan[f"resampling_fn_{kind}_kwargs"] = arguments
    return Plans.from_json(
        {
            "dataset_name": "Dataset990_Large",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": list(model.spacing),
            "original_median_shape_after_transp": [100, 100, 100],
            "image_reader_writer": reader,
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {"3d_fullres": plan},
            "foreground_intensity_properties_per_channel": {"0": STATISTICS},
        }
    )


def make_bytes(file: Path, shape: Sequence[int], reader: str = "SimpleITKIO") -> None:
    """An image of one byte a voxel and 1 mm: noise, equal in blocks of 8 × 8 voxels of a plane, written by planes."""
    z, y, x = (int(n) for n in shape)
    random = np.random.default_rng(0)
    with label_sink(file, (z, y, x), Geometry((1.0, 1.0, 1.0)), reader_by_name(reader), highest=255) as sink:
        for number in range(z):
            coarse = random.integers(0, 256, (-(-y // 8), -(-x // 8)), np.uint8)
            plane = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:y, :x]
            sink.write(Box((number, 0, 0), (number + 1, y, x)), plane[None])


def make_image(file: Path, shape: Sequence[int], spacing: Sequence[float], reader: str = "SimpleITKIO") -> None:
    """An image of smooth noise, from -1000 to 1000, written plane by plane."""
    z, y, x = (int(n) for n in shape)
    random = np.random.default_rng(0)
    coarse = random.uniform(-1000, 1000, (z // 16 + 2, y // 8 + 1, x // 8 + 1)).astype(np.float32)
    geometry = Geometry((float(spacing[0]), float(spacing[1]), float(spacing[2])))
    with map_sink(file, (z, y, x), geometry, reader_by_name(reader)) as sink:
        for number in range(z):
            low, share = divmod(number, 16)
            plane = coarse[low] + (coarse[low + 1] - coarse[low]) * (share / 16)
            plane = np.repeat(np.repeat(plane, 8, 0), 8, 1)[:y, :x]
            sink.write(Box((number, 0, 0), (number + 1, y, x)), np.round(plane)[None])
