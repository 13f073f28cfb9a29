"""The samples of a batch side by side on a CPU, forward and backward, each on a share of the threads (see `passes`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from segflow.network.cpu.passes import in_order, keeps_nothing, shared
from segflow.network.levels import logits_of_levels
from segflow.network.segmentation_network import SegmentationNetwork

_LARGE_SAMPLE = 2**16
"""Voxels of a sample that is worth the fixed cost of a part of its own."""

_Grads = list[Tensor | None]


def logits_side_by_side(network: nn.Module, image: Tensor) -> list[Tensor]:
    """What the network returns for a batch, from parts of the batch that are computed at the same time.

    Gradients are added in the order of the samples, so that a training repeats to the bit on as many threads. A network
    whose samples depend on each other, that keeps something or draws random numbers, or of which it is not known, gets
    the whole batch. There are no second derivatives.

    Args:
        network: Image → logits, as `SegmentationNetwork`.
        image: float (B, C, *patch).

    Returns:
        Logits (B, K, *patch of the level), finest first.
    """
    threads = torch.get_num_threads()
    if len(image) < 2 or threads < 2 or image.device.type != "cpu" or not _is_divisible(network, image):
        return logits_of_levels(network(image))
    groups = divided(len(image), image[0, 0].numel(), threads)
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and weights:
        return list(_SideBySide.apply(network, groups, image, *weights))  # type: ignore[no-untyped-call]
    parts = _forward(
        network, groups, image, torch.inference_mode if torch.is_inference_mode_enabled() else torch.no_grad
    )
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def divided(samples: int, voxels: int, threads: int) -> list[list[slice]]:
    """Groups of parts of a batch. The parts of a group are computed at the same time, the groups one after another.

    Parts are few and large, since each has gradients of all weights, which are then added. Large samples that are left
    over form a last group, whose parts have more threads each.

    Args:
        samples: Samples of the batch.
        voxels: Voxels of a sample.
        threads: Threads that the groups share.
    """
    passes, _ = shared(threads, samples)
    if voxels < _LARGE_SAMPLE:
        edges = [samples * n // passes for n in range(passes + 1)]
        return [[slice(start, stop) for start, stop in itertools.pairwise(edges)]]
    each = samples // passes
    whole = each * passes
    groups = [[slice(n, n + each) for n in range(0, whole, each)], [slice(n, n + 1) for n in range(whole, samples)]]
    return [group for group in groups if group]


def _is_divisible(network: nn.Module, image: Tensor) -> bool:
    """Whether the parts of a batch give the batch's result, with no effect beside it."""
    if not isinstance(network, SegmentationNetwork) or image.requires_grad or torch.is_autocast_enabled("cpu"):
        return False
    depends = any(isinstance(module, (_BatchNorm, _DropoutNd, nn.RReLU)) for module in network.modules())
    return not depends and next(network.buffers(), None) is None and keeps_nothing(network)


def _forward(
    network: nn.Module, groups: Sequence[Sequence[slice]], image: Tensor, mode: Callable[[], Any]
) -> Iterator[list[Tensor]]:
    for group in groups:
        yield from in_order([partial(_levels, network, image[part]) for part in group], len(group), mode)


def _levels(network: nn.Module, image: Tensor) -> list[Tensor]:
    return logits_of_levels(network(image))


class _SideBySide(torch.autograd.Function):
    """One function of the image and the weights, which hides the graphs of the parts."""

    @staticmethod
    def forward(
        ctx: Any, network: nn.Module, groups: list[list[slice]], image: Tensor, *weights: nn.Parameter
    ) -> tuple[Tensor, ...]:
        parts = list(_forward(network, groups, image, torch.enable_grad))
        ctx.parts, ctx.groups, ctx.weights = parts, groups, weights
        return tuple(torch.cat([one.detach() for one in level]) for level in zip(*parts, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.parts:
            raise RuntimeError("the gradients of a batch that is computed in parts can be asked for only once")
        total: _Grads = []
        for group in ctx.groups:
            calls = []
            for part in group:
                levels = ctx.parts.pop(0)
                calls.append(partial(_grads, levels, ctx.weights, [grad[part] for grad in grads]))
                del levels
            for found in in_order(calls, len(group)):
                total = [_sum(a, b) for a, b in zip(total, found, strict=True)] if total else found
        return (None, None, None, *total)


def _grads(levels: list[Tensor], weights: Sequence[nn.Parameter], grads: Sequence[Tensor]) -> _Grads:
    """Gradients of the weights from those of a part's logits. The part is freed."""
    pairs = [(level, grad) for level, grad in zip(levels, grads, strict=True) if level.requires_grad]
    levels.clear()
    outputs, given = [level for level, _ in pairs], [grad for _, grad in pairs]
    del pairs
    return list(torch.autograd.grad(outputs, weights, given, allow_unused=True))


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
