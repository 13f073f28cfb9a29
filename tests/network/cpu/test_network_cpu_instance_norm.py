"""The composed instance norm equals torch's, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from segflow.network.cpu.instance_norm import instance_norm

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 0.5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype) + mean
    weight = torch.randn(shape[1], generator=generator, dtype=dtype)
    bias = torch.randn(shape[1], generator=generator, dtype=dtype)
    return x, weight, bias


@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("last", [True, False])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], slope: float, last: bool) -> None:
    x, weight, bias = _inputs(shape, torch.float64)
    grad = torch.randn(shape, dtype=torch.float64)

    def run(function):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = function(*leaves)
        return y, torch.autograd.grad(y, leaves, grad)

    def ours(x, w, b):
        if last:
            x = x.contiguous(memory_format=FORMATS[x.ndim])
        return instance_norm(x, w, b, 1e-5, slope)

    def torchs(x, w, b):
        return functional.leaky_relu(functional.instance_norm(x, weight=w, bias=b, eps=1e-5), slope)

    torch.testing.assert_close(run(ours), run(torchs), rtol=1e-10, atol=1e-10)


def test_the_gradient_is_the_derivative() -> None:
    x, weight, bias = (t.requires_grad_() for t in _inputs((2, 3, 3, 4), torch.float64))
    assert torch.autograd.gradcheck(lambda *a: instance_norm(*a, 1e-5, 0.01), (x, weight, bias))


@pytest.mark.parametrize("weight", [0.0, 1e-4, -0.5])
def test_a_channel_whose_output_says_nothing_of_its_input_gets_its_gradient(weight: float) -> None:
    x = _inputs((2, 2, 6, 6, 6), torch.float32)[0]
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    scale, shift = torch.tensor([weight, 1.0]), torch.tensor([2.0, 0.0])

    def gradients(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, scale, shift)]
        return [g.double() for g in torch.autograd.grad(function(*leaves), leaves, grad.to(dtype))]

    exact = gradients(
        lambda x, w, b: functional.leaky_relu(functional.instance_norm(x, weight=w, bias=b), 0.01), torch.float64
    )
    ours = gradients(lambda x, w, b: instance_norm(x.clone(), w, b, 1e-5, 0.01), torch.float32)
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)


def test_the_input_is_not_kept_for_the_backward_pass() -> None:
    x, _, bias = _inputs((2, 4, 6, 6, 6), torch.float32)
    y = instance_norm(x.requires_grad_() * 1, torch.ones(4), bias, 1e-5, 0.01)
    large = [t for t in y.grad_fn.saved_tensors if t is not None and t.numel() == x.numel()]
    assert len(large) == 1
    assert large[0].data_ptr() == y.data_ptr()


def test_channels_last_memory_is_kept() -> None:
    x, weight, bias = _inputs((2, 3, 4, 5, 6), torch.float32)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    y = instance_norm(x, weight, bias, 1e-5, 0.01)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.autograd.grad(y.sum(), x)[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_float32_keeps_five_digits_over_many_voxels(mean: float) -> None:
    x, weight, bias = _inputs((1, 4, 30, 50, 50), torch.float32, mean)
    exact = functional.instance_norm(x.double(), weight=weight.double(), bias=bias.double())
    for memory_format in (torch.contiguous_format, torch.channels_last_3d):
        y = instance_norm(x.contiguous(memory_format=memory_format), weight, bias, 1e-5)
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=2e-5)
