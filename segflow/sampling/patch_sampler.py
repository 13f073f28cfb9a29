"""Choice of a patch's position in a case (recipe 6.1, 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE, LabelKey, Labels, key_text
from segflow.storage.stored_case import ForegroundLocations, StoredCase


def forced_foreground_flags(batch_size: int, fraction: float) -> tuple[bool, ...]:
    """For each sample of a batch, whether it must contain foreground: the last ones must (recipe 6.1).

    Args:
        batch_size: Samples of the global batch.
        fraction: Share of samples that must contain foreground, 0 to 1.
    """
    free = round(batch_size * (1 - fraction))
    return tuple(index >= free for index in range(batch_size))


class BoxSampler(Protocol):
    """Chooses boxes of patches; `PatchSampler` does.

    Attributes:
        patch_size: Voxels of a box, (z, y, x).
        is_2d: Whether a box is one slice, so that patches lose their first axis.
    """

    patch_size: tuple[int, ...]
    is_2d: bool

    def __call__(self, case: StoredCase, generator: np.random.Generator, force_foreground: bool) -> Box:
        """Choose a box in plan axes (z, y, x); it may stick out of the case."""
        ...

    def forced(self, batch_size: int, generator: np.random.Generator) -> Sequence[bool]:
        """For each sample of a batch, whether it must contain foreground."""
        ...


@dataclass(eq=False)
class PatchSampler:
    """Chooses the box of a patch. All randomness comes from the generator of a call.

    Args:
        patch_size_loader: Voxels to read, (z, y, x) or (y, x). It is larger than the final patch if the augmentation
            needs room to rotate.
        patch_size_final: Voxels of the network's input.
        labels: The label definition; needed if ``class_weights`` names labels.
        foreground_fraction: Share of the patches that must contain foreground, 0 to 1.
        probabilistic: Decide for each patch independently with this probability, instead of taking the last of a batch.
        class_weights: Name or number of a label or region → its weight in the choice of forced foreground. The weight
            of others is 1.
        foreground_jitter: Largest distance of a forced foreground voxel from the centre of the patch, as a share of
            the way to the border, 0 to 1. With 0 it is the centre voxel, so a small lesion is always centred.

    Raises:
        SegflowError: An option is out of range, the sizes do not fit together, or a weight is given for an unknown
            label.
    """

    patch_size_loader: Sequence[int]
    patch_size_final: Sequence[int]
    _: KW_ONLY
    labels: Labels | None = None
    foreground_fraction: float = 0.33
    probabilistic: bool = False
    class_weights: Mapping[str, float] = field(default_factory=dict)
    foreground_jitter: float = 0.0

    def __post_init__(self) -> None:
        self._check_options()
        if len(self.patch_size_loader) != len(self.patch_size_final) or len(self.patch_size_final) not in (2, 3):
            raise SegflowError(
                "a patch must have 2 or 3 axes, before and after augmentation",
                found=[list(self.patch_size_loader), list(self.patch_size_final)],
            )
        self.is_2d = len(self.patch_size_final) == 2
        slice_axis = (1,) if self.is_2d else ()
        self.patch_size = slice_axis + tuple(int(n) for n in self.patch_size_loader)
        self.patch_size_final = slice_axis + tuple(int(n) for n in self.patch_size_final)
        self._weights = _weights_by_key(self.class_weights, self.labels)

    def _check_options(self) -> None:
        for name in ("foreground_fraction", "foreground_jitter"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise SegflowError(f"sampling.{name} must lie between 0 and 1", found=value)
        if not isinstance(self.probabilistic, bool):
            raise SegflowError("sampling.probabilistic must be true or false", found=self.probabilistic)
        self.class_weights = {str(name): weight for name, weight in self.class_weights.items()}
        wrong = {k: v for k, v in self.class_weights.items() if not isinstance(v, int | float) or v < 0}
        if wrong:
            raise SegflowError("sampling.class_weights must be numbers, none of them negative", found=wrong)

    def forced(self, batch_size: int, generator: np.random.Generator) -> Sequence[bool]:
        """For each sample of a batch, whether it must contain foreground (recipe 6.1)."""
        if self.probabilistic:
            return [bool(v) for v in generator.random(batch_size) < self.foreground_fraction]
        return forced_foreground_flags(batch_size, self.foreground_fraction)

    def __call__(self, case: StoredCase, generator: np.random.Generator, force_foreground: bool) -> Box:
        """Choose a box of the loader's patch size, in plan axes (z, y, x). It may reach beyond the case.

        Args:
            case: The stored case.
            generator: Source of randomness.
            force_foreground: Centre the patch on a foreground voxel, if the case has any.
        """
        lowest, highest = self._start_bounds(case.shape)
        voxel = self._choose_voxel(case.foreground, generator, force_foreground)
        if voxel is None:
            start = [int(generator.integers(a, b + 1)) for a, b in zip(lowest, highest, strict=True)]
        else:
            # There is no upper limit: a patch at the far border reaches beyond the case and is padded.
            start = [max(a, v - n // 2) for a, v, n in zip(lowest, voxel, self.patch_size, strict=True)]
        return Box(tuple(start), tuple(a + n for a, n in zip(start, self.patch_size, strict=True)))

    def _start_bounds(self, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        lowest, highest = [], []
        for size, final, extent in zip(self.patch_size, self.patch_size_final, shape, strict=True):
            pad = max(size - final, size - extent)
            lowest.append(-pad // 2)
            highest.append(extent + pad // 2 + pad % 2 - size)
        return lowest, highest

    def _choose_voxel(
        self, foreground: ForegroundLocations, generator: np.random.Generator, force_foreground: bool
    ) -> list[int] | None:
        annotated = [key for key in foreground.keys if _is_annotated_key(key)]
        classes = [key for key in foreground.keys if not _is_annotated_key(key)]
        eligible = (classes or annotated) if force_foreground else annotated
        if not eligible:
            return None
        key = self._choose_key(eligible, generator)
        voxel = foreground.location(key, int(generator.integers(foreground.count(key))))
        if not force_foreground or not self.foreground_jitter:
            return [int(v) for v in voxel]
        jitter = self.foreground_jitter
        return [
            int(v) + int(generator.integers(-int(jitter * ((n - 1) // 2)), int(jitter * (n // 2)) + 1))
            for v, n in zip(voxel, self.patch_size_final, strict=True)
        ]

    def _choose_key(self, eligible: Sequence[LabelKey], generator: np.random.Generator) -> LabelKey:
        if not self._weights:
            return eligible[int(generator.integers(len(eligible)))]
        weights = np.array([self._weights.get(key_text(key), 1.0) for key in eligible])
        if not weights.any():
            weights[:] = 1
        return eligible[int(generator.choice(len(eligible), p=weights / weights.sum()))]


def _is_annotated_key(key: LabelKey) -> bool:
    """Whether a key means all annotated voxels beside an ignore label (recipe 4.4). It begins with "outside"."""
    return isinstance(key, tuple) and key[0] == OUTSIDE


def _weights_by_key(weights: Mapping[str, float], labels: Labels | None) -> dict[str, float]:
    if not weights or labels is None:
        return dict(weights)
    texts = {labels.name_of(key): key_text(key) for key in labels.foreground_keys}
    numbers = {text: text for text in texts.values()} | {f"({text},)": text for text in texts.values()}
    unknown = [name for name in weights if name not in texts and name not in numbers]
    if unknown:
        raise SegflowError(
            "sampling.class_weights names what is no foreground of this dataset", found=unknown, expected=list(texts)
        )
    return {texts[name] if name in texts else numbers[name]: weight for name, weight in weights.items()}
