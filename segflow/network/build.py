"""Building a network by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.initialization import initialize
from segflow.network.plain_unet import PlainEncoder
from segflow.network.residual_unet import ResidualEncoder
from segflow.network.unet import UNet

ENCODERS: dict[str, Callable[[NetworkTopology, int], nn.Module]] = {
    "plain_unet": PlainEncoder,
    "residual_unet": ResidualEncoder,
}
"""Name of a U-Net in the plans → its encoder. The decoder is the same for all."""

SHIPPED: dict[str, str] = {
    "mednext": "segflow.network.mednext.MedNeXt",
    "primus": "segflow.network.primus.Primus",
    "segresnet": "segflow.network.segresnet.SegResNet",
    "swin_unetr": "segflow.network.swin_unetr.SwinUNETR",
}
"""Name of another network in the plans → what is called with (topology, in_channels, out_channels, deep_supervision,
memory_format). It is imported when such a network is built, since it may need a package that is not always there."""


def build_network(
    topology: NetworkTopology,
    in_channels: int,
    out_channels: int,
    deep_supervision: bool = True,
    *,
    norm: str | None = None,
    memory_format: str = "auto",
    planner: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network and draw its weights from torch's global generator; those of U-Nets as nnU-Net does (recipe 8).

    Args:
        topology: The topology in the plans, which names the network.
        in_channels: Channels of the image.
        out_channels: Channels of the logits, `Labels.num_outputs`.
        deep_supervision: Coarser levels give logits too. The attribute may be changed later.
        norm: ``instance`` or ``batch``; null takes the plans' normalisation.
        memory_format: ``channels_last``, ``contiguous``, or ``auto``, which means channels last on an accelerated CPU,
            else the format of the image; see `SegmentationNetwork`.
        planner: Constants of a planner, as in the group ``planner``. A training puts the network that they mean into
            the plans of its run, from which it is built; it changes nothing here.

    Returns:
        Module: image (B, in_channels, *patch) → list of logits (B, out_channels, *patch), finest first.

    Raises:
        SegflowError: An option has an unknown value, or a package is missing.
    """
    _check_choice("norm", norm, (None, "instance", "batch"))
    _check_choice("memory_format", memory_format, ("auto", "channels_last", "contiguous"))
    if norm is not None:
        topology = replace(topology, norm=norm)
    if topology.kind is not None:
        module, name = SHIPPED[topology.network].rsplit(".", 1)
        shipped: nn.Module = getattr(import_module(module), name)(
            topology, in_channels, out_channels, deep_supervision, memory_format
        )
        return shipped
    encoder = ENCODERS[topology.network](topology, in_channels)
    network = UNet(topology, encoder, out_channels, deep_supervision, memory_format)
    initialize(network, topology.negative_slope)
    return network


def _check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise SegflowError(f"network option '{option}' is unknown", found=repr(value), expected=list(choices))
