"""What the tests of the losses share: label definitions, small batches, and the shipped losses of papers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segflow.core.labels import Labels
from segflow.loss.blend import called
from segflow.loss.cl_dice import ClDice
from segflow.loss.distance_maps import DistanceMaps
from segflow.loss.focal import Focal
from segflow.loss.generalized_dice import GeneralizedDice
from segflow.loss.surface_losses import Boundary, GeneralizedSurface, Hausdorff
from segflow.loss.tversky import Tversky

THREE = Labels.from_json({"background": 0, "a": 1, "b": 2})
THREE_IGNORE = Labels.from_json({"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
REGIONS_IGNORE = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
KINDS = {"labels": THREE, "labels_ignore": THREE_IGNORE, "regions": REGIONS, "regions_ignore": REGIONS_IGNORE}

LOSSES: dict[str, Callable[[Labels, bool], nn.Module]] = {
    "focal": Focal,
    "focal_alpha": lambda labels, batch_dice: Focal(labels, batch_dice, gamma=0.5, alpha=0.25),
    "tversky": Tversky,
    "focal_tversky": lambda labels, batch_dice: Tversky(labels, batch_dice, gamma=4 / 3),
    "generalized_dice": GeneralizedDice,
    "cldice": lambda labels, batch_dice: ClDice(labels, batch_dice, iterations=2),
    "boundary": Boundary,
    "hausdorff": Hausdorff,
    "surface": GeneralizedSurface,
}


def example(labels: Labels, *shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random logits (2, K, *shape) and label map (2, 1, *shape) with every value, the ignore label too."""
    shape = shape or (5, 6, 4)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, labels.num_outputs, *shape, generator=generator, dtype=dtype)
    values = torch.tensor([*labels.all_labels, *([] if labels.ignore_label is None else [labels.ignore_label])])
    target = values[torch.randint(0, len(values), (2, 1, *shape), generator=generator)]
    return logits, target.to(torch.int16)


def loss_of(loss: nn.Module, labels: Labels, logits: Tensor, target: Tensor) -> Tensor:
    """The loss of a batch, with the distance maps that the loader would make."""
    return called(loss, logits, target, DistanceMaps(labels)(target))
