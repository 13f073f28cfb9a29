"""Steps of the augmentation: changes of grey values, each with its own random choices.

`Step` is the contract. `ChannelStep` is the base of nearly all steps: it chooses samples and their channels. A step of
your own only defines what else it draws, and how the voxels of one channel change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any, Self, cast

import torch

from segflow.augmentation.draws import Draws, select, selected
from segflow.augmentation.options import check_probability, check_types, checked_range
from segflow.core.errors import SegflowError

CONTRACT = (
    "a dataclass built on segflow.augmentation.step.ChannelStep, with choose(shape, generator) → tensors of that shape "
    "(B, C, …) by name, and change(values, choices) → the values of one channel, of the same shape and type"
)


@dataclass(kw_only=True)
class Step:
    """A change of a batch's grey values. The fields of a step are its options.

    Attributes:
        patch_size: Voxels of the patch, (z, y, x) or (y, x); empty before `bind`.
        dummy_2d: The slices of a 3D patch are augmented one by one.
    """

    # Without annotations these are not fields, so they are not options.
    patch_size = cast("tuple[int, ...]", ())
    dummy_2d = False

    def __new__(cls, *_: object, **__: object) -> Self:
        declared = get_annotations(cls)
        if declared and "__init__" not in cls.__dict__:
            found = f"{cls.__module__}.{cls.__qualname__} with {', '.join(declared)}"
            fix = "Write @dataclass(kw_only=True) above the class."
            raise SegflowError("an augmentation step has options and is no dataclass", found=found, fix=fix)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_types(self, self.name)

    @property
    def name(self) -> str:
        """Its name in messages: that of its class."""
        return type(self).__name__

    def check_range(self, option: str, lowest: float | None = None) -> None:
        """Refuse an option that is not two numbers in ascending order, none of them below ``lowest``."""
        checked_range(self.name, option, getattr(self, option), lowest)

    def bind(self, patch_size: Sequence[int], dummy_2d: bool) -> Self:
        """A copy of the step with `patch_size` and `dummy_2d` set, which `draw` may need."""
        bound = copy(self)
        bound.patch_size = tuple(patch_size)
        bound.dummy_2d = dummy_2d
        return bound

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Make all random choices for a batch, before any voxel is seen.

        Args:
            samples: Number B of samples.
            channels: Number C of channels.
            generator: A generator on the CPU.

        Returns:
            Name → tensor with the samples along axis 0. ``selected``, bool (B, C), marks the channels to change.
        """
        raise NotImplementedError(f"{self.name} has no draw")

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Apply the choices of `draw`.

        Args:
            image: float32 (B, C, *patch), changed in place.
            draws: Choices for these B samples.
        """
        raise NotImplementedError(f"{self.name} has no apply")

    def check(self, where: str) -> None:
        """Draw once, and refuse a step that breaks its contract. Call it after `bind`.

        Args:
            where: The key of the step, for messages.

        Raises:
            SegflowError: The step cannot draw, or its draws break the contract.
        """
        self._check_draws(where, 1)

    def _check_draws(self, where: str, leading: int) -> None:
        """Refuse draws that lack the first axes of (B, C)."""
        shape = (2, 3)
        try:
            draws = self.draw(*shape, torch.Generator().manual_seed(0))
        except SegflowError:
            raise
        except Exception as error:
            found = f"{_description(self)}: {type(error).__name__}: {error}"
            raise SegflowError(f"{where} cannot draw", found=found, expected=CONTRACT) from error
        for name, values in draws.items():
            is_tensor = isinstance(values, torch.Tensor)
            if not is_tensor or tuple(values.shape[:leading]) != shape[:leading]:
                raise SegflowError(
                    f"{where} draws '{name}' of the wrong shape for {shape[0]} samples of {shape[1]} channels",
                    found=list(values.shape) if is_tensor else _description(values),
                    expected=f"{list(shape[:leading])} and what may follow, of {CONTRACT}",
                )


@dataclass(kw_only=True)
class ChannelStep(Step):
    """A step that changes chosen channels of chosen samples, each by itself.

    Args:
        probability: Probability that a sample is changed.
        channel_probability: Probability that a channel of such a sample is changed.
    """

    probability: float = 1.0
    channel_probability: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability(self.name, probability=self.probability, channel_probability=self.channel_probability)

    def choose(self, shape: tuple[int, int], generator: torch.Generator) -> Draws:
        """Make the step's own random choices for every channel, also for those that will not be changed.

        Args:
            shape: (B, C).
            generator: A generator on the CPU.

        Returns:
            Name → tensor (B, C) or (B, C, …).
        """
        return {}

    def change(self, values: torch.Tensor, choices: Draws) -> torch.Tensor:
        """Change one channel.

        Args:
            values: float32 (*patch), on the device of the batch; it may be changed in place.
            choices: Choices of `choose` for this channel, without the axes B and C.

        Returns:
            The changed values, of the same shape and type.
        """
        raise NotImplementedError(f"{self.name} has no change")

    def draw(self, samples: int, channels: int, generator: torch.Generator) -> Draws:
        """Choose ``selected`` (B, C), first the sample, then its channels; and add the choices of `choose`."""
        chosen = select(samples, channels, self.probability, self.channel_probability, generator)
        return {"selected": chosen, **self.choose((samples, channels), generator)}

    def apply(self, image: torch.Tensor, draws: Draws) -> None:
        """Change the selected channels of image (B, C, *patch) in place."""
        for at in selected(draws):
            values = image[at]
            choices = {name: chosen[at] for name, chosen in draws.items() if name != "selected"}
            changed = self.change(values, choices)
            if changed is not values:
                self._check_change(changed, values)
                values.copy_(changed)

    def check(self, where: str) -> None:
        """See `Step.check`."""
        kind = type(self)
        if kind.change is ChannelStep.change and kind.apply is ChannelStep.apply:
            raise SegflowError(
                f"{where} changes nothing", found=f"{_description(self)} has no change", expected=CONTRACT
            )
        self._check_draws(where, 2)

    def _check_change(self, changed: Any, values: torch.Tensor) -> None:
        if not isinstance(changed, torch.Tensor):
            found = f"it returned {type(changed).__name__}"
        elif changed.shape != values.shape or changed.dtype != values.dtype:
            found = f"it returned {changed.dtype} {list(changed.shape)} for {values.dtype} {list(values.shape)}"
        else:
            return
        raise SegflowError(f"the augmentation step {self.name} breaks its contract", found=found, expected=CONTRACT)


def checked_steps(steps: Mapping[str, Step | None], where: str) -> dict[str, Step]:
    """Steps by name, in their order, without those that are switched off (None).

    Raises:
        SegflowError: It is not a mapping, or an entry is not a step.
    """
    if not isinstance(steps, Mapping):
        raise SegflowError(f"{where} must be a mapping of names to steps", found=steps, expected=CONTRACT)
    for name, step in steps.items():
        if isinstance(step, Mapping):
            near = get_close_matches(name, [other for other in steps if other != name], n=1)
            fix = f"Did you mean {where}.{near[0]}?" if near else None
            raise SegflowError(f"{where}.{name} has no _target_", found=dict(step), expected=CONTRACT, fix=fix)
        if step is not None and not isinstance(step, Step):
            raise SegflowError(f"{where}.{name} is no step", found=_description(step), expected=CONTRACT)
    return {name: step for name, step in steps.items() if step is not None}


def _description(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"
