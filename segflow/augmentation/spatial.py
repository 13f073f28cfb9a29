"""Rotation, scaling and the crop to the final patch, then orientation (recipe 7, rows 0-1b and 9).

Mirroring is the last step of the recipe. It commutes with the steps between, so it is done here, where voxels move
anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from segflow.augmentation.draws import Draws, chance, uniform
from segflow.augmentation.options import check_probability, check_types, checked_range
from segflow.augmentation.orientation import Orientation
from segflow.augmentation.patch_rules import is_dummy_2d, loader_patch_size, rotation_limit
from segflow.augmentation.resample import resample, source_region
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box


@dataclass(kw_only=True, slots=True)
class SpatialSettings:
    """Rotation and scaling.

    Attributes:
        rotation_probability: Probability that a sample is rotated.
        rotation_axis_probability: Probability of each axis that a rotated sample is rotated about it.
        rotation_degrees: Largest angle in either direction; null takes it from the patch's shape (recipe 6.3).
        scaling_probability: Probability that a sample is scaled, independent of rotation.
        scaling: Range of the factor from patch to source. Above 1, objects shrink.
        scaling_same_for_axes: Take one factor for all axes, not one for each.
        dummy_2d: Rotate and scale slice by slice in the plane of axes 1 and 2; null decides by the patch's shape.
        image_interpolation: ``linear`` or ``nearest``.
        label_interpolation: ``linear`` (the label with the largest weight) or ``nearest``.
        loader_scale: Scale of a rotated patch that the loaded patch has room for (recipe 6.3).
        loader_patch_size: Voxels to load; null computes them, and loads just the patch if nothing rotates or scales.
    """

    rotation_probability: float = 0.2
    rotation_axis_probability: float = 1.0
    rotation_degrees: float | None = None
    scaling_probability: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)
    scaling_same_for_axes: bool = True
    dummy_2d: bool | None = None
    image_interpolation: str = "linear"
    label_interpolation: str = "linear"
    loader_scale: float = 0.85
    loader_patch_size: list[int] | None = None

    def __post_init__(self) -> None:
        check_types(self, "augmentation.spatial")
        check_probability(
            "augmentation.spatial",
            rotation_probability=self.rotation_probability,
            rotation_axis_probability=self.rotation_axis_probability,
            scaling_probability=self.scaling_probability,
        )
        self.scaling = checked_range("augmentation.spatial", "scaling", self.scaling, 0.01)
        checked_range("augmentation.spatial", "loader_scale", (self.loader_scale, 1.0), 0.01)
        for name in ("image_interpolation", "label_interpolation"):
            if getattr(self, name) not in ("linear", "nearest"):
                raise SegflowError(
                    f"unknown augmentation.spatial.{name}", found=getattr(self, name), expected="linear or nearest"
                )


class Spatial:
    """From loader patches to final patches.

    Args:
        patch_size: Voxels of the final patch, (z, y, x) or (y, x).
        settings: Settings of rotation and scaling.
        orientation: Orientation of the final patch.

    Attributes:
        loader_patch_size: Voxels of the patches that it needs.

    Raises:
        SegflowError: The settings do not fit the patch.
    """

    def __init__(self, patch_size: Sequence[int], settings: SpatialSettings, orientation: Orientation) -> None:
        self.patch_size = tuple(int(n) for n in patch_size)
        self.settings = settings
        self.orientation = orientation
        dims = len(self.patch_size)
        self.dummy_2d = dims == 3 and (is_dummy_2d(self.patch_size) if settings.dummy_2d is None else settings.dummy_2d)
        self.plane = self.patch_size[1:] if self.dummy_2d else self.patch_size
        self.rotation_degrees = (
            rotation_limit(self.patch_size, self.dummy_2d)
            if settings.rotation_degrees is None
            else settings.rotation_degrees
        )
        self.loader_patch_size = self._loader_patch_size()
        if len(self.loader_patch_size) != dims or any(
            a < b for a, b in zip(self.loader_patch_size, self.patch_size, strict=True)
        ):
            raise SegflowError(
                "augmentation.spatial.loader_patch_size must be at least the patch size along every axis",
                found=list(self.loader_patch_size),
                expected=f"at least {list(self.patch_size)}",
            )

    def _loader_patch_size(self) -> tuple[int, ...]:
        settings = self.settings
        if settings.loader_patch_size is not None:
            return tuple(int(n) for n in settings.loader_patch_size)
        if settings.rotation_probability == 0 and settings.scaling_probability == 0:
            return self.patch_size
        return loader_patch_size(self.patch_size, self.rotation_degrees, settings.loader_scale, self.dummy_2d)

    def draw(self, samples: int, generator: torch.Generator) -> Draws:
        """Choose ``resampled`` (B,), ``matrix`` (B, d, d) from patch to source, and the orientation.

        The matrix is made from ``angles`` (B, 3 or 1) in radians and ``scales`` (B, d); d is 2 in dummy-2D.
        """
        settings, dims = self.settings, len(self.plane)
        axes = 3 if dims == 3 else 1
        limit = math.radians(self.rotation_degrees)
        rotated = chance((samples, 1), settings.rotation_probability, generator)
        about = chance((samples, axes), settings.rotation_axis_probability, generator)
        angles = uniform((samples, axes), (-limit, limit), generator) * (rotated & about)
        scaled = chance((samples, 1), settings.scaling_probability, generator)
        scales = uniform((samples, 1 if settings.scaling_same_for_axes else dims), settings.scaling, generator)
        scales = torch.where(scaled, scales, 1.0).expand(samples, dims)
        return {
            "resampled": (rotated | scaled)[:, 0],
            "angles": angles,
            "scales": scales,
            "matrix": rotation_matrix(angles.double()) * scales.double()[:, None, :],
            **self.orientation.draw(samples, generator),
        }

    def regions(self, draws: Draws) -> list[Box]:
        """The part of each sample's loader patch that `apply` uses."""
        centre = self._centre()
        boxes = []
        for resampled, matrix in zip(draws["resampled"].tolist(), draws["matrix"], strict=True):
            box = centre
            if resampled:
                dims = len(self.plane)
                box = source_region(matrix, self.plane, self.loader_patch_size[-dims:])
                if self.dummy_2d:
                    box = Box(centre.start[:1] + box.start, centre.stop[:1] + box.stop)
            boxes.append(box)
        return boxes

    def _centre(self) -> Box:
        start = tuple(size // 2 - n // 2 for size, n in zip(self.loader_patch_size, self.patch_size, strict=True))
        return Box(start, tuple(a + n for a, n in zip(start, self.patch_size, strict=True)))

    def apply(
        self, image: torch.Tensor, label: torch.Tensor, draws: Draws, out_image: torch.Tensor, out_label: torch.Tensor
    ) -> None:
        """Fill the final patches.

        Args:
            image: float32 (B, C, *loader patch).
            label: int16 (B, L, *loader patch).
            draws: Choices of `draw`.
            out_image: float32 (B, C, *patch), written.
            out_label: int16 (B, L, *patch), written; -1 outside of the source.
        """
        centre = (slice(None), *self._centre().slices)
        for sample, resampled in enumerate(draws["resampled"].tolist()):
            if resampled:
                moved = self._resample(image[sample], label[sample], draws["matrix"][sample])
            else:
                moved = image[sample][centre], label[sample][centre]
            for values, out in zip(moved, (out_image, out_label), strict=True):
                out[sample].copy_(self.orientation.apply(values, draws, sample))

    def _resample(
        self, image: torch.Tensor, label: torch.Tensor, matrix: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.dummy_2d:  # slices become channels, which share the grid
            depth = slice(self._centre().start[0], self._centre().stop[0])
            image, label = image[:, depth].flatten(0, 1), label[:, depth].flatten(0, 1)
        out_image = image.new_empty((len(image), *self.plane))
        out_label = label.new_empty((len(label), *self.plane))
        resample(
            image,
            label,
            matrix,
            out_image,
            out_label,
            image_nearest=self.settings.image_interpolation == "nearest",
            label_nearest=self.settings.label_interpolation == "nearest",
        )
        return out_image.view(-1, *self.patch_size), out_label.view(-1, *self.patch_size)


def rotation_matrix(angles: torch.Tensor) -> torch.Tensor:
    """Rz·Ry·Rx for angles (B, 3), with Rx about axis 0; a plane rotation for (B, 1). Radians; (B, d, d)."""
    cos, sin = angles.cos(), angles.sin()
    if angles.shape[1] == 1:
        return torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    one, zero = torch.ones_like(cos[:, 0]), torch.zeros_like(cos[:, 0])
    about_0 = [one, zero, zero, zero, cos[:, 0], -sin[:, 0], zero, sin[:, 0], cos[:, 0]]
    about_1 = [cos[:, 1], zero, sin[:, 1], zero, one, zero, -sin[:, 1], zero, cos[:, 1]]
    about_2 = [cos[:, 2], -sin[:, 2], zero, sin[:, 2], cos[:, 2], zero, zero, zero, one]
    rx, ry, rz = (torch.stack(entries, -1).view(-1, 3, 3) for entries in (about_0, about_1, about_2))
    return rz @ ry @ rx
