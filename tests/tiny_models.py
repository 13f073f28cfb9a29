"""Runs and nnU-Net v2 models of a few kilobytes with random weights, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segflow.core.dataset import DatasetDescription
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.topology import NetworkTopology
from segflow.models.nnunet_names import to_nnunet
from segflow.network.build import build_network
from segflow.storage.folds import Fold

DATASET = "Dataset900_Tiny"
LABELS = {"background": 0, "organ": 1, "lesion": 2}
REGIONS = {"background": 0, "whole": [1, 2], "lesion": 2, "ignore": 3}
RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
STATISTICS = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")


def dataset_json(*, regions: bool = False, channels: int = 1, ending: str = ".nii.gz") -> dict[str, Any]:
    content: dict[str, Any] = {
        "channel_names": {str(k): f"MR{k}" for k in range(channels)},
        "labels": REGIONS if regions else LABELS,
        "numTraining": 4,
        "file_ending": ending,
    }
    return content | ({"regions_class_order": [1, 2]} if regions else {})


def topology(dims: int = 3, network: str = "plain_unet") -> NetworkTopology:
    return NetworkTopology(
        network=network,
        features=(4, 8),
        kernel_sizes=((3,) * dims, (3,) * dims),
        strides=((1,) * dims, (2,) * dims),
        encoder_blocks=(1, 1),
        decoder_convs=(1,),
        options={"expansion": (2, 2), "recompute": 0} if network == "mednext" else {},
    )


def configuration(
    name: str, dims: int, spacing: float, patch: int, channels: int, network: str, order: int = 1
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [patch] * dims,
        "median_image_size_in_voxels": [20.0] * dims,
        "spacing": [spacing] * dims,
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": topology(dims, network).to_architecture(),
        "batch_dice": False,
    }
    for kind in ("data", "seg", "probabilities"):
        result[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        result[f"resampling_fn_{kind}_kwargs"] = RESAMPLING | {"is_seg": kind == "seg"}
    result["resampling_fn_data_kwargs"]["order"] = order
    return result


def plans(
    *,
    channels: int = 1,
    reader: str = "SimpleITKIO",
    network: str = "plain_unet",
    axis_order: Sequence[int] = (0, 1, 2),
    spacing: float = 1.0,
    order: int = 1,
) -> Plans:
    fullres = configuration("3d_fullres", 3, spacing, 16, channels, network, order)
    lowres = configuration("3d_lowres", 3, 2 * spacing, 8, channels, network)
    return Plans.from_json(
        {
            "dataset_name": DATASET,
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
            "original_median_shape_after_transp": [20, 20, 20],
            "image_reader_writer": reader,
            "transpose_forward": list(axis_order),
            "transpose_backward": [list(axis_order).index(k) for k in range(3)],
            "configurations": {
                "2d": configuration("2d", 2, spacing, 16, channels, network, order),
                "3d_fullres": fullres,
                "3d_lowres": lowres | {"next_stage": "3d_cascade_fullres"},
                "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
            },
            "foreground_intensity_properties_per_channel": {
                str(k): dict.fromkeys(STATISTICS, 1.0) for k in range(channels)
            },
        }
    )


def record(
    name: str = "3d_fullres",
    fold: int | str = 0,
    *,
    regions: bool = False,
    channels: int = 1,
    ending: str = ".nii.gz",
    labels: dict[str, Any] | None = None,
    val_cases: Sequence[str] = (),
    **options: Any,
) -> RunRecord:
    description = dataset_json(regions=regions, channels=channels, ending=ending)
    description |= {"labels": labels} if labels else {}
    return RunRecord(
        dataset=DatasetDescription.from_json(DATASET, description),
        plans=plans(channels=channels, **options),
        configuration=name,
        fold=fold,
        train_cases=tuple(case for case in ("a", "b", "y", "z") if case not in val_cases)[:2],
        val_cases=tuple(val_cases),
        mirror_axes=(0, 1) if name == "2d" else (0, 1, 2),
    )


def weights(one: RunRecord) -> dict[str, torch.Tensor]:
    seed = 0 if one.fold == "all" else int(one.fold) + 1
    torch.manual_seed(seed)
    network = build_network(one.plan.topology, one.in_channels, one.dataset.labels.num_outputs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.state_dict()


def make_run(
    outputs: Path,
    name: str = "3d_fullres",
    folds: Sequence[int | str] = (0,),
    run_name: str = "default",
    **options: Any,
) -> Path:
    """A run as training leaves it: Lightning's checkpoint and ``run.json`` in every fold."""
    run = outputs / DATASET / "nnUNetPlans" / name / run_name
    for fold in folds:
        one = record(name, fold, **options)
        folder = Fold(run / f"fold_{fold}")
        folder.write_record(one)
        folder.checkpoints.mkdir()
        state = {f"network.{key}": value for key, value in weights(one).items()}
        torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {}}, folder.checkpoint("final"))
        folder.mark_finished()
    return run


def nnunet_checkpoint(one: RunRecord) -> dict[str, Any]:
    """What nnU-Net's trainer saves: the logged numbers are numpy scalars."""
    return {
        "network_weights": to_nnunet(weights(one), one.plan.topology),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "plans": one.plans.to_json(),
            "configuration": one.configuration,
            "fold": one.fold,
            "dataset_json": one.dataset.to_json(),
            "device": torch.device("cuda"),
        },
        "trainer_name": "nnUNetTrainer_4000epochs",
        "inference_allowed_mirroring_axes": one.mirror_axes,
    }


def make_nnunet_model(
    results: Path, name: str = "3d_fullres", folds: Sequence[int | str] = (0,), **options: Any
) -> Path:
    """A model folder as nnU-Net leaves it."""
    model = results / DATASET / f"nnUNetTrainer_4000epochs__nnUNetPlans__{name}"
    for fold in folds:
        one = record(name, fold, **options)
        (model / f"fold_{fold}").mkdir(parents=True)
        torch.save(nnunet_checkpoint(one), model / f"fold_{fold}" / "checkpoint_final.pth")
        (model / "plans.json").write_text(json.dumps(one.plans.to_json()))
        (model / "dataset.json").write_text(json.dumps(one.dataset.to_json()))
    return model
