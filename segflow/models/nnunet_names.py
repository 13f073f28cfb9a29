"""Renaming of weights to nnU-Net's names, and back (recipe 8.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.core.wording import some

_CONV = ("weight", "bias")
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def to_nnunet(state: Mapping[str, Tensor], topology: NetworkTopology) -> dict[str, Tensor]:
    """Rename weights for nnU-Net, with all aliases that its strict loading requires.

    Args:
        state: ``state_dict()`` of a network from `build_network`.
        topology: The network's topology.

    Returns:
        nnU-Net's names → the same tensors; aliases share them.

    Raises:
        SegflowError: A weight of the topology is missing.
    """
    result: dict[str, Tensor] = {}
    for ours, theirs in _names(topology):
        if ours in state:
            result.update((name, state[ours]) for name in theirs)
        elif _is_required(ours, topology):
            raise SegflowError("the network's weights are incomplete", found=f"no '{ours}'")
    return result


def from_nnunet(state: Mapping[str, Tensor], topology: NetworkTopology) -> dict[str, Tensor]:
    """Rename weights of nnU-Net for `build_network`. Wrappers' prefixes are dropped and aliases ignored.

    Args:
        state: ``network_weights`` of an nnU-Net v2 checkpoint.
        topology: The topology of its plans.

    Returns:
        A state dict that fits the network of this topology exactly.

    Raises:
        SegflowError: A weight is missing, or the topology has no place for one.
    """
    plain = {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in state.items()}
    result: dict[str, Tensor] = {}
    known: set[str] = set()
    for ours, theirs in _names(topology):
        known.update(theirs)
        if theirs[0] in plain:
            result[ours] = plain[theirs[0]]
        elif _is_required(ours, topology):
            raise SegflowError(
                "the nnU-Net weights do not fit the plans",
                found=f"no '{theirs[0]}'",
                fix="Use the plans.json of the same model folder.",
            )
    unknown = [name for name in plain if name not in known]
    if unknown:
        raise SegflowError(
            "the nnU-Net weights hold more than the plans describe",
            found=some(unknown, 3),
            fix="Use the plans.json of the same model folder.",
        )
    return result


def _is_required(ours: str, topology: NetworkTopology) -> bool:
    if ".norm." in ours:
        return topology.norm == "batch" or ours.endswith((".weight", ".bias"))
    if ours.endswith(".bias"):
        return (topology.conv_bias and ".shortcut." not in ours) or ours.startswith("heads.")
    return True


def _names(topology: NetworkTopology) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Segflow's name of every possible tensor, with nnU-Net's names for it, the plain one first."""
    for ours, theirs in _encoder_blocks(topology):
        # nnU-Net's decoder holds the encoder, so the encoder's weights appear twice.
        yield from _block(ours, (theirs, f"decoder.{theirs}"))
    for stage, count in enumerate(topology.decoder_convs):
        for block in range(count):
            yield from _block(f"decoder.{stage}.stack.blocks.{block}", (f"decoder.stages.{stage}.convs.{block}",))
        for name in _CONV:
            yield f"decoder.{stage}.up.{name}", (f"decoder.transpconvs.{stage}.{name}",)
            yield f"heads.{stage}.{name}", (f"decoder.seg_layers.{stage}.{name}",)


def _encoder_blocks(topology: NetworkTopology) -> Iterator[tuple[str, str]]:
    """Segflow's and nnU-Net's prefix of every convolution block of the encoder."""
    if topology.network == "plain_unet":
        for level, count in enumerate(topology.encoder_blocks):
            for block in range(count):
                yield f"encoder.stages.{level}.blocks.{block}", f"encoder.stages.{level}.0.convs.{block}"
        return
    yield "encoder.stem", "encoder.stem.convs.0"
    features = topology.features[0]
    for level, count in enumerate(topology.encoder_blocks):
        for block in range(count):
            ours, theirs = f"encoder.stages.{level}.{block}", f"encoder.stages.{level}.blocks.{block}"
            yield f"{ours}.conv1", f"{theirs}.conv1"
            yield f"{ours}.conv2", f"{theirs}.conv2"
            if features != topology.features[level]:
                pooled = any(n != 1 for n in topology.strides[level])  # a pooling takes index 0 if there is one
                yield f"{ours}.shortcut", f"{theirs}.skip.{int(pooled)}"
            features = topology.features[level]


def _block(ours: str, prefixes: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The tensors of one convolution block. nnU-Net registers its convolution and norm twice."""
    for part, index, names in (("conv", 0, _CONV), ("norm", 1, _NORM)):
        for name in names:
            aliases = [(f"{p}.{part}.{name}", f"{p}.all_modules.{index}.{name}") for p in prefixes]
            yield f"{ours}.{part}.{name}", tuple(alias for pair in aliases for alias in pair)
