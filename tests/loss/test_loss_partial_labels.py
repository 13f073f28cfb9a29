"""Samples that lack labels: the loss follows the marginal formula, and absent labels get neither loss nor gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segflow.core.labels import Labels
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.loss.hard_counts import hard_counts
from segflow.loss.partial_labels import marginal_logits

THREE = Labels.from_json({"background": 0, "a": 1, "b": 2, "c": 3})
IGNORED = Labels.from_json({"background": 0, "a": 1, "b": 2, "c": 3, "ignore": 4})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
PRESENT = torch.tensor([[True, True, True], [True, False, False]])


def _sample(labels: Labels, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and a label map without voxels of absent labels."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, labels.num_outputs, 4, 5, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(0, max(labels.classes) + 1, (2, 1, 4, 5, 3), generator=generator).to(torch.int16)
    for sample, told in enumerate(present.tolist()):
        for key, is_told in zip(labels.foreground_keys, told, strict=True):
            if not is_told:
                target[sample][torch.isin(target[sample], torch.tensor(key))] = 0
    return logits.requires_grad_(), target


def _expected(logits: np.ndarray, target: np.ndarray, labels: Labels, present: np.ndarray, batch_dice: bool) -> float:
    """Dice and cross entropy in which probabilities of absent labels are added to the background's."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for sample, told in enumerate(present):
        for output in np.flatnonzero(~told) + 1:
            p[sample, 0] += p[sample, output]
            p[sample, output] = 0
    valid = target[:, 0] != labels.ignore_label if labels.ignore_label is not None else np.ones_like(target[:, 0], bool)
    hot = np.stack([(target[:, 0] == value) & valid for value in labels.all_labels], 1)
    cross_entropy = -np.log(p[hot]).sum() / valid.sum()
    p = p * valid[:, None]
    axes = (0, 2, 3, 4) if batch_dice else (2, 3, 4)
    sums = (2 * (p * hot).sum(axes) + 1e-5) / (p.sum(axes) + hot.sum(axes) + 1e-5)
    return float(cross_entropy - sums[..., 1:].mean())


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("labels", [THREE, IGNORED], ids=["labels", "ignore"])
def test_loss_is_that_of_the_marginal_formula(labels: Labels, batch_dice: bool) -> None:
    logits, target = _sample(labels, PRESENT)
    marginal = marginal_logits([logits], PRESENT, regions=False)
    loss = DiceCrossEntropy(labels, batch_dice)(marginal[0], target)
    expected = _expected(logits.detach().numpy(), target.numpy(), labels, PRESENT.numpy(), batch_dice)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_an_absent_label_is_taken_for_background_with_the_same_gradient(batch_dice: bool) -> None:
    logits, target = _sample(THREE, PRESENT)
    DiceCrossEntropy(THREE, batch_dice)(marginal_logits([logits], PRESENT, regions=False)[0], target).backward()
    grad, p = logits.grad[1], logits[1].detach().softmax(0)
    for output in (2, 3):  # the gradient is that of the sum of the probabilities, shared by their sizes
        assert torch.allclose(grad[output] * p[0], grad[0] * p[output], atol=1e-9)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_an_absent_region_gets_neither_loss_nor_gradient(batch_dice: bool) -> None:
    present = torch.tensor([[True, True], [True, False]])
    logits, target = _sample(REGIONS, present)
    loss = DiceCrossEntropy(REGIONS, batch_dice)
    value = loss(marginal_logits([logits], present, regions=True)[0], target)
    value.backward()
    assert not logits.grad[1, 1].any()
    assert logits.grad[1, 0].any()
    other = logits.detach().clone()
    other[1, 1] += 3
    assert loss(marginal_logits([other], present, regions=True)[0], target) == value


def test_samples_with_all_labels_keep_their_logits() -> None:
    logits, _ = _sample(THREE, PRESENT)
    assert torch.equal(marginal_logits([logits], PRESENT, regions=False)[0][0], logits[0])


def test_every_resolution_is_changed_and_half_precision_stays_finite() -> None:
    logits, target = _sample(THREE, PRESENT)
    levels = [logits.detach().half(), logits.detach()[:, :, ::2].half(), logits.detach()[:, :, ::4].half()]
    marginal = marginal_logits(levels, PRESENT, regions=False)
    assert all((one[1, 2:].softmax(0) >= 0).all() and one.dtype == torch.float32 for one in marginal)
    strides = [[1, 1, 1], [2, 1, 1], [2, 1, 1], [1, 1, 1]]
    assert torch.isfinite(DeepSupervisionLoss(DiceCrossEntropy(THREE, True), strides)(marginal, target))


@pytest.mark.parametrize("labels", [THREE, REGIONS], ids=["labels", "regions"])
def test_counts_leave_out_what_is_not_told(labels: Labels) -> None:
    present = PRESENT[:, : len(labels.foreground_keys)]
    logits, target = _sample(labels, present)
    both = torch.stack(hard_counts(logits, target, labels, present=present))
    each = [torch.stack(hard_counts(logits[n : n + 1], target[n : n + 1], labels)) for n in (0, 1)]
    assert torch.equal(both[:, 0], each[0][:, 0] + each[1][:, 0])
    assert torch.equal(both[:, 1:], each[0][:, 1:])
