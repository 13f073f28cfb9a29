"""One loss for the logits of several resolutions (recipe 9.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.loss.blend import Blend, called

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

    A loss whose attribute ``finest_only`` is true acts on the finest resolution alone, with the weight of all. Each
    term of a blend is summed by itself, so that the weights of the blend hold whatever resolutions its terms act on.

    Args:
        loss: logits (B, K, *spatial), label map (B, 1, *spatial) → scalar. With an attribute ``distance_unit``
            (``voxels`` or ``mm``) it is called with distance maps (B, F, *spatial) as a third argument.
        strides: Strides of all levels of the network, as in its topology. The decoder has one level fewer.
    """

    def __init__(self, loss: nn.Module, strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.loss = loss
        self.weights = supervision_weights(max(len(strides) - 1, 1))

    def forward(self, logits: Sequence[Tensor], target: Tensor, *distances: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (B, K, *spatial of the level), finest first. The coarsest levels may be missing; the weights of the
                others are then scaled to sum to 1.
            target: Label map (B, 1, *spatial of the finest level), any integer type.
            distances: Distance maps (B, F, *spatial of the finest level), if the loss asks for them.

        Raises:
            SegflowError: There are no logits, or more than the network has levels for, or the loss gives no scalar.
        """
        if not 1 <= len(logits) <= len(self.weights):
            raise SegflowError(
                "the network's list of logits does not fit its plan",
                found=f"{len(logits)} entries",
                expected=f"1 to {len(self.weights)}",
            )
        if not isinstance(self.loss, Blend):
            return self._over_levels(self.loss, logits, target, *distances)
        total = self.loss.combined(lambda term: self._over_levels(term, logits, target, *distances))
        return 0.0 * logits[0].sum() if total is None else total

    def _over_levels(self, loss: nn.Module, logits: Sequence[Tensor], target: Tensor, *distances: Tensor) -> Tensor:
        if getattr(loss, "finest_only", False):
            logits = logits[:1]
        weights = self.weights[: len(logits)]
        terms = [
            weight
            / sum(weights)
            * called(loss, one, *(downsample(whole, one.shape[2:]) for whole in (target, *distances)))
            for weight, one in zip(weights, logits, strict=True)
            if weight
        ]
        total = sum(terms[1:], terms[0])
        if not isinstance(total, Tensor) or total.ndim:
            found = f"{type(total).__name__}{f' {list(total.shape)}' if isinstance(total, Tensor) else ''}"
            raise SegflowError(
                f"the loss {type(loss).__name__} does not give one number", found=found, expected=LOSS_CONTRACT
            )
        return total


def downsample(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Label or distance map (B, F, *spatial) at a coarser shape, each voxel the value nearest to its centre."""
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
