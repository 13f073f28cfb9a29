"""Every kind of configuration trains: 2D, regions, ignore label, cascade; and scores whole cases on request."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_toy import CASES, PATCH, TENSORBOARD, Toy, make_case, make_parts

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.run_record import RunRecord
from segflow.core.topology import NetworkTopology
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.train_fold import train_fold
from segflow.training.training_job import FoldArrays
from segflow.training.training_settings import TrainingSettings


def with_labels(record: RunRecord, labels: dict[str, Any], order: Sequence[int] | None = None) -> RunRecord:
    dataset = replace(record.dataset, labels=Labels.from_json(labels, order))
    raw = {**dataset.raw, "labels": labels}
    if order is not None:
        raw["regions_class_order"] = list(order)
    return replace(record, dataset=replace(dataset, raw=raw))


def with_plan(record: RunRecord, **changes: Any) -> RunRecord:
    plan = {**record.plans.configurations["3d_fullres"], **changes}
    return replace(record, plans=replace(record.plans, configurations={"3d_fullres": plan}))


def test_a_networks_logits_may_come_without_a_list(toy: Toy):
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv3d(1, 3, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image)

    result = toy.train(network=lambda *_: Bare(), settings={"picture_every": 1}, loggers=[TENSORBOARD])
    assert result.finished
    assert not math.isnan(result.metrics["val/loss"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (torch.nn.Conv3d(1, 2, 1), r"found \[2, 2, 16, 16, 16\]; expected \[2, 3, 16, 16, 16\]"),
        (torch.nn.Conv3d(1, 3, 2, 2), r"found \[2, 3, 8, 8, 8\]; expected \[2, 3, 16, 16, 16\]"),
    ],
)
def test_logits_of_another_shape_are_refused(toy: Toy, layer: torch.nn.Module, message: str):
    with pytest.raises(SegflowError, match=message):
        toy.train(network=lambda *_: layer)


def test_a_network_that_is_called_otherwise_is_refused(toy: Toy):
    with pytest.raises(SegflowError, match=r"cannot be built.*called with \(topology, in_channels"):
        toy.train(network=lambda in_channels, out_channels: torch.nn.Conv3d(1, 3, 1))


class PerSample(nn.Module):
    """A loss that forgets to take the mean."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return logits.flatten(1).mean(1)


class NoSampler:
    """Lacks all that a sampler has."""

    def __init__(self, *sizes: Any, labels: Labels) -> None:
        pass


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"loss": lambda weights: nn.L1Loss()}, r"the loss cannot be built.*called with \(labels, batch_dice\)"),
        ({"loss": lambda *_: PerSample()}, r"the loss PerSample does not give one number; found Tensor \[2\]"),
        ({"sampler": lambda size: None}, r"the sampler cannot be built.*called with \(patch_size_loader"),
        ({"sampler": NoSampler}, r"found \S+NoSampler without patch_size, is_2d, forced; expected .*PatchSampler"),
        ({"augmentation": lambda size: None}, r"the augmentation cannot be built.*called with \(patch_size, labels"),
        ({"augmentation": lambda *_, **__: abs}, r"the augmentation does not keep its contract.*without loader_patch"),
    ],
)
def test_a_part_that_does_not_keep_its_contract_is_named_with_it(toy: Toy, parts: dict[str, Any], said: str):
    with pytest.raises(SegflowError, match=rf"(?s){said}"):
        toy.train(**parts)


def test_2d(toy: Toy):
    topology = NetworkTopology(
        network="plain_unet",
        features=(4, 8),
        kernel_sizes=((3, 3),) * 2,
        strides=((1, 1), (2, 2)),
        encoder_blocks=(1, 1),
        decoder_convs=(1,),
    )
    record = with_plan(
        toy.record, patch_size=[16, 16], spacing=[1.0, 1.0], batch_size=4, architecture=topology.to_architecture()
    )
    assert isinstance(record.plan, ConfigurationPlan)
    result = toy.train(record=record, loggers=[TENSORBOARD], settings={"picture_every": 1})
    assert result.finished
    assert toy.run().read_record().mirror_axes == (0, 1)


