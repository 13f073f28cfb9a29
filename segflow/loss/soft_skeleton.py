"""The soft skeleton (Shit et al. 2021, arXiv:2003.07311): thinning by minima and maxima of neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def soft_skeleton(image: Tensor, iterations: int) -> Tensor:
    """The soft skeleton of each channel.

    Channels are thinned one after the other, and again in the backward pass: small buffers are used again, where
    whole batches would take fresh memory, of several times the logits, for each of the steps.

    Args:
        image: (B, C, *spatial) in 2D or 3D, values from 0 to 1.
        iterations: Erosions. The radius of the thickest structure in voxels suffices.
    """
    channels = image.flatten(0, 1).unbind()
    thinned = [
        checkpoint(_skeleton, one, iterations, use_reentrant=False, preserve_rng_state=False)
        if image.requires_grad
        else _skeleton(one, iterations)
        for one in channels
    ]
    return torch.stack(thinned).view_as(image)


def _skeleton(image: Tensor, iterations: int) -> Tensor:
    """Of one channel (*spatial)."""
    eroded = erode(image)
    skeleton = torch.relu(image - dilate(eroded))
    for _ in range(iterations):
        image, eroded = eroded, erode(eroded)
        ridge = torch.relu(image - dilate(eroded))
        skeleton = skeleton + torch.relu(ridge - skeleton * ridge)
    return skeleton


def erode(image: Tensor) -> Tensor:
    """The minimum of each voxel (*spatial) and of those that share a face with it."""
    return _extreme(image, range(image.ndim), largest=False)


def dilate(image: Tensor) -> Tensor:
    """The maximum of the 3×3 or 3×3×3 voxels around each voxel (*spatial)."""
    for axis in range(image.ndim):
        image = _extreme(image, [axis], largest=True)
    return image


def _extreme(image: Tensor, axes: Sequence[int], *, largest: bool) -> Tensor:
    result: Tensor = _Extreme.apply(image, tuple(axes), largest)  # type: ignore[no-untyped-call]
    return result


class _Extreme(torch.autograd.Function):
    """Minimum or maximum of each voxel and its two neighbours along each axis.

    The gradient goes to the voxel that has the extreme; where several have it, to the first, as in torch's pooling.
    Torch's pooling keeps an index of 8 bytes for each voxel, and takes twice the time on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, axes: tuple[int, ...], largest: bool) -> Tensor:
        result = image.clone()
        extreme = torch.maximum if largest else torch.minimum
        for here, there in _neighbours(image, axes):
            own = result[here]
            extreme(own, image[there], out=own)
        ctx.axes = axes
        ctx.save_for_backward(image, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, result = ctx.saved_tensors
        total = torch.eq(image, result, out=torch.empty_like(grad)).mul_(grad)
        left, given = grad - total, torch.empty_like(grad)  # not yet given to a voxel; given in one step
        for here, there in _neighbours(image, ctx.axes):
            part = torch.eq(image[there], result[here], out=given[here]).mul_(left[here])
            total[there].add_(part)
            left[here].sub_(part)
        return total, None, None


def _neighbours(image: Tensor, axes: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Voxels with a neighbour along an axis, and these neighbours, for both directions of each axis."""
    first, last = slice(None, -1), slice(1, None)
    for axis in axes:
        if image.shape[axis] > 1:
            lead = (slice(None),) * axis
            yield (*lead, last), (*lead, first)
            yield (*lead, first), (*lead, last)
