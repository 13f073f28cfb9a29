"""Replacement of a network's layers by faster ones for a CPU in float32, and back."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from segflow.network.blocks import ConvBlock
from segflow.network.cpu import layers
from segflow.network.memory_format import CHANNELS_LAST
from segflow.network.norms import InstanceNorm2d, InstanceNorm3d
from segflow.network.segmentation_network import SegmentationNetwork
from segflow.network.unet import UNet

_QUICK: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: layers.QuickConv2d,
    nn.Conv3d: layers.QuickConv3d,
    nn.ConvTranspose2d: layers.QuickConvTranspose2d,
    nn.ConvTranspose3d: layers.QuickConvTranspose3d,
    nn.AvgPool2d: layers.QuickAvgPool2d,
    nn.AvgPool3d: layers.QuickAvgPool3d,
    nn.InstanceNorm2d: layers.QuickInstanceNorm2d,
    nn.InstanceNorm3d: layers.QuickInstanceNorm3d,
    InstanceNorm2d: layers.QuickUnviewedInstanceNorm2d,
    InstanceNorm3d: layers.QuickUnviewedInstanceNorm3d,
    nn.Sequential: layers.QuickSequential,
    ConvBlock: layers.QuickConvBlock,
    UNet: layers.ChannelsLastUNet,
}
_QUICK_HEADS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: layers.PointwiseConv2d,
    nn.Conv3d: layers.PointwiseConv3d,
}
_TORCH = {quick: own for table in (_QUICK, _QUICK_HEADS) for own, quick in table.items()}


def accelerate(network: nn.Module) -> nn.Module:
    """Replace layers by faster ones with equal results within float32, and with the same parameters and names.

    Call it for a network that is about to run on a CPU. Parameters, their names, buffers, hooks and modes stay the
    same; each layer only gets another class. Layers of exactly torch's class are replaced, in a user's own network
    too. Subclasses, parametrized layers and compiled modules are left alone. In other types than float32, on other
    devices, under autocast, compiled, traced or exported, the faster layers compute as torch's own.

    A `UNet` with ``memory_format`` ``auto`` converts its image to channels-last memory. Other networks keep its format.
    The faster layers have no second derivatives.

    Args:
        network: The network, changed in place. It may already be accelerated.

    Returns:
        The network.
    """
    heads = {head for module in _modules(network) if isinstance(module, SegmentationNetwork) for head in module.heads}
    for module in _modules(network):
        quick = (_QUICK_HEADS if module in heads else _QUICK).get(type(module))
        if quick is not None and "forward" not in vars(module):
            module.__class__ = quick
    return network


def order_weights(network: nn.Module) -> nn.Module:
    """Keep the kernels of an accelerated network in channels-last memory, into which every pass would copy them.

    Call it for a network that only predicts: in a training, gradients and the optimiser's state would follow.

    Args:
        network: The network, changed in place. Its values stay the same.

    Returns:
        The network.
    """
    for module in _modules(network):
        if isinstance(module, (layers.QuickConv2d, layers.QuickConv3d)):
            weight = module.weight
            weight.data = weight.data.contiguous(memory_format=CHANNELS_LAST[weight.ndim])
    return network


def to_torch_layers(network: nn.Module) -> nn.Module:
    """The inverse of `accelerate`: give every layer torch's class again, for an export or another device.

    Args:
        network: The network, changed in place. It need not be accelerated.

    Returns:
        The network.
    """
    for module in _modules(network):
        module.__class__ = _TORCH.get(type(module), type(module))
    return network


def _modules(network: nn.Module) -> Iterator[nn.Module]:
    """The network and its modules, without compiled ones, since the compiler has seen torch's layers."""
    if hasattr(network, "_orig_mod") or getattr(network, "_compiled_call_impl", None) is not None:
        return
    yield network
    for child in network.children():
        yield from _modules(child)
