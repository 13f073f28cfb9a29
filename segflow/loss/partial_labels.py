"""Logits of samples whose label maps lack some labels, changed so that any loss leaves these labels out.

With softmax, the probability of the absent labels joins that of the background, since their voxels are background in
such a label map (Fang and Yan 2020; Shi et al. 2021). With regions, an absent one gets the probability 0, and its
target has no voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ABSENT = -1e4
"""Logit of an absent label: its probability is exactly 0, its loss too, and float16 can hold it."""


def marginal_logits(logits: Sequence[Tensor], present: Tensor, *, regions: bool) -> list[Tensor]:
    """The logits that a loss is computed from.

    Args:
        logits: (B, K, *spatial) of each resolution.
        present: bool (B, F), whether a sample has each of the foreground labels or regions.
        regions: Whether outputs are regions with sigmoids; else the first one is the background.

    Returns:
        The same shapes, float32 or wider. No gradient reaches the output of an absent label by its own loss. Samples
        with all labels keep their values.
    """
    return [_regions(one, present) if regions else _labels(one, present) for one in logits]


def _regions(logits: Tensor, present: Tensor) -> Tensor:
    return _wide(logits).masked_fill(_absent(logits, present), ABSENT)


def _labels(logits: Tensor, present: Tensor) -> Tensor:
    logits, absent = _wide(logits), _absent(logits, present)
    background, foreground = logits[:, :1], logits[:, 1:]
    joined = torch.cat([background, foreground.masked_fill(~absent, -torch.inf)], dim=1)
    return torch.cat([joined.logsumexp(1, keepdim=True), foreground.masked_fill(absent, ABSENT)], dim=1)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _absent(logits: Tensor, present: Tensor) -> Tensor:
    return ~present.to(logits.device)[(..., *(None,) * (logits.ndim - 2))]
