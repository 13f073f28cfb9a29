"""All constants of the planner, under segflow's own names (recipe 3.1 and 3.12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.names import safe_name
from segflow.core.networks.known import KINDS
from segflow.core.topology import NETWORKS

RESAMPLING_CHOICES = ("spline", "torch", "torch_separate_z", "none")
"""nnU-Net's planner variants by how arrays are resampled; `resampling_entries` spells each out."""


@dataclass(kw_only=True, slots=True)
class ConfigurationOverride:
    """Values that replace the planner's for one configuration; None keeps the planner's.

    Attributes:
        patch_size: Voxels of a training patch, plan axes; must be divisible by the planned topology's strides.
        batch_size: Samples of one training step.
    """

    patch_size: list[int] | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.patch_size is not None:
            self.patch_size = [int(n) for n in self.patch_size]


@dataclass(kw_only=True, slots=True)
class PlannerSettings:
    """The planner's constants. The defaults are nnU-Net's default planner.

    The size of a network is the number of outputs of its convolutions for one sample (recipe 3.6), which needs no
    network to compute. ``reference_size_*`` fits ``reference_memory_gb`` at ``reference_batch_size_*``.

    Attributes:
        plans_name: Name of the plans file, and the first part of ``data_identifier``.
        planner_name: nnU-Net's name of the planner with these constants.
        shared_data_name: Name of the plans whose arrays ``2d`` and ``3d_fullres`` share. Not used if the target spacing
            or the axis order is overridden, since the arrays would differ.
        network: ``plain_unet``, ``residual_unet``, or the name of another network that segflow ships.
        network_options: Options of another network than these two, by name: a number, or one for each level, finest
            first, of which a network of fewer levels takes the first.
        memory_target_gb: GPU memory to plan for.
        reference_memory_gb: GPU memory that the reference sizes correspond to.
        reference_size_3d, reference_size_2d: Network size that fits the reference memory.
        reference_batch_size_3d, reference_batch_size_2d: Batch size that the reference sizes correspond to.
        min_batch_size: Smallest batch size.
        fit_reference_batch: Shrink a patch until the reference batch fits, not just a batch of two. In 3D both are the
            same.
        max_dataset_fraction: Share of the dataset's voxels that one batch may cover.
        min_edge_length: Pooling makes no axis of a feature map shorter than this, in voxels.
        max_levels: Resolutions of the network at most; null does not limit them.
        strides: Stride on entering each level, finest first, along all axes; null pools by spacing and patch.
        kernel_size: Kernel along an axis, unless the axis is coarse and gets a kernel of 1.
        base_features: Feature maps of level 0; each further level has twice as many.
        max_features_3d, max_features_2d: Upper limit of feature maps.
        encoder_blocks: Convolutions (plain), residual blocks (residual) or other blocks of each encoder level, finest
            first.
        decoder_convs: Convolutions or blocks of each decoder level, coarsest first; an empty list takes the encoder's
            number at each level.
        anisotropy_threshold: Ratio of spacings, and of voxel counts, beyond which an axis counts as coarse.
        coarse_axis_percentile: Percentile over cases that gives the target spacing of a coarse axis.
        mask_threshold: Normalisation uses the non-zero mask if cropping leaves less than this share of voxels.
        lowres_threshold: A low-resolution configuration is tried if a full-resolution patch covers a smaller share of
            the median case.
        lowres_step: Factor by which its spacing grows until a patch covers enough.
        lowres_min_reduction: It is dropped unless it has fewer voxels by at least this factor.
        force_lowres: Make ``3d_lowres`` for every 3D dataset.
        resampling: ``spline``, ``torch``, ``torch_separate_z`` or ``none``.
        target_spacing: Full-resolution spacing in mm along z, y, x of the images; null lets the planner choose.
        suppress_transpose: Keep the images' axis order.
        overrides: Configuration → values that replace the planner's. An underscore may stand before the name, since a
            command line cannot contain keys that start with a digit.
    """

    plans_name: str = "nnUNetPlans"
    planner_name: str = "ExperimentPlanner"
    shared_data_name: str | None = None
    network: str = "plain_unet"
    network_options: dict[str, Any] = field(default_factory=dict)
    memory_target_gb: float = 8.0
    reference_memory_gb: float = 8.0
    reference_size_3d: int = 560_000_000
    reference_size_2d: int = 85_000_000
    reference_batch_size_3d: int = 2
    reference_batch_size_2d: int = 12
    min_batch_size: int = 2
    fit_reference_batch: bool = False
    max_dataset_fraction: float = 0.05
    min_edge_length: int = 4
    max_levels: int | None = None
    strides: list[int] | None = None
    kernel_size: int = 3
    base_features: int = 32
    max_features_3d: int = 320
    max_features_2d: int = 512
    encoder_blocks: list[int] = field(default_factory=lambda: [2] * 14)
    decoder_convs: list[int] = field(default_factory=lambda: [2] * 13)
    anisotropy_threshold: float = 3.0
    coarse_axis_percentile: float = 10.0
    mask_threshold: float = 0.75
    lowres_threshold: float = 0.25
    lowres_step: float = 1.03
    lowres_min_reduction: float = 2.0
    force_lowres: bool = False
    resampling: str = "spline"
    target_spacing: list[float] | None = None
    suppress_transpose: bool = False
    overrides: dict[str, ConfigurationOverride] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [*NETWORKS, *KINDS]
        if self.network not in known:
            raise SegflowError("unknown planner.network", found=repr(self.network), expected=", ".join(known))
        if self.network in KINDS:
            KINDS[self.network].check_names(self.network_options)
        elif self.network_options:
            raise SegflowError(
                f"planner.network={self.network} has no options",
                found=f"planner.network_options={self.network_options}",
            )
        if self.resampling not in RESAMPLING_CHOICES:
            raise SegflowError(
                "unknown planner.resampling", found=repr(self.resampling), expected=", ".join(RESAMPLING_CHOICES)
            )
        safe_name(self.plans_name, "planner.plans_name")
        if not self.encoder_blocks or 0 < len(self.decoder_convs) < len(self.encoder_blocks) - 1:
            raise SegflowError(
                "planner.decoder_convs must have at most one entry fewer than planner.encoder_blocks, or be empty",
                found=f"{len(self.decoder_convs)} and {len(self.encoder_blocks)}",
            )
        for name in ("min_batch_size", "min_edge_length", "base_features", "max_features_3d", "max_features_2d"):
            _at_least(name, getattr(self, name), 1)
        if self.max_levels is not None:
            _at_least("max_levels", self.max_levels, 1)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise SegflowError("planner.kernel_size must be an odd number", found=self.kernel_size)
        if self.strides is not None and (self.strides[:1] != [1] or min(self.strides) < 1):
            raise SegflowError(
                "planner.strides must have one number for each level, of which the first is 1", found=self.strides
            )
        for name in (
            "memory_target_gb",
            "reference_memory_gb",
            "reference_size_3d",
            "reference_size_2d",
            "reference_batch_size_3d",
            "reference_batch_size_2d",
            "max_dataset_fraction",
        ):
            _above(name, getattr(self, name), 0)
        _above("lowres_step", self.lowres_step, 1)
        if self.target_spacing is not None:
            self.target_spacing = [float(s) for s in self.target_spacing]
            if len(self.target_spacing) != 3 or not all(s > 0 for s in self.target_spacing):
                raise SegflowError(
                    "planner.target_spacing must be three positive numbers in mm",
                    found=self.target_spacing,
                    expected="[z, y, x]",
                )

    @property
    def budget_factor(self) -> float:
        """Ratio of the memory target to the reference memory."""
        return self.memory_target_gb / self.reference_memory_gb


def _at_least(name: str, value: float, limit: float) -> None:
    if not value >= limit:
        raise SegflowError(f"planner.{name} must be at least {limit}", found=value)


def _above(name: str, value: float, limit: float) -> None:
    if not value > limit:
        raise SegflowError(f"planner.{name} must be greater than {limit}", found=value)
