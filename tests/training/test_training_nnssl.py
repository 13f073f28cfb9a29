"""Starting from an encoder that nnssl pretrained: what is taken, adapted, left and refused.

The files are made here, with the names that nnssl's networks give their tensors.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_toy import Toy, make_record

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.models.nnssl_checkpoint import PretrainedEncoder, encoder_of, read_pretrained_encoder
from segflow.models.nnunet_names import to_nnunet
from segflow.models.open_model import open_model
from segflow.network.build import build_network
from segflow.training.initial_weights import transfer_encoder

TOKENS = ("tokens_z", "tokens_y", "tokens_x")
PRIMUS = (
    (r"places", "eva.pos_embed"),
    (r"stem\.(.+)", r"down_projection.proj.\1"),
    (r"norm\.(.+)", r"eva.norm.\1"),
    (r"(blocks\.\d+)\.(norm[12]\..+)", r"eva.\1.\2"),
    (r"(blocks\.\d+)\.attention\.(query|key|value)\.(.+)", lambda m: f"eva.{m[1]}.attn.{m[2][0]}_proj.{m[3]}"),
    (r"(blocks\.\d+)\.attention\.norm\.(.+)", r"eva.\1.attn.norm.\2"),
    (r"(blocks\.\d+)\.attention\.project\.(.+)", r"eva.\1.attn.proj.\2"),
    (r"(blocks\.\d+)\.mlp\.gate\.(.+)", r"eva.\1.mlp.fc1_g.\2"),
    (r"(blocks\.\d+)\.mlp\.widen\.(.+)", r"eva.\1.mlp.fc1_x.\2"),
    (r"(blocks\.\d+)\.mlp\.norm\.(.+)", r"eva.\1.mlp.norm.\2"),
    (r"(blocks\.\d+)\.mlp\.narrow\.(.+)", r"eva.\1.mlp.fc2.\2"),
    (r"(blocks\.\d+)\.scale([12])", r"eva.\1.gamma_\2"),
)
"""Segflow's names of the tensors of a Primus → those of dynamic_network_architectures."""


def topology(features: tuple[int, ...] = (4, 8), kernel: tuple[int, ...] = (3, 3, 3)) -> NetworkTopology:
    base = make_record(features=features).plan.topology
    blocks = (1, 2, 2)[: len(features)]
    kernels = (kernel, *base.kernel_sizes[1:])
    return replace(base, network="residual_unet", encoder_blocks=blocks, kernel_sizes=kernels)


def residual_file(file: Path, channels: int = 1, name: str = "ResEncL", **plan: Any) -> dict[str, Tensor]:
    """Write a checkpoint like nnssl's. Returns its weights under segflow's names."""
    torch.manual_seed(7)
    network = build_network(topology(), channels, 1, False)
    weights = dict(network.state_dict())
    content = {
        "network_weights": to_nnunet(weights, topology()),
        "citations": ["somebody"],
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": name, "arch_kwargs": None, "arch_kwargs_requiring_import": None},
            "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [16, 16, 16]}}},
            "pretrain_num_input_channels": channels,
            "recommended_downstream_patchsize": [16, 16, 16],
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem",
            "keys_to_in_proj": ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"],
            "key_to_lpe": None,
            **plan,
        },
    }
    torch.save(content, file)
    return weights


def read(file: Path) -> PretrainedEncoder:
    encoder = read_pretrained_encoder(file)
    assert encoder is not None
    return encoder


