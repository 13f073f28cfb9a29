"""Mirroring, quarter turns and exchange of axes, which move voxels without interpolation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segflow.augmentation.draws import Draws, chance
from segflow.augmentation.options import check_probability, check_types
from segflow.augmentation.patch_rules import interchangeable_axes
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class MirrorSettings:
    """Mirroring (recipe 7, row 9).

    Attributes:
        probability: Probability of each axis.
        axes: Plan axes that may be mirrored, 0 being the coarsest; a 2D patch has the axes 1 and 2. Prediction mirrors
            along the same axes. null takes all.
        keep_sides: Do not mirror along the left-right axis. null does so if names of labels come in pairs such as left
            and right kidney, since mirrored patches would teach the network to confuse them.
    """

    probability: float = 0.5
    axes: list[int] | None = None
    keep_sides: bool | None = None

    def __post_init__(self) -> None:
        check_types(self, "augmentation.mirror")
        check_probability("augmentation.mirror", probability=self.probability)
        if self.axes is not None:
            self.axes = sorted({int(axis) for axis in self.axes})
            if not set(self.axes) <= {0, 1, 2}:
                raise SegflowError("augmentation.mirror.axes must be among 0, 1 and 2", found=self.axes)

    def patch_axes(self, dims: int, labels: Labels, left_right_axis: int | None = None) -> tuple[int, ...]:
        """The axes of the patch to mirror; 0 is its first axis.

        Args:
            dims: Number of spatial axes of the patch, 2 or 3.
            labels: The label definition, whose names may come in pairs of sides.
            left_right_axis: Plan axis that runs from left to right, or None if unknown.
        """
        volume_axes = {0, 1, 2} if self.axes is None else set(self.axes)
        keep_sides = has_sides(labels) if self.keep_sides is None else self.keep_sides
        if keep_sides and left_right_axis is None and volume_axes:
            log.warning(
                "%s, but which axis runs from left to right is not known, or not the same in all images: mirroring may "
                "teach the network to confuse sides. Choose axes with augmentation.mirror.axes=[…]",
                "names of labels tell sides apart" if self.keep_sides is None else "sides shall be kept",
            )
        if keep_sides and left_right_axis in volume_axes:
            volume_axes.discard(left_right_axis)
            log.info(
                "no mirroring along plan axis %d, from left to right%s; augmentation.mirror.keep_sides=false allows it",
                left_right_axis,
                ": names of labels tell sides apart" if self.keep_sides is None else "",
            )
        return tuple(sorted(axis - (3 - dims) for axis in volume_axes if axis >= 3 - dims))


def has_sides(labels: Labels) -> bool:
    """Whether the names of two labels differ only in left and right."""
    sides: dict[tuple[str, ...], set[str]] = {}
    for name in labels.entries:
        words = name.lower().replace("-", "_").replace(" ", "_").split("_")
        side = {"l": "left", "left": "left", "lh": "left", "r": "right", "right": "right", "rh": "right"}
        for at, word in enumerate(words):
            if word in side:
                sides.setdefault((*words[:at], "", *words[at + 1 :]), set()).add(side[word])
    return any(len(found) == 2 for found in sides.values())


@dataclass(kw_only=True, slots=True)
class TurnSettings:
    """Quarter turns and exchange of axes, among axes of equal length (recipe 16, DA5).

    Attributes:
        turn_probability: Probability of 0 to 3 quarter turns in the plane of two axes.
        exchange_probability: Probability of a random order of the axes.
    """

    turn_probability: float = 0.0
    exchange_probability: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "augmentation.turn")
        check_probability(
            "augmentation.turn", turn_probability=self.turn_probability, exchange_probability=self.exchange_probability
        )


class Orientation:
    """Quarter turn, exchange of axes, then mirroring, drawn per sample.

    Args:
        patch_size: Voxels of the patch.
        mirror_axes: Axes of the patch that may be mirrored.
        mirror: Settings of mirroring.
        turn: Settings of turns.
    """

    def __init__(
        self, patch_size: Sequence[int], mirror_axes: Sequence[int], mirror: MirrorSettings, turn: TurnSettings
    ) -> None:
        self.dims = len(patch_size)
        self.mirror_axes = tuple(mirror_axes)
        self.mirror = mirror
        self.turn = turn
        self.exchangeable = interchangeable_axes(patch_size)

    def draw(self, samples: int, generator: torch.Generator) -> Draws:
        """Choose ``flip`` (B, d), ``turn_axes`` (B, 2), ``turns`` (B,) and ``axes`` (B, d), the order of the axes."""
        allowed = torch.zeros(self.dims, dtype=torch.bool)
        allowed[list(self.mirror_axes)] = True
        flip = chance((samples, self.dims), self.mirror.probability, generator) & allowed
        turns = torch.zeros(samples, dtype=torch.long)
        turn_axes = torch.zeros((samples, 2), dtype=torch.long)
        axes = torch.arange(self.dims).repeat(samples, 1)
        if self.exchangeable:
            group = torch.tensor(self.exchangeable)
            pair = _orders(samples, len(group), generator)[:, :2].sort(1).values
            turn_axes = group[pair]
            turns = torch.randint(4, (samples,), generator=generator)
            turns *= chance((samples,), self.turn.turn_probability, generator)
            order = group[_orders(samples, len(group), generator)]
            exchanged = chance((samples,), self.turn.exchange_probability, generator)
            axes[:, group] = torch.where(exchanged[:, None], order, axes[:, group])
        return {"flip": flip, "turn_axes": turn_axes, "turns": turns, "axes": axes}

    def apply(self, values: torch.Tensor, draws: Draws, sample: int) -> torch.Tensor:
        """Orient one sample, (C, *patch). The result is a view if nothing moves."""
        turns = int(draws["turns"][sample])
        if turns:
            values = torch.rot90(values, turns, [axis + 1 for axis in draws["turn_axes"][sample].tolist()])
        order = draws["axes"][sample].tolist()
        if order != list(range(self.dims)):
            values = values.permute(0, *(axis + 1 for axis in order))
        mirrored = [axis + 1 for axis, flip in enumerate(draws["flip"][sample].tolist()) if flip]
        return values.flip(mirrored) if mirrored else values


def _orders(samples: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """A random permutation of 0 to count - 1 for each sample: int64 (samples, count)."""
    return torch.rand((samples, count), generator=generator).argsort(1)
