"""One configuration of the plans: patch, spacing, network (recipe 3.11)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.names import safe_name, safe_names, shortened
from segflow.core.topology import NetworkTopology, architecture_of_old_plans

Options = Mapping[str, Any]

LARGEST_PATCH, LARGEST_BATCH = 2**15, 2**15
"""The most voxels along an axis, and the most samples of a batch."""

SPLINE_ORDERS = range(6)


@dataclass(frozen=True, slots=True)
class ResamplingPlan:
    """How one kind of array is resampled: nnU-Net's function name and its options (recipe 3.10)."""

    method: str = "resample_data_or_seg_to_shape"
    options: Options = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigurationPlan:
    """One configuration, with inheritance resolved. Spatial tuples are in plan axes.

    Attributes:
        name: ``2d``, ``3d_fullres``, ``3d_lowres``, ``3d_cascade_fullres``, or a custom one.
        data_identifier: Folder of its preprocessed arrays.
        batch_size: Samples of one training step, over all devices.
        patch_size: Voxels of a training patch; two entries in 2D.
        median_shape: Median case after resampling, in voxels (may be a half).
        spacing: mm; two entries in 2D.
        normalization_schemes: nnU-Net's class name for each channel (recipe 5).
        use_mask_for_norm: Whether a channel's statistics come from the non-zero mask only.
        resampling_image, resampling_label, resampling_probabilities: See `ResamplingPlan`.
        topology: The network.
        batch_dice: Whether the Dice loss sums over the batch before the ratio.
        next_stages: Configurations that take this one's predictions as input.
        previous_stage: Configuration whose predictions are an extra input.
        raw: The whole resolved JSON object.
    """

    name: str
    data_identifier: str
    batch_size: int
    patch_size: tuple[int, ...]
    median_shape: tuple[float, ...]
    spacing: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_image: ResamplingPlan
    resampling_label: ResamplingPlan
    resampling_probabilities: ResamplingPlan
    topology: NetworkTopology
    batch_dice: bool
    next_stages: tuple[str, ...] = ()
    previous_stage: str | None = None
    raw: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        safe_name(self.name, "the name of a configuration")
        safe_name(self.data_identifier, f"configuration '{self.name}': data_identifier")
        stages = (*self.next_stages, *(() if self.previous_stage is None else (self.previous_stage,)))
        safe_names(stages, f"configuration '{self.name}': the name of another stage")
        self._check_numbers()
        if len(self.normalization_schemes) != len(self.use_mask_for_norm):
            raise SegflowError(
                f"configuration '{self.name}': every channel needs its entry in 'normalization_schemes' and in "
                "'use_mask_for_norm'",
                found=f"{list(self.normalization_schemes)} and {list(self.use_mask_for_norm)}",
            )

    def _check_numbers(self) -> None:
        """Refuse numbers that no image or machine can match, before anything of that size is made."""
        where = f"configuration '{self.name}'"
        if not all(math.isfinite(s) and s > 0 for s in self.spacing):
            raise SegflowError(f"{where}: spacing must be positive", found=list(self.spacing))
        if not all(math.isfinite(n) for n in self.median_shape):
            raise SegflowError(f"{where}: the median shape must be numbers", found=list(self.median_shape))
        if len(self.patch_size) not in (2, 3) or not all(n <= LARGEST_PATCH for n in self.patch_size):
            raise SegflowError(
                f"{where}: the patch size is impossible",
                found=shortened(list(self.patch_size)),
                expected=f"2 or 3 numbers up to {LARGEST_PATCH}",
            )
        if self.batch_size > LARGEST_BATCH:
            raise SegflowError(
                f"{where}: batch_size is impossible",
                found=shortened(self.batch_size),
                expected=f"up to {LARGEST_BATCH}",
            )

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    def check(self) -> None:
        """Refuse a plan that cannot be trained, such as one edited by hand.

        Raises:
            SegflowError: The patch does not fit the topology, or a number is out of range.
        """
        divisor = self.topology.divisor
        if self.topology.spatial_dims != len(self.patch_size) or len(self.spacing) != len(self.patch_size):
            raise SegflowError(
                f"configuration '{self.name}': patch size, spacing and topology differ in dimensions",
                found=f"patch {list(self.patch_size)}, spacing {list(self.spacing)}",
                expected=f"{self.topology.spatial_dims} entries each",
            )
        if any(p < 1 or p % d for p, d in zip(self.patch_size, divisor, strict=True)):
            below = [max(p // d, 1) * d for p, d in zip(self.patch_size, divisor, strict=True)]
            above = [-(-p // d) * d if p > 0 else d for p, d in zip(self.patch_size, divisor, strict=True)]
            raise SegflowError(
                f"configuration '{self.name}': the patch size does not fit the network",
                found=list(self.patch_size),
                expected=f"multiples of {list(divisor)}",
                fix=_nearest([size for size in (below, above) if _takes(self.topology, size)]),
            )
        if self.topology.kind is not None:
            self.topology.kind.check_patch(self.topology, self.patch_size)
        if self.batch_size < 1:
            raise SegflowError(f"configuration '{self.name}': batch_size must be at least 1", found=self.batch_size)

    @classmethod
    def from_json(cls, name: str, value: Options) -> ConfigurationPlan:
        """Build from a resolved object of the plans' ``configurations``.

        Raises:
            SegflowError: A key is missing or cannot be used.
        """
        if "architecture" not in value and "UNet_class_name" in value:
            value = {**value, "architecture": architecture_of_old_plans(value)}
        try:
            topology = NetworkTopology.from_architecture(value["architecture"])
            following = value.get("next_stage") or ()
            return cls(
                name=name,
                data_identifier=value["data_identifier"],
                batch_size=int(value["batch_size"]),
                patch_size=tuple(int(n) for n in value["patch_size"]),
                median_shape=tuple(float(n) for n in value["median_image_size_in_voxels"]),
                spacing=tuple(float(s) for s in value["spacing"]),
                normalization_schemes=tuple(str(s) for s in value["normalization_schemes"]),
                use_mask_for_norm=tuple(bool(m) for m in value["use_mask_for_norm"]),
                resampling_image=_resampling(value, "data"),
                resampling_label=_resampling(value, "seg"),
                resampling_probabilities=_resampling(value, "probabilities"),
                topology=topology,
                batch_dice=bool(value["batch_dice"]),
                next_stages=(following,) if isinstance(following, str) else tuple(following),
                previous_stage=value.get("previous_stage"),
                raw=copy.deepcopy(dict(value)),
            )
        except KeyError as missing:
            raise SegflowError(
                f"configuration '{name}' of the plans lacks the key {missing}", found=sorted(value)
            ) from None
        except SegflowError:
            raise
        except UNUSABLE as error:
            raise SegflowError(
                f"configuration '{name}' of the plans holds a value that cannot be used: {error}",
                fix="Correct what was edited, or plan anew: segflow plan",
            ) from error


def _takes(topology: NetworkTopology, patch_size: Sequence[int]) -> bool:
    """Whether a network with these strides can take a patch that they divide."""
    kind = topology.kind
    if kind is None:
        return True
    options = {**topology.options, **kind.options_of_patch(patch_size, topology.strides)}
    try:
        kind.check_patch(replace(topology, options=options), patch_size)
    except SegflowError:
        return False
    return True


def _nearest(sizes: Sequence[Sequence[int]]) -> str | None:
    if not sizes:
        return None
    named = list(dict.fromkeys(str(list(size)) for size in sizes))
    return f"The nearest are {named[0]} and {named[1]}." if len(named) > 1 else f"The nearest is {named[0]}."


def _resampling(value: Options, kind: str) -> ResamplingPlan:
    options = dict(value[f"resampling_fn_{kind}_kwargs"])
    for key in ("order", "order_z"):
        if key in options and options[key] not in SPLINE_ORDERS:
            raise SegflowError(
                f"'{key}' of resampling_fn_{kind}_kwargs is not the order of a spline",
                found=shortened(options[key]),
                expected="0 to 5",
            )
    return ResamplingPlan(str(value[f"resampling_fn_{kind}"]), options)