def test_regions(toy: Toy):
    record = with_labels(toy.record, {"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    result = toy.train(record=record, loggers=[TENSORBOARD], settings={"picture_every": 1})
    assert {"val/dice/whole", "val/dice/core"} <= result.metrics.keys()
    assert toy.weights()["network.heads.0.bias"].shape == (2,)


def test_partly_annotated_cases(toy: Toy):
    store = PreprocessedStore(toy.folder / "sparse")
    for seed, case_id in enumerate(CASES):
        case = make_case(case_id, seed)
        label = case.label.copy()
        label[: label.shape[0] // 2] = 3
        locations = {key: np.argwhere(label == key).astype(np.int32) for key in (1, 2)}
        locations[(-1, 0, 1, 2)] = np.argwhere(label < 3).astype(np.int32)
        store.write(replace(case, label=label, foreground_locations=locations), PATCH)
    toy.store = store
    record = with_labels(toy.record, {"background": 0, "ball": 1, "core": 2, "ignore": 3})
    result = toy.train(record=record, loggers=[TENSORBOARD], settings={"picture_every": 1})
    assert math.isfinite(result.metrics["train/loss"])
    assert toy.weights()["network.heads.0.bias"].shape == (3,)


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_cascade_takes_the_previous_stages_labels_as_channels(toy: Toy, where: str):
    previous = PreprocessedStore(toy.folder / "previous")
    for seed, case_id in enumerate(CASES):
        previous.write(make_case(case_id, seed), PATCH)
    record = with_plan(toy.record, previous_stage="3d_lowres")
    assert record.in_channels == 3
    settings = TrainingSettings(num_workers=0, picture_every=0, augmentation_device=where)
    result = train_fold(toy.run(), record, FoldArrays(toy.store, previous), make_parts(), settings)
    assert result.finished
    first = toy.weights()["network.encoder.stages.0.blocks.0.conv.weight"]
    assert first.shape[1] == 3


def test_whole_cases_are_scored_beside_the_pseudo_dice(toy: Toy):
    asked: list[tuple[bool, tuple[str, ...]]] = []

    def score(network: nn.Module, case_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        asked.append((network.training, tuple(case_ids)))
        return {case_id: {"ball": 0.5, "core": math.nan} for case_id in case_ids}

    toy.train(
        trainer={"max_epochs": 3},
        settings={"volume_every": 2, "volume_count": 1},
        score_volumes=score,
        loggers=[TENSORBOARD],
    )
    assert asked == [(False, ("case_6",))] * 2
    with toy.run().metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_volume/dice/ball"] for row in rows] == ["", "0.5", "0.5"]
    assert rows[-1]["val_volume/dice_mean"] == "0.5"


def test_scoring_whole_cases_changes_no_weight(toy: Toy):
    toy.train("without")
    toy.train(
        "with",
        settings={"volume_every": 1},
        score_volumes=lambda network, case_ids: {case_id: {"ball": torch.rand(()).item()} for case_id in case_ids},
    )
    without, scored = toy.weights("without"), toy.weights("with")
    assert all(torch.equal(without[name], scored[name]) for name in without)


def test_asking_for_scores_without_a_scorer_is_refused(toy: Toy):
    with pytest.raises(SegflowError, match="score_volumes"):
        toy.train(settings={"volume_every": 1})


def test_labels_of_two_sides_are_not_mirrored_into_each_other(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    """Sagittal slices: plan axis 0 runs from left to right."""
    record = with_labels(toy.record, {"background": 0, "left kidney": 1, "right kidney": 2})
    toy.train("unknown", record=record, trainer={"max_epochs": 1})
    assert toy.run("unknown").read_record().mirror_axes == (0, 1, 2)
    assert "which axis runs from left to right is not known" in caplog.text
    sagittal = {"ndim": 3, "affine": [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]}
    for seed, case_id in enumerate(CASES):
        case = make_case(case_id, seed)
        geometry = replace(case.spatial.geometry, header=sagittal)
        toy.store.write(replace(case, spatial=replace(case.spatial, geometry=geometry)), PATCH)
    toy.train("known", record=record, trainer={"max_epochs": 1})
    assert toy.run("known").read_record().mirror_axes == (1, 2)
    toy.train("plain", trainer={"max_epochs": 1})
    assert toy.run("plain").read_record().mirror_axes == (0, 1, 2)
