"""The shape of a network, and how nnU-Net's plans spell it (recipe 3.11, 8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.core.networks.kind import NetworkKind
from segflow.core.networks.known import KINDS

NETWORKS = {
    "plain_unet": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "residual_unet": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
}
"""Our name of a network → the class name in nnU-Net's plans. It is only text and never imported."""

OWN_CLASS = "segflow."
"""Begins the class names of our other networks in plans, such as ``segflow.mednext``. nnU-Net finds no such class."""

MOST_LEVELS, MOST_BLOCKS = 20, 500
"""Limits of a network: no plan comes near them, and a machine still builds such a network in a moment."""

LARGEST = {"features": 2**15, "kernels": 63, "strides": 2**10, "encoder": 500, "decoder": 500}
"""Largest value that plans may ask for, by kind."""


@dataclass(frozen=True, slots=True)
class NetworkTopology:
    """The shape of a network. Level 0 is the finest; spatial tuples follow the plan's axes (z, y, x) or (y, x).

    Attributes:
        network: ``plain_unet``, ``residual_unet``, or the name of one of `KINDS`.
        features: Feature maps of each level.
        kernel_sizes: Kernel of each level.
        strides: Stride on entering each level; all ones at level 0.
        encoder_blocks: Convolutions (plain), residual blocks (residual) or other blocks of each encoder level.
        decoder_convs: Convolutions or blocks of each decoder level, coarsest first; one entry fewer than levels.
        conv_bias: Whether convolutions have a bias.
        norm: ``instance`` or ``batch``.
        norm_eps: Number added to the variance.
        negative_slope: Slope of the leaky ReLU below 0.
        options: Options of one of `KINDS`: name → number, or a tuple of them. Such a network has layers of its own, so
            that ``conv_bias``, ``norm``, ``norm_eps`` and ``negative_slope`` have their defaults.
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
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        levels = len(self.features)
        if levels > MOST_LEVELS:
            raise SegflowError(
                "the network topology has too many levels", found=levels, expected=f"at most {MOST_LEVELS}"
            )
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
            if any(not 1 <= v <= LARGEST[name] or (name == "kernels" and v % 2 == 0) for v in values)
        }
        if wrong:
            raise SegflowError(
                "the network topology holds impossible numbers",
                found=wrong,
                expected=f"at least 1, odd kernels, and at most {LARGEST}",
            )
        if self.blocks > MOST_BLOCKS:
            raise SegflowError(
                "the network topology has too many blocks", found=self.blocks, expected=f"at most {MOST_BLOCKS}"
            )
        if not (math.isfinite(self.norm_eps) and math.isfinite(self.negative_slope)):
            raise SegflowError(
                "a value of the network topology is not a number", found=f"{self.norm_eps}, {self.negative_slope}"
            )
        self._check_network()

    def _check_network(self) -> None:
        if self.network not in (*NETWORKS, *KINDS):
            raise SegflowError(
                "unknown network in the plans", found=shortened(self.network), expected=sorted([*NETWORKS, *KINDS])
            )
        if self.kind is not None:
            layers = (self.conv_bias, self.norm, self.norm_eps, self.negative_slope)
            if layers != (True, "instance", 1e-5, 0.01):
                raise SegflowError(
                    f"the network '{self.network}' has a normalisation and an activation of its own",
                    found=f"conv_bias, norm, norm_eps, negative_slope = {layers}",
                    fix="Leave them out: network.norm=null.",
                )
            self.kind.check(self)
        elif self.options:
            raise SegflowError(f"the network '{self.network}' has no options", found=shortened(dict(self.options)))

    @property
    def kind(self) -> NetworkKind | None:
        """What is known of the network if it is none of nnU-Net's U-Nets."""
        return KINDS.get(self.network)

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.features)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.strides[0])

    @property
    def blocks(self) -> int:
        """Convolutions or residual blocks of encoder and decoder."""
        return sum(self.encoder_blocks) + sum(self.decoder_convs)

    def size(self, in_channels: int, out_channels: int) -> int:
        """Lower limit of the parameters of such a network's convolutions; a residual block has more than one."""
        if self.kind is not None:
            return self.kind.parameters(self, in_channels, out_channels)
        total, before = self.features[0] * out_channels, in_channels
        for width, kernel, count in zip(self.features, self.kernel_sizes, self.encoder_blocks, strict=True):
            total += math.prod(kernel) * width * (before + width * (count - 1))
            before = width
        for level, count in enumerate(reversed(self.decoder_convs)):
            width, below = self.features[level : level + 2]
            total += math.prod(self.strides[level + 1]) * below * width
            total += math.prod(self.kernel_sizes[level]) * width * width * (count + 1)
        return total

    @property
    def divisor(self) -> tuple[int, ...]:
        """Number by which each axis of a patch must be divisible: the product of all strides along it."""
        result = [1] * self.spatial_dims
        for stride in self.strides:
            result = [a * b for a, b in zip(result, stride, strict=True)]
        return tuple(result)

    def to_architecture(self) -> dict[str, Any]:
        """The value of the plans' key ``architecture``."""
        if self.kind is not None:
            return self._to_own_architecture()
        dims = self.spatial_dims
        norm = {"instance": "instancenorm.InstanceNorm", "batch": "batchnorm.BatchNorm"}[self.norm]
        nonlinearity: dict[str, Any] = {"inplace": True}
        if self.negative_slope != 0.01:  # torch's default, which nnU-Net does not write
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

    def _to_own_architecture(self) -> dict[str, Any]:
        return {
            "network_class_name": OWN_CLASS + self.network,
            "arch_kwargs": {
                "n_stages": self.levels,
                "features_per_stage": list(self.features),
                "kernel_sizes": [list(k) for k in self.kernel_sizes],
                "strides": [list(s) for s in self.strides],
                "n_blocks_per_stage": list(self.encoder_blocks),
                "n_blocks_per_stage_decoder": list(self.decoder_convs),
                **{name: list(v) if isinstance(v, tuple) else v for name, v in self.options.items()},
            },
            "_kw_requires_import": [],
        }

    @classmethod
    def from_architecture(cls, value: Mapping[str, Any]) -> NetworkTopology:
        """Inverse of `to_architecture`. Class names are looked up in a fixed list and never imported.

        Raises:
            SegflowError: The network, normalisation or activation is not one that segflow builds.
        """
        class_name = str(value.get("network_class_name", ""))
        if class_name.startswith(OWN_CLASS):
            return cls._from_own_architecture(class_name.removeprefix(OWN_CLASS), dict(value["arch_kwargs"]))
        network = next(
            (ours for ours, theirs in NETWORKS.items() if theirs.split(".")[-1] == class_name.split(".")[-1]), None
        )
        if network is None:
            raise SegflowError(
                "the plans name a network that segflow does not build",
                found=class_name,
                expected=[*NETWORKS.values(), *(OWN_CLASS + name for name in KINDS)],
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
        levels = index(kwargs["n_stages"])
        if not 1 <= levels <= MOST_LEVELS:
            raise SegflowError(
                "the network of the plans has an impossible number of stages",
                found=shortened(levels),
                expected=f"1 to {MOST_LEVELS}",
            )
        dims = 2 if str(kwargs.get("conv_op", "")).endswith("2d") else 3
        return cls(
            network=network,
            features=_whole(_per_level(kwargs["features_per_stage"], levels)),
            kernel_sizes=tuple(_spatial(k, dims) for k in _per_level(kwargs["kernel_sizes"], levels)),
            strides=tuple(_spatial(s, dims) for s in _per_level(kwargs["strides"], levels)),
            encoder_blocks=_whole(_per_level(blocks, levels)),
            decoder_convs=_whole(_per_level(kwargs["n_conv_per_stage_decoder"], levels - 1)),
            conv_bias=bool(kwargs.get("conv_bias", True)),
            norm=norm,
            norm_eps=float((kwargs.get("norm_op_kwargs") or {}).get("eps", 1e-5)),
            negative_slope=float((kwargs.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)),
        )

    @classmethod
    def _from_own_architecture(cls, network: str, kwargs: dict[str, Any]) -> NetworkTopology:
        kwargs.pop("n_stages", None)
        return cls(
            network=network,
            features=_whole(kwargs.pop("features_per_stage")),
            kernel_sizes=tuple(_whole(k) for k in kwargs.pop("kernel_sizes")),
            strides=tuple(_whole(s) for s in kwargs.pop("strides")),
            encoder_blocks=_whole(kwargs.pop("n_blocks_per_stage")),
            decoder_convs=_whole(kwargs.pop("n_blocks_per_stage_decoder")),
            options={str(name): tuple(v) if isinstance(v, list) else v for name, v in kwargs.items()},
        )


def architecture_of_old_plans(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value of ``architecture`` from a configuration of plans written before 2.4 (recipe 3.11).

    Such plans describe the network in other keys.

    Args:
        value: The configuration's JSON object.
    """
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


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    """One value for each level; nnU-Net also allows a single number for all."""
    return (value,) * levels if isinstance(value, int) else tuple(value)


def _spatial(value: Any, dims: int) -> tuple[int, ...]:
    return _whole((value,) * dims if isinstance(value, int) else value)


def _whole(values: Iterable[Any]) -> tuple[int, ...]:
    """The values as ints. Fractions are refused, since features and strides are counts."""
    return tuple(index(value) for value in values)
