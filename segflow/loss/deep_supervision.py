"""One loss for the logits of several resolutions (recipe 9.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError

LOSS_CONTRACT = (
    "something that is called with (labels, batch_dice) and gives a module: logits (B, K, *spatial) and label map "
    "(B, 1, *spatial) → one number"
)


def supervision_weights(outputs: int) -> tuple[float, ...]:
    """Weight of each resolution, finest first: halved at every step, 0 for the coarsest, with a sum of 1.

    A single output has weight 1; nnU-Net would divide by zero.
    """
    raw = [0.5**output for output in range(outputs)]
    if outputs > 1:
        raw[-1] = 0.0
    return tuple(weight / sum(raw) for weight in raw)


class DeepSupervisionLoss(nn.Module):
    """Weighted sum of a loss over the resolutions of a U-Net's decoder.

    Args:
        loss: logits (B, K, *spatial), label map (B, 1, *spatial) → scalar.
        strides: Strides of all levels of the network, as in its topology. The decoder has one level fewer.
    """

    def __init__(self, loss: nn.Module, strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.loss = loss
        self.weights = supervision_weights(max(len(strides) - 1, 1))

    def forward(self, logits: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (B, K, *spatial of the level), finest first. The coarsest levels may be missing; the weights of the
                others are then scaled to sum to 1.
            target: Label map (B, 1, *spatial of the finest level), any integer type.

        Raises:
            SegflowError: There are no logits, or more than the network has levels for, or the loss gives no scalar.
        """
        if not 1 <= len(logits) <= len(self.weights):
            raise SegflowError(
                "the network's list of logits does not fit its plan",
                found=f"{len(logits)} entries",
                expected=f"1 to {len(self.weights)}",
            )
        weights = self.weights[: len(logits)]
        terms = [
            weight / sum(weights) * self.loss(one, downsample(target, one.shape[2:]))
            for weight, one in zip(weights, logits, strict=True)
            if weight
        ]
        total = sum(terms[1:], terms[0])
        if not isinstance(total, Tensor) or total.ndim:
            found = f"{type(total).__name__}{f' {list(total.shape)}' if isinstance(total, Tensor) else ''}"
            raise SegflowError(
                f"the loss {type(self.loss).__name__} does not give one number", found=found, expected=LOSS_CONTRACT
            )
        return total


def downsample(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Label map (B, 1, *spatial) at a coarser shape, each voxel the value nearest to its centre ("nearest-exact")."""
    for axis, wanted in enumerate(shape, start=2):
        given = target.shape[axis]
        if given == wanted:
            continue
        if given % wanted == 0:  # a view
            step = given // wanted
            target = target[(slice(None),) * axis + (slice(step // 2, None, step),)]
        else:
            centres = (torch.arange(wanted, device=target.device) + 0.5) * (given / wanted)
            target = target.index_select(axis, centres.long().clamp_max(given - 1))
    return target
