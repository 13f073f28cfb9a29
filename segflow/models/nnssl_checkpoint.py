"""Reading of encoders that nnssl pretrained without labels (recipe 14.4), without nnssl."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.models.nnunet_checkpoint import HARMLESS_GLOBALS
from segflow.models.tensor_files import plain_weights, read_tensors, without_wrappers

ADAPTATION = "nnssl_adaptation_plan"
"""What tells a checkpoint of nnssl from one of nnU-Net."""
WEIGHTS = "network_weights"
ENDINGS = (".pth", ".pt", ".ckpt")

_KEYS = {
    "residual_unet": ("encoder.stages", "encoder.stem", None),
    "primus": ("eva", "down_projection", "eva.pos_embed"),
}
"""Our name of a network → where encoder, stem and learnt places stand, unless the file says otherwise."""

_PRIMUS = {
    "attn.q_proj": "attention.query",
    "attn.k_proj": "attention.key",
    "attn.v_proj": "attention.value",
    "attn.norm": "attention.norm",
    "attn.proj": "attention.project",
    "mlp.fc1_g": "mlp.gate",
    "mlp.fc1_x": "mlp.widen",
    "mlp.norm": "mlp.norm",
    "mlp.fc2": "mlp.narrow",
    "norm1": "norm1",
    "norm2": "norm2",
}
_SCALES = {"gamma_1": "scale1", "gamma_2": "scale2"}


@dataclass(frozen=True, slots=True)
class PretrainedEncoder:
    """The encoder in a checkpoint of nnssl.

    Attributes:
        architecture: Its name there, such as ``ResEncL`` or ``PrimusM``.
        network: Segflow's name of such a network: ``residual_unet`` or ``primus``.
        weights: Tensors by the names that they have in a network of segflow.
        left: Names in the file of tensors that have no such name, such as those of a decoder.
        patch_size: Patch of the pretraining in voxels (z, y, x); None if the file does not say.
    """

    architecture: str
    network: str
    weights: Mapping[str, Tensor]
    left: tuple[str, ...]
    patch_size: tuple[int, ...] | None

    @property
    def planner(self) -> str:
        """The planner that plans such a network."""
        size = re.search(r"([SBML])$", self.architecture)
        letter = size[1].lower() if size else "l"
        return f"primus_{letter}" if self.network == "primus" else f"resenc_{letter if letter in 'ml' else 'l'}"


def read_pretrained_encoder(file: Path) -> PretrainedEncoder | None:
    """Read the encoder of a checkpoint of nnssl; None if the file is none.

    Raises:
        SegflowError: The file cannot be read, would run code, or holds an architecture that segflow does not build.
    """
    if not file.is_file() or file.suffix not in ENDINGS:
        return None
    content = read_tensors(file, str(file), HARMLESS_GLOBALS)
    return encoder_of(content, str(file)) if ADAPTATION in content else None


def encoder_of(content: Mapping[str, Any], name: str) -> PretrainedEncoder:
    """The encoder in the content of a checkpoint of nnssl.

    Args:
        content: Content of the file.
        name: Its name in messages.

    Raises:
        SegflowError: It holds an architecture that segflow does not build, or no encoder where the file says.
    """
    plan = content[ADAPTATION]
    if not isinstance(plan, Mapping) or WEIGHTS not in content:
        raise SegflowError(f"{name} is no checkpoint of nnssl", found=shortened(list(content)), expected=WEIGHTS)
    architecture, network = _architecture(plan, name)
    encoder, stem, places = (
        str(plan.get(key) or own)
        for key, own in zip(("key_to_encoder", "key_to_stem", "key_to_lpe"), _KEYS[network], strict=True)
    )
    rename = _residual_name if network == "residual_unet" else _primus_name
    weights: dict[str, Tensor] = {}
    left = []
    for theirs, tensor in without_wrappers(plain_weights(content[WEIGHTS], name)).items():
        part = "places" if theirs == places else _below(theirs, stem, "stem.") or _below(theirs, encoder, "encoder.")
        ours = None if part is None else rename(part)
        if ours is not None:
            weights[ours] = tensor
        elif ".all_modules." not in theirs and not theirs.startswith("decoder.encoder."):  # second names of tensors
            left.append(theirs)
    if not weights:
        raise SegflowError(
            f"{name} holds no encoder where it says",
            found=f"'{encoder}' and '{stem}', and tensors such as {shortened(list(content[WEIGHTS])[:3])}",
        )
    return PretrainedEncoder(architecture, network, weights, tuple(left), _patch_size(plan))


def _architecture(plan: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Its name, and segflow's name of such a network."""
    described = plan.get("architecture_plans")
    architecture = str(described.get("arch_class_name") if isinstance(described, Mapping) else described)[:60]
    if re.search(r"ResEnc|ResidualEncoder", architecture):
        return architecture, "residual_unet"
    if re.fullmatch(r"Primus[SBML]?", architecture):
        return architecture, "primus"
    raise SegflowError(
        f"{name} holds an encoder of an architecture that segflow does not build",
        found=architecture,
        expected="ResEncL | PrimusS | PrimusB | PrimusM | PrimusL",
    )


def _patch_size(plan: Mapping[str, Any]) -> tuple[int, ...] | None:
    found = plan.get("pretrain_patch_size")
    pretraining = plan.get("pretrain_plan")
    configurations = pretraining.get("configurations") if isinstance(pretraining, Mapping) else None
    if found is None and isinstance(configurations, Mapping) and configurations:
        first = next(iter(configurations.values()))
        found = first.get("patch_size") if isinstance(first, Mapping) else None
    valid = isinstance(found, (list, tuple)) and len(found) == 3 and all(isinstance(n, int) and n > 0 for n in found)
    return tuple(found) if valid and found is not None else None


def _below(name: str, key: str, part: str) -> str | None:
    """The rest of a name below a key, behind the name of the part."""
    return part + name.removeprefix(f"{key}.") if name.startswith(f"{key}.") else None


def _residual_name(part: str) -> str | None:
    """Segflow's name of a tensor of a residual encoder; None if it has none."""
    part = part.replace("encoder.stem.", "stem.").replace("encoder.stages.", "encoder.")
    if found := re.fullmatch(r"stem\.convs\.0\.((?:conv|norm)\.\w+)", part):
        return f"encoder.stem.{found[1]}"
    pattern = r"encoder\.(\d+)\.blocks\.(\d+)\.(conv1|conv2|skip\.[01])\.((?:conv|norm)\.\w+)"
    if not (found := re.fullmatch(pattern, part)):
        return None
    layer = "shortcut" if found[3].startswith("skip") else found[3]
    return f"encoder.stages.{found[1]}.{found[2]}.{layer}.{found[4]}"


def _primus_name(part: str) -> str | None:
    """Segflow's name of a tensor of a Primus; None if it has none."""
    if part == "places":
        return part
    if found := re.fullmatch(r"stem\.proj\.(weight|bias)", part):
        return f"stem.{found[1]}"
    if found := re.fullmatch(r"encoder\.norm\.(weight|bias)", part):
        return f"norm.{found[1]}"
    if not (found := re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", part)):
        return None
    block, layer = found[1], found[2]
    if layer in _SCALES:
        return f"blocks.{block}.{_SCALES[layer]}"
    name, _, kind = layer.rpartition(".")
    return f"blocks.{block}.{_PRIMUS[name]}.{kind}" if name in _PRIMUS else None
