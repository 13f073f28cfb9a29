"""One of several steps, drawn for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from segflow.augmentation.draws import Draws, is_selection, named, part
from segflow.augmentation.step import Step, checked_steps
from segflow.core.errors import SegflowError


@dataclass(kw_only=True)
class OneOf(Step):
    """One of several steps for each sample, all equally likely. The chosen step then applies its own probability.

    Args:
        steps: Steps by name, as in the augmentation.

    Attributes:
        alternatives: The steps that are not switched off.
    """

    steps: Mapping[str, Step | None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.alternatives = checked_steps(self.steps, f"{self.name}.steps")
        if not self.alternatives:
            raise SegflowError(f"{self.name}.steps has no step to draw", fix="Switch it off as a whole: =null.")

    def bind(self, patch_size: Sequence[int], dummy_2d: bool) -> Self:
        """See `Step.bind`."""
        bound = super().bind(patch_size, dummy_2d)
        bound.alternatives = {name: step.bind(patch_size, dummy_2d) for name, step in self.alternatives.items()}
        return bound

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose a step for each sample. The draws of a step have its name as prefix, and select only its samples."""
        choice = torch.randint(len(self.alternatives), (samples, 1), generator=generator)
        result: Draws = {}
        for which, (name, step) in enumerate(self.alternatives.items()):
            chosen = choice == which
            for key, values in named(name, step.draw(samples, channels, generator)).items():
                result[key] = values & chosen if is_selection(key) else values
        return result

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """See `Step.apply`."""
        for name, step in self.alternatives.items():
            step.apply(image, part(name, draws))

    def check(self, where: str) -> None:
        """See `Step.check`."""
        for name, step in self.alternatives.items():
            step.check(f"{where}.steps.{name}")