def test_the_whole_encoder_is_taken_and_the_decoder_is_new(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    source = residual_file(file)
    network = build_network(topology(), 1, 3, False)
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    transfer = transfer_encoder(network, read(file), str(file), "residual_unet")
    encoder = [name for name in fresh if name.startswith("encoder.")]
    assert list(transfer.copied) == encoder
    for name, value in network.state_dict().items():
        assert torch.equal(value, source[name] if name in encoder else fresh[name])
    left = [line for line in transfer.skipped if "not a part of the encoder" in line]
    assert left
    assert all(line.startswith("decoder.") for line in left)


def test_input_channels_and_kernels_are_adapted(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    source = residual_file(file)
    network = build_network(topology(), 2, 3, False)
    transfer = transfer_encoder(network, read(file), str(file), "residual_unet")
    assert transfer.adapted == ("encoder.stem.conv.weight: 1 input channels became 2",)
    stem = network.state_dict()["encoder.stem.conv.weight"]
    torch.testing.assert_close(stem, source["encoder.stem.conv.weight"].expand_as(stem) / 2)
    flat = build_network(topology(kernel=(1, 3, 3)), 1, 3, False)
    transfer = transfer_encoder(flat, read(file), str(file), "residual_unet")
    name = "encoder.stages.0.0.conv1.conv.weight"
    assert f"{name}: a kernel of [3, 3, 3] became one of [1, 3, 3]" in transfer.adapted
    torch.testing.assert_close(flat.state_dict()[name], source[name].mean(dim=2, keepdim=True))


def test_a_level_that_the_encoder_lacks_stays_new_and_is_listed(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    residual_file(file)
    network = build_network(topology((4, 8, 8)), 1, 3, False)
    transfer = transfer_encoder(network, read(file), str(file), "residual_unet")
    assert "encoder.stages.2.0.conv1.conv.weight: the source has none" in transfer.skipped


def test_keys_in_the_file_say_where_the_encoder_stands(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    source = residual_file(file, key_to_encoder="net.body.stages", key_to_stem="net.body.stem")
    content = torch.load(file, weights_only=True)
    weights = content["network_weights"]
    content["network_weights"] = {name.replace("encoder.", "net.body."): value for name, value in weights.items()}
    encoder = encoder_of(content, "file")
    assert encoder.weights.keys() == {name for name in source if name.startswith("encoder.")}


def test_another_architecture_is_refused_with_what_would_fit(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    residual_file(file)
    plain = make_record().plan.topology
    with pytest.raises(SegflowError, match=r"ResEncL in .*a 'plain_unet' in the plans.*planner=resenc_l"):
        transfer_encoder(build_network(plain, 1, 3, False), read(file), str(file), "plain_unet")
    with pytest.raises(SegflowError, match=r"does not fit.*the source has \[4, .*planner=resenc_l"):
        transfer_encoder(build_network(topology((6, 10)), 1, 3, False), read(file), str(file), "residual_unet")
    residual_file(file, name="SwinUNETR")
    with pytest.raises(SegflowError, match=r"architecture that segflow does not build; found SwinUNETR.*PrimusM"):
        read_pretrained_encoder(file)


def primus(grid: tuple[int, int, int]) -> NetworkTopology:
    options = {"heads": 2, "drop_path": 0.0, "layer_scale": 0.1, **dict(zip(TOKENS, grid, strict=True))}
    return NetworkTopology("primus", (8, 12), ((1,) * 3,) * 2, ((1,) * 3, (8,) * 3), (1, 2), (1,), options=options)


def test_a_primus_of_another_patch_gets_its_places_resized():
    torch.manual_seed(3)
    source = build_network(primus((2, 2, 2)), 1, 2, False).state_dict()
    theirs = {}
    for name, value in source.items():
        for pattern, name_there in PRIMUS:
            if re.fullmatch(pattern, name):
                theirs[re.sub(pattern, name_there, name)] = value
    plan = {"architecture_plans": {"arch_class_name": "PrimusM"}, "pretrain_patch_size": [16, 16, 16]}
    encoder = encoder_of({"network_weights": theirs, "nnssl_adaptation_plan": plan}, "file")
    assert encoder.planner == "primus_m"
    network = build_network(primus((2, 4, 2)), 1, 2, False)
    transfer = transfer_encoder(network, encoder, "file", "primus")
    assert transfer.adapted == ("places: places of [2, 2, 2] tokens became [2, 4, 2]",)
    own = network.state_dict()
    places = source["places"].unflatten(1, (2, 2, 2)), own["places"].unflatten(1, (2, 4, 2))
    torch.testing.assert_close(places[0][:, :, 0], places[1][:, :, 0])  # at the borders they are equal
    kept = [name for name in own if not name.startswith(("decoder.", "heads.", "places"))]
    assert list(transfer.copied) == kept
    assert all(torch.equal(own[name], source[name]) for name in kept)
    another = build_network(primus((2, 3, 2)), 1, 2, False)
    strange = replace(encoder, patch_size=None)
    assert any(
        line.startswith("places: the source has")
        for line in transfer_encoder(another, strange, "file", "primus").skipped
    )


def test_a_file_without_the_encoder_it_names_is_refused(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    residual_file(file, key_to_encoder="backbone", key_to_stem="start")
    with pytest.raises(SegflowError, match=r"holds no encoder where it says; found 'backbone' and 'start'"):
        read_pretrained_encoder(file)


def test_a_pretrained_encoder_cannot_predict(tmp_path: Path):
    file = tmp_path / "checkpoint_final.pth"
    residual_file(file)
    with pytest.raises(SegflowError, match=r"which cannot predict.*training\.initial_weights="):
        open_model(file).read()


def test_a_training_lists_what_was_taken_and_goes_on(toy: Toy):
    file = toy.folder / "checkpoint_final.pth"
    residual_file(file)
    plans = toy.record.plans
    plan = {**plans.configurations["3d_fullres"], "architecture": topology().to_architecture()}
    record = replace(toy.record, plans=replace(plans, configurations={"3d_fullres": plan}))
    settings = {"initial_weights": str(file), "deep_supervision": False}
    assert toy.train(record=record, settings=settings, trainer={"max_epochs": 1}).finished
    noted = json.loads(toy.run().record_file.read_text())["initial_weights"]
    assert noted["source"] == str(file)
    assert "encoder.stem.conv.weight" in noted["copied"]
    assert any(line.startswith("heads.0.weight") for line in noted["skipped"])
    extended = {**settings, "extend": True}
    assert toy.train(record=record, settings=extended, trainer={"max_epochs": 2}).epochs == 2
