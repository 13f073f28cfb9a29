"""What the planner decides, with nnU-Net v2's keys (recipe 3.11)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities, intensities_from_json, intensities_to_json

Options = Mapping[str, Any]

NETWORKS = {
    "plain_unet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "residual_unet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
"""Our name of a network → the class name that nnU-Net's plans carry. Only text: nothing is imported by it."""


@dataclass(frozen=True, slots=True)
class NetworkTopology:
    """The shape of a U-Net. Level 0 is the finest; spatial tuples follow the plan's axes (z, y, x) or (y, x).

    Attributes:
        network: ``plain_unet`` or ``residual_unet``.
        features: Feature maps of each level.
        kernel_sizes: Kernel of each level.
        strides: Stride on entering each level; all ones at level 0.
        encoder_blocks: Convolutions (plain) or residual blocks (residual) of each encoder level.
        decoder_convs: Convolutions of each decoder level, coarsest first; one entry fewer than levels.
        conv_bias: Whether convolutions have a bias.
        norm: ``instance`` or ``batch``.
        norm_eps: Added to the variance.
        negative_slope: Of the leaky ReLU.
    """

    network: str
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    encoder_blocks: tuple[int, ...]
    decoder_convs: tuple[int, ...]
    conv_bias: bool = True
    norm: str = "instance"
    norm_eps: float = 1e-5
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        levels = len(self.features)
        lengths = (len(self.kernel_sizes), len(self.strides), len(self.encoder_blocks), len(self.decoder_convs) + 1)
        if levels < 1 or any(length != levels for length in lengths):
            raise SegflowError(
                "the network topology does not fit together",
                found=f"{levels} feature entries, {lengths[0]} kernels, {lengths[1]} strides, {lengths[2]} encoder "
                f"levels, {lengths[3] - 1} decoder levels",
                expected="as many kernels, strides and encoder levels as features, and one decoder level fewer",
            )
        if len({len(v) for v in (*self.kernel_sizes, *self.strides)}) != 1 or self.spatial_dims not in (2, 3):
            raise SegflowError(
                "kernels and strides of the topology must all have 2 or all 3 entries",
                found=[list(v) for v in (*self.kernel_sizes, *self.strides)],
            )
        numbers = {"features": self.features, "encoder": self.encoder_blocks, "decoder": self.decoder_convs}
        numbers |= {"strides": sum(self.strides, ()), "kernels": sum(self.kernel_sizes, ())}
        wrong = {
            name: list(values)
            for name, values in numbers.items()
            if any(v < 1 or (name == "kernels" and v % 2 == 0) for v in values)
        }
        if wrong:
            raise SegflowError(
                "the network topology holds impossible numbers", found=wrong, expected="at least 1, and odd kernels"
            )
        if self.network not in NETWORKS:
            raise SegflowError("unknown network in the plans", found=self.network, expected=sorted(NETWORKS))

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.features)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def divisor(self) -> tuple[int, ...]:
        """What each axis of a patch must be divisible by: the product of all strides along it."""
        result = [1] * self.spatial_dims
        for stride in self.strides:
            result = [a * b for a, b in zip(result, stride, strict=True)]
        return tuple(result)

    def to_architecture(self) -> dict[str, Any]:
        """The value of the plans' key ``architecture``."""
        dims = self.spatial_dims
        norm = {"instance": "instancenorm.InstanceNorm", "batch": "batchnorm.BatchNorm"}[self.norm]
        nonlinearity: dict[str, Any] = {"inplace": True}
        if self.negative_slope != 0.01:  # torch's default, which nnU-Net leaves unsaid
            nonlinearity = {"negative_slope": self.negative_slope, "inplace": True}
        blocks = "n_conv_per_stage" if self.network == "plain_unet" else "n_blocks_per_stage"
        return {
            "network_class_name": NETWORKS[self.network],
            "arch_kwargs": {
                "n_stages": self.levels,
                "features_per_stage": list(self.features),
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": [list(k) for k in self.kernel_sizes],
                "strides": [list(s) for s in self.strides],
                blocks: list(self.encoder_blocks),
                "n_conv_per_stage_decoder": list(self.decoder_convs),
                "conv_bias": self.conv_bias,
                "norm_op": f"torch.nn.modules.{norm}{dims}d",
                "norm_op_kwargs": {"eps": self.norm_eps, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": nonlinearity,
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    @classmethod
    def from_architecture(cls, value: Options) -> NetworkTopology:
        """Inverse of `to_architecture`. Names of classes are looked up in a list of ours and never imported.

        Raises:
            SegflowError: The network, normalisation or activation is not one that segflow builds.
        """
        class_name = str(value.get("network_class_name", ""))
        network = next(
            (ours for ours, theirs in NETWORKS.items() if theirs.split(".")[-1] == class_name.split(".")[-1]), None
        )
        if network is None:
            raise SegflowError(
                "the plans name a network that segflow does not build",
                found=class_name,
                expected=list(NETWORKS.values()),
            )
        kwargs = dict(value["arch_kwargs"])
        blocks = kwargs.get("n_conv_per_stage", kwargs.get("n_blocks_per_stage"))
        norm_name = str(kwargs.get("norm_op", "")).split(".")[-1]
        norm = next((ours for ours in ("instance", "batch") if norm_name.lower().startswith(ours)), None)
        if norm is None or kwargs.get("dropout_op") is not None or not str(kwargs.get("nonlin")).endswith("LeakyReLU"):
            raise SegflowError(
                "the plans ask for layers that segflow does not build",
                found={key: kwargs.get(key) for key in ("norm_op", "dropout_op", "nonlin")},
                expected="InstanceNorm or BatchNorm, no dropout, LeakyReLU",
            )
        levels = int(kwargs["n_stages"])
        dims = 2 if str(kwargs.get("conv_op", "")).endswith("2d") else 3
        return cls(
            network=network,
            features=_per_level(kwargs["features_per_stage"], levels),
            kernel_sizes=tuple(_spatial(k, dims) for k in _per_level(kwargs["kernel_sizes"], levels)),
            strides=tuple(_spatial(s, dims) for s in _per_level(kwargs["strides"], levels)),
            encoder_blocks=_per_level(blocks, levels),
            decoder_convs=_per_level(kwargs["n_conv_per_stage_decoder"], levels - 1),
            conv_bias=bool(kwargs.get("conv_bias", True)),
            norm=norm,
            norm_eps=float((kwargs.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
            negative_slope=float((kwargs.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        )


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """nnU-Net allows one number for all levels."""
    return (value,) * levels if isinstance(value, int) else tuple(value)


def _spatial(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(int(v) for v in value)


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
                fix=f"The nearest are {below} and {above}.",
            )
        if self.batch_size < 1:
            raise SegflowError(f"configuration '{self.name}': batch_size must be at least 1", found=self.batch_size)
        if any(not s > 0 for s in self.spacing):
            raise SegflowError(f"configuration '{self.name}': spacing must be positive", found=list(self.spacing))

    @classmethod
    def from_json(cls, name: str, value: Options) -> ConfigurationPlan:
        """Build from a resolved object of the plans' ``configurations``.

        Raises:
            SegflowError: A key is missing or cannot be used.
        """
        if "architecture" not in value and "UNet_class_name" in value:
            value = {**value, "architecture": _architecture_of_old_plans(value)}
        try:
            topology = NetworkTopology.from_architecture(value["architecture"])
            following = value.get("next_stage") or ()
            return cls(
                name=name,
                data_identifier=str(value["data_identifier"]),
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
        except (TypeError, ValueError, AttributeError) as error:
            raise SegflowError(
                f"configuration '{name}' of the plans holds a value that cannot be used: {error}",
                fix="Correct what was edited, or plan anew: segflow plan",
            ) from error


def _resampling(value: Options, kind: str) -> ResamplingPlan:
    return ResamplingPlan(str(value[f"resampling_fn_{kind}"]), dict(value[f"resampling_fn_{kind}_kwargs"]))


def _architecture_of_old_plans(value: Options) -> dict[str, Any]:
    """Plans written before 2.4 spell the network out in keys of their own (recipe 3.11)."""
    pool = value["pool_op_kernel_sizes"]
    levels, dims = len(pool), len(value["patch_size"])
    base, most = int(value["UNet_base_num_features"]), int(value["unet_max_num_features"])
    residual = str(value["UNet_class_name"]).startswith("Residual")
    return {
        "network_class_name": str(value["UNet_class_name"]),
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": [min(base * 2**level, most) for level in range(levels)],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": value["conv_kernel_sizes"],
            "strides": pool,
            "n_blocks_per_stage" if residual else "n_conv_per_stage": value["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": value["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans of a dataset.

    Attributes:
        dataset_name: Such as ``Dataset004_Hippocampus``.
        plans_name: Name of the plans file, without its ending.
        median_spacing: Median over cases in mm, plan axes.
        median_shape: Median over cases in voxels, plan axes.
        reader: nnU-Net's name of the reader and writer of images.
        axis_order: Permutation from image axes (z, y, x) to plan axes, coarsest first.
        intensities: Foreground statistics, one entry per channel.
        configurations: Name → JSON object, inheritance unresolved, in written order.
        planner: nnU-Net's name of the planner.
        label_manager: nnU-Net's name of the label rules.
        extra: Keys of other tools and of our own, kept as they came.
    """

    dataset_name: str
    plans_name: str
    median_spacing: tuple[float, ...]
    median_shape: tuple[int, ...]
    reader: str
    axis_order: tuple[int, ...]
    intensities: tuple[ChannelIntensities, ...]
    configurations: Mapping[str, Options]
    planner: str = "ExperimentPlanner"
    label_manager: str = "LabelManager"
    extra: Options = field(default_factory=dict)

    def configuration(self, name: str) -> ConfigurationPlan:
        """The configuration of this name, with ``inherits_from`` resolved.

        Raises:
            SegflowError: There is none of this name, or inheritance runs in a circle.
        """
        return ConfigurationPlan.from_json(name, self._resolve(name, ()))

    def _resolve(self, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
        if name not in self.configurations:
            raise SegflowError(
                f"the plans '{self.plans_name}' of {self.dataset_name} have no configuration '{name}'",
                expected=list(self.configurations),
                fix="`segflow plan` says why a configuration was not made.",
            )
        if name in seen:
            raise SegflowError("configurations inherit from each other in a circle", found=" → ".join((*seen, name)))
        own = copy.deepcopy(dict(self.configurations[name]))
        parent = own.pop("inherits_from", None)
        return own if parent is None else {**self._resolve(str(parent), (*seen, name)), **own}

    def to_json(self) -> dict[str, Any]:
        """The content of the plans file, keys in nnU-Net's order."""
        order = [int(axis) for axis in self.axis_order]
        return {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "original_median_spacing_after_transp": list(self.median_spacing),
            "original_median_shape_after_transp": list(self.median_shape),
            "image_reader_writer": self.reader,
            "transpose_forward": order,
            "transpose_backward": [order.index(axis) for axis in range(len(order))],
            "configurations": copy.deepcopy({name: dict(value) for name, value in self.configurations.items()}),
            "experiment_planner_used": self.planner,
            "label_manager": self.label_manager,
            "foreground_intensity_properties_per_channel": intensities_to_json(self.intensities),
            **copy.deepcopy(dict(self.extra)),
        }

    @classmethod
    def from_json(cls, value: Options) -> Plans:
        """Inverse of `to_json`; also reads nnU-Net's own plans.

        Raises:
            SegflowError: A key is missing.
        """
        rest = dict(value)
        try:
            channels = rest.pop("foreground_intensity_properties_per_channel", None)
            if channels is None:  # the name in plans of early 2.x releases
                channels = rest.pop("foreground_intensity_properties_by_modality")
            rest.pop("transpose_backward", None)
            return cls(
                dataset_name=str(rest.pop("dataset_name")),
                plans_name=str(rest.pop("plans_name")),
                median_spacing=tuple(float(s) for s in rest.pop("original_median_spacing_after_transp")),
                median_shape=tuple(int(n) for n in rest.pop("original_median_shape_after_transp")),
                reader=str(rest.pop("image_reader_writer")),
                axis_order=tuple(int(axis) for axis in rest.pop("transpose_forward")),
                intensities=intensities_from_json(channels),
                configurations=copy.deepcopy(dict(rest.pop("configurations"))),
                planner=str(rest.pop("experiment_planner_used", "ExperimentPlanner")),
                label_manager=str(rest.pop("label_manager", "LabelManager")),
                extra=copy.deepcopy(rest),
            )
        except KeyError as missing:
            raise SegflowError(f"the plans lack the key {missing}", found=sorted(value)) from None
