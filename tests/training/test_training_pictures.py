"""The picture of validation patches shows image, reference and prediction where they belong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_toy import CASES, PATCH, make_record

from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.network.build import build_network
from segflow.reporting.overlays import PALETTE, draw_overlay
from segflow.sampling.batch import PatchBatch
from segflow.sampling.patch_dataset import PatchDataset
from segflow.sampling.patch_sampler import PatchSampler
from segflow.training.compilation import compile_if_it_pays
from segflow.training.patch_pictures import GAP, LINE, draw_slices, flips_for_display, slices_of
from segflow.training.step_time import NetworkStep

LABELS = Labels.from_json({"background": 0, "ball": 1, "core": 2, "ignore": 3})
SIDE = 256
"""Pixels of a panel of a small square slice."""


def drawn(image: np.ndarray, reference: np.ndarray, logits: np.ndarray, labels: Labels = LABELS) -> np.ndarray:
    patches = PatchBatch(torch.from_numpy(image), torch.from_numpy(reference), [f"case_{n}" for n in range(len(image))])
    return draw_slices(slices_of(patches, labels), logits, labels, (1.0, 1.0))


def panels_of(picture: np.ndarray, row: int = 0) -> list[np.ndarray]:
    top = 2 * LINE + row * (LINE + SIDE)
    return [picture[top : top + SIDE, left : left + SIDE] for left in (0, SIDE + GAP, 2 * (SIDE + GAP))]


def logits_of(label: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([label == k for k in range(classes)], axis=1).astype(np.float32)


def enlarged(mask: np.ndarray) -> np.ndarray:
    return mask.repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1)


def test_panels_differ_where_labels_are_and_have_the_colours_of_the_report():
    reference, predicted = np.zeros((1, 1, 8, 8), np.int16), np.zeros((1, 8, 8), np.int16)
    reference[0, 0, 2:4, 2:4] = 1
    predicted[0, 5:7, 5:7] = 2
    image = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    plain, left, right = panels_of(drawn(image, reference, logits_of(predicted, 3)))
    assert np.array_equal((left != plain).any(-1), enlarged(reference[0, 0] == 1))
    assert np.array_equal((right != plain).any(-1), enlarged(predicted[0] == 2))
    assert np.array_equal(right, draw_overlay(image[0, 0], predicted[0], (1, 1)))


def test_columns_cases_and_labels_of_the_reference_are_named():
    reference = np.zeros((2, 1, 8, 8), np.int16)
    reference[:, 0, 2:4, 2:4] = 2
    picture = drawn(np.zeros((2, 1, 8, 8), np.float32), reference, logits_of(reference[:, 0], 3))
    assert picture.shape == (2 * LINE + 2 * (LINE + SIDE), 3 * (SIDE + GAP) - GAP, 3)
    assert (picture[:LINE] < 100).any(axis=(0, 2)).nonzero()[0].max() > 2 * SIDE  # the name of the third column
    for row in range(2):
        words = picture[LINE + row * (LINE + SIDE) :][:LINE]
        assert (words < 100).any()
    legend = picture[-LINE:]
    assert (legend == PALETTE[1]).all(-1).any()
    assert not (legend == PALETTE[0]).all(-1).any()


def test_ignored_voxels_are_not_painted():
    reference = np.full((1, 1, 8, 8), 3, np.int16)
    plain, left, _ = panels_of(drawn(np.zeros((1, 1, 8, 8), np.float32), reference, logits_of(reference[:, 0] * 0, 3)))
    assert np.array_equal(plain, left)


def test_regions_paint_their_labels_the_inner_one_on_top():
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    reference = np.zeros((1, 1, 8, 8), np.int16)
    reference[0, 0, 1:7, 1:7] = 1
    reference[0, 0, 3:5, 3:5] = 2
    logits = np.stack([reference[:, 0] > 0, reference[:, 0] == 2], axis=1) * 2.0 - 1.0
    _, left, right = panels_of(drawn(np.zeros((1, 1, 8, 8), np.float32), reference, logits, labels))
    assert np.array_equal(left, right)
    assert len({tuple(colour) for colour in left.reshape(-1, 3)}) == 3


def test_of_a_volume_the_slice_with_most_foreground_is_shown():
    reference = np.zeros((1, 1, 4, 8, 8), np.int16)
    reference[0, 0, 1, :2] = 1
    reference[0, 0, 2, :4] = 1
    patches = PatchBatch(torch.zeros(1, 1, 4, 8, 8), torch.from_numpy(reference), ["case"])
    slices = slices_of(patches, LABELS)
    assert slices.at == [2]
    assert np.array_equal(slices.reference, reference[:, 0, 2])


def _record(affine: np.ndarray | None, axis_order: tuple[int, ...] = (0, 1, 2)) -> SpatialRecord:
    geometry = Geometry((1.0, 1.0, 1.0), {} if affine is None else {"affine": affine.tolist()})
    box = Box((0, 0, 0), (4, 4, 4))
    return SpatialRecord(geometry, (4, 4, 4), axis_order, box, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (4, 4, 4))


def test_slices_show_the_patient_as_radiologists_see_one():
    signs = {"R": 1, "L": -1, "A": 1, "P": -1, "S": 1, "I": -1}

    def flips(towards: str, axis_order: tuple[int, ...] = (0, 1, 2)) -> tuple[int, ...]:
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, letter in enumerate(towards):
            affine["RASLPI".index(letter) % 3, axis] = signs[letter]
        return flips_for_display(_record(affine, axis_order))

    assert flips("LPS") == ()
    assert flips("RAS") == (0, 1)
    assert flips("LAS") == (0,)
    assert flips("RPS") == (1,)
    assert flips("PIR") == ()  # sagittal, with the front at the left and the head at the top
    assert flips("ASR") == (0, 1)
    assert flips("LPS", (2, 0, 1)) == (0,)  # slices along x: their rows run upwards
    assert flips_for_display(_record(None)) == ()


def test_a_slice_is_flipped_with_its_labels():
    reference, image = np.zeros((1, 1, 8, 8), np.int16), np.zeros((1, 1, 8, 8), np.float32)
    reference[0, 0, 1:3, 1:4] = 1
    image[0, 0, 2:4, :3] = 1
    patches = PatchBatch(torch.from_numpy(image), torch.from_numpy(reference), ["case"])
    logits = logits_of(reference[:, 0], 3)
    flipped = draw_slices(slices_of(patches, LABELS, [(0, 1)]), logits, LABELS, (1.0, 1.0))
    for one, other in zip(panels_of(drawn(image, reference, logits)), panels_of(flipped), strict=True):
        assert np.array_equal(one[::-1, ::-1], other)
        assert not np.array_equal(one, other)


def test_a_narrow_patch_leaves_room_for_the_names_of_columns():
    reference = np.zeros((1, 1, 64, 4), np.int16)
    picture = drawn(np.zeros((1, 1, 64, 4), np.float32), reference, logits_of(reference[:, 0], 3))
    assert picture.shape[1] > 3 * 150


def test_fixed_patches_show_foreground_and_depend_on_the_case_only(toy):
    def patches(seed: int, rank: int) -> PatchBatch:
        dataset = PatchDataset(
            toy.store,
            CASES[4:],
            batch_size=2,
            sampler=PatchSampler(PATCH, PATCH),
            seed=seed,
            batches_per_epoch=1,
            rank=rank,
            world_size=2,
        )
        return dataset.fixed(dataset.case_ids[:3])

    first, second = patches(0, 0), patches(5, 1)
    assert first.case_ids == second.case_ids == list(CASES[4:7])
    assert torch.equal(first.image, second.image)
    assert (first.label > 0).flatten(1).any(1).all()


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_on_a_cpu_the_network_stays_as_it_is(choice: str):
    network = build_network(make_record().plan.topology, 1, 3)
    assert not compile_if_it_pays(network, choice, NetworkStep((1, 1, 16, 16, 16), torch.device("cpu"), None))


def test_compiling_renames_no_parameter():
    network = build_network(make_record().plan.topology, 1, 3)
    names = list(network.state_dict())
    assert compile_if_it_pays(network, "on", NetworkStep((1, 1, 16, 16, 16), torch.device("cpu"), None))
    assert list(network.state_dict()) == names
