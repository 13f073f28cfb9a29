"""Building a network by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

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
"""Name of a network in the plans → its encoder. The decoder is the same for all."""


def build_network(
    topology: NetworkTopology,
    in_channels: int,
    out_channels: int,
    deep_supervision: bool = True,
    *,
    norm: str | None = None,
    memory_format: str = "auto",
) -> UNet:
    """Build a network and draw its weights from torch's global generator, as nnU-Net does (recipe 8).

    Args:
        topology: What the plans say; its ``network`` names the encoder.
        in_channels: Channels of the image.
        out_channels: Channels of the logits, `Labels.num_outputs`.
        deep_supervision: Whether coarser levels give logits too; may be switched later by the attribute.
        norm: ``instance`` or ``batch`` in place of the plans' normalisation.
        memory_format: ``channels_last``, ``contiguous``, or ``auto``: channels last where the network is accelerated
            on a CPU, else as the image comes; see `UNet`.

    Returns:
        Module: image (B, in_channels, *patch) → list of logits (B, out_channels, *patch), finest first.

    Raises:
        SegflowError: An option is not one of the above.
    """
    if topology.network not in ENCODERS:
        raise SegflowError("unknown network", found=topology.network, expected=sorted(ENCODERS))
    _check_choice("norm", norm, (None, "instance", "batch"))
    _check_choice("memory_format", memory_format, ("auto", "channels_last", "contiguous"))
    if norm is not None:
        topology = replace(topology, norm=norm)
    encoder = ENCODERS[topology.network](topology, in_channels)
    network = UNet(topology, encoder, out_channels, deep_supervision, memory_format)
    initialize(network, topology.negative_slope)
    return network


def _check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise SegflowError(f"network option '{option}' is unknown", found=repr(value), expected=list(choices))
