"""A loss made of several, each with a weight that may change over the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.distance_maps import distance_unit_of
from segflow.loss.term_weight import TermWeight

TERM = "a name, with loss (a _target_ with _partial_: true) and weight (a number or a schedule; 1 if it is left out)"


class Blend(nn.Module):
    """Weighted sum of losses, shipped ones or a user's own.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, in those losses that have ratios.
        terms: Name of each term → ``loss``, called with (labels, batch_dice), and ``weight``, a number or the
            attributes of `TermWeight`. null leaves a term out.

    Attributes:
        share: Share of the training that is over, from 0 to 1, by which weights are chosen.
        last: The value of each term in the last call, unweighted; a term with weight 0 is not computed.

    Raises:
        SegflowError: There is no term, one is no loss with a weight, or two need distances in different units.
    """

    def __init__(
        self, labels: Labels, batch_dice: bool, *, terms: Mapping[str, Mapping[str, Any] | None] | None = None
    ) -> None:
        super().__init__()
        used = {name: term for name, term in (terms or {}).items() if term is not None}
        if not used:
            raise SegflowError("loss: a blend needs at least one term", expected=f"terms: {TERM}")
        self.losses = nn.ModuleDict()
        self.weights: dict[str, TermWeight] = {}
        for name, term in used.items():
            self.losses[name] = _built(name, term, labels, batch_dice)
            self.weights[name] = TermWeight.of(name, term.get("weight", 1.0))
        units = {name: unit for name, loss in self.losses.items() if (unit := distance_unit_of(loss))}
        if len(set(units.values())) > 1:
            raise SegflowError("loss: all terms must measure distances in one unit", found=units)
        self.distance_unit = next(iter(units.values()), None)
        self.share = 0.0
        self.last: dict[str, Tensor] = {}

    @property
    def weights_now(self) -> dict[str, float]:
        """Weight of each term at this share of the training."""
        return {name: weight.at(self.share) for name, weight in self.weights.items()}

    def combined(self, value_of: Callable[[nn.Module], Tensor]) -> Tensor | None:
        """The weighted sum of what ``value_of`` gives for each term's loss; None if all weights are 0 now."""
        self.last = {}
        total = None
        for name, weight in self.weights_now.items():
            if weight:
                value = value_of(self.losses[name])
                self.last[name] = value.detach()
                total = weight * value if total is None else total + weight * value
        return total

    def forward(self, logits: Tensor, target: Tensor, *distances: Tensor) -> Tensor:
        """logits (B, K, *spatial), label map (B, 1, *spatial) and, if needed, distances (B, F, *spatial) → scalar."""
        total = self.combined(lambda loss: called(loss, logits, target, *distances))
        return 0.0 * logits.sum() if total is None else total


def called(loss: nn.Module, logits: Tensor, target: Tensor, *distances: Tensor) -> Tensor:
    """Call a loss, with distance maps if it asks for them.

    Args:
        loss: The loss.
        logits: (B, K, *spatial).
        target: Label map (B, 1, *spatial), any integer type.
        distances: The distance maps (B, F, *spatial), if there are any.

    Raises:
        SegflowError: It needs distance maps, and there are none.
    """
    unit = distance_unit_of(loss)
    if unit is None:
        value: Tensor = loss(logits, target)
        return value
    if not distances:
        raise SegflowError(f"loss: {type(loss).__name__} needs distance maps", found="none")
    value = loss(logits, target, *distances)
    return value


def _built(name: str, term: Any, labels: Labels, batch_dice: bool) -> nn.Module:
    if not isinstance(term, Mapping) or not {"loss"} <= set(term) <= {"loss", "weight"} or "." in name:
        raise SegflowError(f"loss: '{name}' is no term of a blend", found=term, expected=TERM)
    if not callable(term["loss"]):
        raise SegflowError(f"loss: the term '{name}' has no loss", found=term["loss"], expected=TERM)
    loss = term["loss"](labels, batch_dice)
    if isinstance(loss, Blend):
        raise SegflowError(f"loss: the term '{name}' is a blend itself", fix="List its terms instead.")
    if not isinstance(loss, nn.Module):
        raise SegflowError(f"loss: the term '{name}' gives no module", found=type(loss).__name__, expected=TERM)
    return loss
