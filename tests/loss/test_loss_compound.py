"""The losses: the recipe's numbers, gradients, regions, ignored voxels and unusual label values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.compound import DiceCrossEntropy

BINARY = Labels.from_json({"background": 0, "a": 1})
BINARY_IGNORE = Labels.from_json({"background": 0, "a": 1, "ignore": 2})
THREE = Labels.from_json({"background": 0, "a": 1, "b": 2})
GAPS = Labels.from_json({"background": 0, "a": 3, "b": 7})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
REGIONS_IGNORE = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])

B7_LOGITS = torch.tensor([[[2.0, 0.0, -1.0, 1.0], [0.0, 1.0, 3.0, 1.0]]])[..., None]
B7_TARGET = torch.tensor([[[0, 1, 1, 0]]], dtype=torch.int16)[..., None]


def _example(labels: Labels, dtype: torch.dtype = torch.float64, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, labels.num_outputs, 4, 5, 3, generator=generator, dtype=dtype)
    values = torch.tensor([*labels.all_labels, *([] if labels.ignore_label is None else [labels.ignore_label])])
    target = values[torch.randint(0, len(values), (batch, 1, 4, 5, 3), generator=generator)]
    return logits, target.to(torch.int16)


def _reference(logits: torch.Tensor, target: torch.Tensor, labels: Labels, batch_dice: bool) -> torch.Tensor:
    """Recipe 9.1 spelt out with one-hot tensors."""
    valid = torch.ones_like(target, dtype=logits.dtype)
    if labels.ignore_label is not None:
        valid = (target != labels.ignore_label).to(logits.dtype)
    if labels.has_regions:
        hot = torch.cat([torch.isin(target, torch.tensor(region)) for region in labels.regions], 1).to(logits.dtype)
        p = logits.sigmoid()
        bce = functional.binary_cross_entropy_with_logits(logits, hot, reduction="none")
        ce = bce.mean() if labels.ignore_label is None else (bce * valid).sum() / valid.sum()
    else:
        hot = torch.cat([target == value for value in labels.all_labels], 1).to(logits.dtype)
        p = logits.softmax(1)
        ce = -(logits.log_softmax(1) * hot).sum() / valid.sum()
        hot, p = hot[:, 1:], p[:, 1:]
    axes = ((0,) if batch_dice else ()) + tuple(range(2, logits.ndim))
    i, s, g = (p * hot * valid).sum(axes), (p * valid).sum(axes), (hot * valid).sum(axes)
    return ce - ((2 * i + 1e-5) / (g + s + 1e-5)).mean()


@pytest.mark.parametrize("batch_dice", [True, False])
def test_conformance_b7(batch_dice: bool) -> None:
    loss = DiceCrossEntropy(BINARY, batch_dice)(B7_LOGITS, B7_TARGET)
    assert loss.item() == pytest.approx(-0.5029707, abs=2e-7)
    assert DiceCrossEntropy(BINARY, batch_dice, dice_weight=0)(B7_LOGITS, B7_TARGET).item() == pytest.approx(
        0.2878717, abs=1e-7
    )
    assert DiceCrossEntropy(BINARY, batch_dice, cross_entropy_weight=0)(B7_LOGITS, B7_TARGET).item() == pytest.approx(
        -0.7908424, abs=2e-7
    )


def test_conformance_b7_with_an_ignored_voxel() -> None:
    target = B7_TARGET.clone()
    target[0, 0, 3] = 2
    assert DiceCrossEntropy(BINARY_IGNORE, False)(B7_LOGITS, target).item() == pytest.approx(-0.7412440, abs=2e-7)
    assert DiceCrossEntropy(BINARY_IGNORE, False, dice_weight=0)(B7_LOGITS, target).item() == pytest.approx(
        0.1527799, abs=1e-7
    )


def test_an_empty_sample_counts_as_a_full_match_alone_and_not_at_all_in_a_batch() -> None:
    """The example of recipe 9.1: sample A with I = 10, P = G = 20, sample B empty."""
    logits = torch.full((2, 2, 40, 1), -50.0)
    logits[:, 0] = 50.0
    logits[0, :, :20] = torch.tensor([-50.0, 50.0])[:, None, None]
    target = torch.zeros(2, 1, 40, 1, dtype=torch.int16)
    target[0, 0, 10:30] = 1
    for batch_dice, expected in ((False, 0.75), (True, 0.5)):
        loss = DiceCrossEntropy(BINARY, batch_dice, cross_entropy_weight=0)(logits, target)
        assert loss.item() == pytest.approx(-expected, abs=1e-6)


@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("labels", [THREE, GAPS, BINARY_IGNORE, REGIONS, REGIONS_IGNORE])
def test_values_and_gradients_equal_the_recipe_spelt_out(labels: Labels, batch_dice: bool) -> None:
    logits, target = _example(labels)
    results = []
    for function in (DiceCrossEntropy(labels, batch_dice), lambda x, y: _reference(x, y, labels, batch_dice)):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, target)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    # Regions are computed in float32 whatever comes in.
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-7, check_dtype=False)


@pytest.mark.parametrize("labels", [THREE, BINARY_IGNORE])
def test_the_fused_gradient_is_the_derivative(labels: Labels) -> None:
    logits, target = _example(labels)
    loss = DiceCrossEntropy(labels, False)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@pytest.mark.parametrize("labels", [BINARY_IGNORE, REGIONS_IGNORE])
def test_ignored_voxels_have_no_gradient_and_no_influence(labels: Labels) -> None:
    logits, target = _example(labels, torch.float32)
    ignored = (target == labels.ignore_label).expand_as(logits)
    loss = DiceCrossEntropy(labels, True)
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    grad = torch.autograd.grad(value, leaf)[0]
    assert ignored.any()
    assert grad[ignored].abs().max() == 0
    assert grad[~ignored].abs().min() > 0
    assert loss(torch.where(ignored, 7.0, logits), target).item() == pytest.approx(value.item(), abs=1e-6)


@pytest.mark.parametrize("labels", [BINARY_IGNORE, REGIONS_IGNORE])
def test_a_batch_without_any_supervised_voxel_gives_a_finite_loss_and_no_gradient(labels: Labels) -> None:
    logits, target = _example(labels, torch.float32)
    leaf = logits.requires_grad_()
    loss = DiceCrossEntropy(labels, True)(leaf, torch.full_like(target, labels.ignore_label))
    assert loss.item() == pytest.approx(-1.0)
    assert torch.autograd.grad(loss, leaf)[0].abs().max() == 0


def test_binary_cross_entropy_of_regions_is_not_averaged_over_them_with_an_ignore_label() -> None:
    """Recipe 9.1: nnU-Net's own inconsistency, kept since it sets the balance against Dice."""
    logits, target = _example(REGIONS)
    plain = DiceCrossEntropy(REGIONS, True, dice_weight=0)(logits, target)
    with_ignore = DiceCrossEntropy(REGIONS_IGNORE, True, dice_weight=0)(logits, target)
    assert with_ignore.item() == pytest.approx(2 * plain.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_the_type_of_the_label_map_does_not_matter(dtype: torch.dtype) -> None:
    logits, target = _example(GAPS)
    loss = DiceCrossEntropy(GAPS, True)
    assert loss(logits, target.to(dtype)).item() == loss(logits, target).item()


def test_outside_the_mask_is_background() -> None:
    logits, target = _example(THREE)
    loss = DiceCrossEntropy(THREE, True)
    assert loss(logits, torch.where(target == 0, -1, target)).item() == loss(logits, target).item()


def test_an_undeclared_label_value_fails_instead_of_training_on_something_else() -> None:
    logits, target = _example(GAPS)
    target[0, 0, 0, 0, 0] = 4
    with pytest.raises((RuntimeError, IndexError)):
        DiceCrossEntropy(GAPS, True)(logits, target)


def test_top_k_takes_the_hardest_tenth() -> None:
    logits, target = _example(THREE)
    losses = functional.cross_entropy(logits, target[:, 0].long(), reduction="none").flatten()
    expected = losses.sort(descending=True).values[: losses.numel() // 10].mean()
    loss = DiceCrossEntropy(THREE, True, dice_weight=0, top_k_percent=10)(logits, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    dice = DiceCrossEntropy(THREE, True, cross_entropy_weight=0)(logits, target)
    both = DiceCrossEntropy(THREE, True, top_k_percent=10)(logits, target)
    assert both.item() == pytest.approx(expected.item() + dice.item(), rel=1e-5)


def test_label_smoothing_is_torchs() -> None:
    logits, target = _example(BINARY_IGNORE)
    expected = functional.cross_entropy(logits, target[:, 0].long(), ignore_index=2, label_smoothing=0.1)
    loss = DiceCrossEntropy(BINARY_IGNORE, True, dice_weight=0, label_smoothing=0.1)(logits, target)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_smoothing_an_empty_sample_scores_zero() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 0], logits[:, 1] = 200.0, -200.0
    target = torch.zeros(1, 1, 4, 4, dtype=torch.int16)
    assert DiceCrossEntropy(BINARY, False, cross_entropy_weight=0, smooth=0)(logits, target).item() == 0
    assert DiceCrossEntropy(BINARY, False, cross_entropy_weight=0)(logits, target).item() == -1


def test_half_precision_logits_are_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 80, 80, 20, generator=generator).bfloat16()
    target = torch.randint(0, 2, (1, 1, 80, 80, 20), generator=generator)
    loss = DiceCrossEntropy(BINARY, True)
    leaf = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(leaf, target)
        value.backward()
    assert value.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    assert value.item() == pytest.approx(loss(logits.double(), target).item(), abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"dice_weight": 0, "cross_entropy_weight": 0},
        {"smooth": -1},
        {"dice_weight": float("nan")},
        {"top_k_percent": 0},
        {"top_k_percent": 101},
        {"label_smoothing": 1},
    ],
)
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(SegflowError, match="loss:"):
        DiceCrossEntropy(THREE, True, **options)


