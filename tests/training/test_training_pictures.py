"""The picture of validation patches shows image, reference and prediction where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_toy import make_record

from segflow.core.labels import Labels
from segflow.network.build import build_network
from segflow.training.compilation import compile_if_it_pays
from segflow.training.patch_pictures import GAP, draw_patches
from segflow.training.step_time import NetworkStep

LABELS = Labels.from_json({"background": 0, "ball": 1, "core": 2, "ignore": 3})


def panels_of(picture: np.ndarray, size: int) -> list[np.ndarray]:
    return [picture[:size, at : at + size] for at in (0, size + GAP, 2 * (size + GAP))]


def logits_of(label: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([label == k for k in range(classes)], axis=1).astype(np.float32)


def test_panels_differ_where_labels_are_and_nowhere_else():
    reference, predicted = np.zeros((1, 1, 8, 8), np.int16), np.zeros((1, 8, 8), np.int16)
    reference[0, 0, 2:4, 2:4] = 1
    predicted[0, 5:7, 5:7] = 2
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    picture = draw_patches(image, reference, logits_of(predicted, 3), LABELS)
    plain, left, right = panels_of(picture, 8)
    assert picture.shape == (8 + GAP, 3 * (8 + GAP), 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert np.array_equal((left != plain).any(-1), reference[0, 0] == 1)
    assert np.array_equal((right != plain).any(-1), predicted[0] == 2)


def test_ignored_voxels_are_not_painted():
    reference = np.full((1, 1, 8, 8), 3, np.int16)
    picture = draw_patches(np.zeros((1, 1, 8, 8), np.float32), reference, logits_of(reference[:, 0] * 0, 3), LABELS)
    plain, left, _ = panels_of(picture, 8)
    assert np.array_equal(plain, left)


def test_regions_paint_their_labels_the_inner_one_on_top():
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    reference = np.zeros((1, 1, 8, 8), np.int16)
    reference[0, 0, 1:7, 1:7] = 1
    reference[0, 0, 3:5, 3:5] = 2
    logits = np.stack([reference[:, 0] > 0, reference[:, 0] == 2], axis=1) * 2.0 - 1.0
    _, left, right = panels_of(draw_patches(np.zeros((1, 1, 8, 8), np.float32), reference, logits, labels), 8)
    assert np.array_equal(left, right)
    assert len({tuple(colour) for colour in left.reshape(-1, 3)}) == 3


def test_of_a_volume_the_slice_with_most_foreground_is_shown():
    reference = np.zeros((1, 1, 4, 8, 8), np.int16)
    reference[0, 0, 1, :2] = 1
    reference[0, 0, 2, :4] = 1
    image = np.zeros((1, 1, 4, 8, 8), np.float32)
    plain, left, _ = panels_of(draw_patches(image, reference, logits_of(reference[:, 0], 3), LABELS), 8)
    assert (left != plain).any(-1).sum() == 32


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_on_a_cpu_the_network_stays_as_it_is(choice: str):
    network = build_network(make_record().plan.topology, 1, 3)
    assert not compile_if_it_pays(network, choice, NetworkStep((1, 1, 16, 16, 16), torch.device("cpu"), None))


def test_compiling_renames_no_parameter():
    network = build_network(make_record().plan.topology, 1, 3)
    names = list(network.state_dict())
    assert compile_if_it_pays(network, "on", NetworkStep((1, 1, 16, 16, 16), torch.device("cpu"), None))
    assert list(network.state_dict()) == names
