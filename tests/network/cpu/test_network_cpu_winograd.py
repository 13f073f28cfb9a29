"""The quick convolution equals torch's, forwards and backwards, wherever it is used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from segflow.network.cpu import winograd_blocks
from segflow.network.cpu.layers import QuickConv2d, QuickConv3d
from segflow.network.cpu.winograd import winograd_convolution, winograd_pays


def _inputs(
    shape: tuple[int, ...], out_channels: int, dtype: torch.dtype, depth_taps: int = 3
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(out_channels, shape[1], depth_taps, 3, 3, generator=generator, dtype=dtype)
    return x, weight * (2 / weight[0].numel()) ** 0.5, torch.randn(out_channels, generator=generator, dtype=dtype)


def _both_ways(inputs: tuple[torch.Tensor, ...]) -> list[tuple[torch.Tensor, ...]]:
    """Output and gradients of the quick convolution and of torch's."""
    results = []
    for function in (winograd_convolution, lambda x, w, b: functional.conv3d(x, w, b, padding="same")):
        leaves = [t.clone().requires_grad_() for t in inputs]
        y = function(*leaves)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        results.append((y, *torch.autograd.grad(y, leaves, grad)))
    return results


@pytest.mark.parametrize("rows", [2**20, 1], ids=["whole", "in blocks of a tile"])
@pytest.mark.parametrize("depth", [1, 3, 4, 5, 10, 11, 12])
def test_values_and_gradients_for_every_overhang(depth: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_blocks, "_ROWS", rows)
    ours, torchs = _both_ways(_inputs((2, 3, depth, 5, 4), 2, torch.float64))
    torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [2**20, 36, 1], ids=["whole", "in blocks", "in blocks of a tile"])
@pytest.mark.parametrize("height", [1, 4, 7, 13])
@pytest.mark.parametrize("depth_taps", [1, 3])
def test_for_every_height_too_of_slices_and_of_volumes(
    depth_taps: int, height: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd_blocks, "_ROWS", rows)
    ours, torchs = _both_ways(_inputs((3, 2, 6, height, 3), 4, torch.float64, depth_taps))
    torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9)


def test_images_are_volumes_of_one_slice() -> None:
    x, weight, bias = _inputs((1, 128, 1, 48, 40), 128, torch.float32, 1)
    layer = QuickConv2d(128, 128, 3, padding=1)
    layer.load_state_dict({"weight": weight.squeeze(2), "bias": bias})
    y = layer(x.squeeze(2))
    assert _used(layer, x.squeeze(2))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, winograd_convolution(x, weight, bias).squeeze(2))
    assert not y._is_view()  # it may be changed in place


def test_values_and_gradients_of_images() -> None:
    x, weight, bias = _inputs((2, 3, 1, 9, 6), 4, torch.float64, 1)
    x, weight = x.squeeze(2), weight.squeeze(2)
    for leaf in (x, weight, bias):
        leaf.requires_grad_()
    found, expected = winograd_convolution(x, weight, bias), functional.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.dtype)
    ours, torchs = (torch.autograd.grad(y, (x, weight, bias), grad) for y in (found, expected))
    torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9)


def test_float32_stays_within_five_digits() -> None:
    inputs = _inputs((1, 32, 16, 20, 12), 32, torch.float32)
    ours = _both_ways(inputs)[0]
    exact = _both_ways(tuple(t.double() for t in inputs))[1]
    for result, truth in zip(ours, exact, strict=True):
        assert ((result.double() - truth).abs().max() / truth.abs().max()).item() < 1e-5


def test_the_result_keeps_channels_last_memory() -> None:
    inputs = _inputs((1, 3, 8, 5, 4), 2, torch.float32)
    y = winograd_convolution(*(t.requires_grad_() for t in inputs))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    grad = torch.autograd.grad(y.sum(), inputs[0])[0]
    assert grad.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("shape", "weight", "pays"),
    [
        ((2, 32, 40, 56, 40), (32, 32, 3, 3, 3), True),
        ((2, 1, 40, 56, 40), (32, 1, 3, 3, 3), False),  # few channels
        ((2, 64, 40, 56, 40), (64, 64, 1, 3, 3), True),  # saved along the height alone
        ((2, 64, 40, 56, 40), (64, 64, 3, 1, 1), False),
        ((2, 256, 5, 7, 5), (256, 256, 3, 3, 3), False),  # half of the second tiles overhangs
        ((2, 128, 56, 40), (128, 128, 3, 3), True),
        ((2, 32, 56, 40), (32, 32, 3, 3), False),
        ((0, 32, 40, 56, 40), (32, 32, 3, 3, 3), False),
    ],
)
def test_it_is_used_where_it_saves_enough(shape: tuple[int, ...], weight: tuple[int, ...], pays: bool) -> None:
    assert winograd_pays(shape, weight) is pays


def _used(layer: QuickConv2d | QuickConv3d, x: torch.Tensor) -> bool:
    return "Winograd" in type(layer(x).grad_fn).__name__


def test_the_layer_uses_it_for_float32_in_channels_last_memory_only() -> None:
    layer = QuickConv3d(32, 32, 3, padding=1)
    x = _inputs((1, 32, 8, 12, 16), 32, torch.float32)[0]
    assert _used(layer, x)
    assert not _used(layer, x.contiguous())
    with torch.autocast("cpu", torch.bfloat16):
        assert not _used(layer, x)
    assert not _used(QuickConv3d(32, 32, 3, padding=1, stride=2), x)
    assert not _used(QuickConv3d(32, 32, 3, padding=1).double(), x.double())


def test_frozen_weights_and_images_ask_for_no_gradient() -> None:
    x, weight, bias = _inputs((1, 3, 8, 5, 4), 2, torch.float64)
    exact = _both_ways((x, weight, bias))[1]
    y = winograd_convolution(x, weight.requires_grad_(), None)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    torch.testing.assert_close(torch.autograd.grad(y, weight, grad)[0], exact[2])
    y = winograd_convolution(x.clone().requires_grad_(), weight.detach(), bias)
    y.backward(grad)
    assert weight.grad is None