@pytest.mark.parametrize("options", [{"top_k_percent": 10}, {"label_smoothing": 0.1}])
def test_options_of_labels_are_refused_for_regions(options: dict[str, float]) -> None:
    with pytest.raises(SegflowError, match="regions"):
        DiceCrossEntropy(REGIONS, True, **options)


@pytest.mark.parametrize("labels", [THREE, REGIONS_IGNORE], ids=["labels", "regions"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch_dice", [True, False])
def test_mixed_precision_costs_no_precision_in_the_loss(labels: Labels, dtype: torch.dtype, batch_dice: bool) -> None:
    """A class holds more voxels here than float16 can count, and the loss is scaled as mixed precision does."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, labels.num_outputs, 64, 64, 64, generator=generator).to(dtype)
    target = torch.randint(0, 3, (1, 1, 64, 64, 64), generator=generator).to(torch.int16)
    loss = DiceCrossEntropy(labels, batch_dice)
    found = []
    for logits in (coarse.float(), coarse):
        logits.requires_grad_()
        value = loss(logits, target)
        (value * 2**16).backward()
        assert logits.grad is not None
        found.append((value.item(), logits.grad.float()))
    (expected, gradient), (value_of_coarse, gradient_of_coarse) = found
    assert value_of_coarse == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient_of_coarse, gradient, rtol=1e-2, atol=1e-4)
