"""Models from anywhere: sizes are held against the weights, zips unpack to no more than they are, and nothing else."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle
from segflow.inference.load_model import load_model
from segflow.inference.predictor import Predictor
from segflow.models.bundle_file import is_bundle, read_bundle
from segflow.models.nnunet_checkpoint import read_nnunet_weights
from segflow.models.nnunet_model import is_nnunet_model, read_nnunet_model
from segflow.models.tensor_files import read_tensors

Edit = Callable[[dict[str, Any], dict[str, Any]], Any]

SIZES: dict[str, Edit] = {
    "features": lambda plan, net: net.update(features_per_stage=[10**9, 8]),
    "features that a network may have": lambda plan, net: net.update(features_per_stage=[2**15, 2**15]),
    "convolutions": lambda plan, net: net.update(n_conv_per_stage=[10**6, 1]),
    "convolutions that a network may have": lambda plan, net: net.update(n_conv_per_stage=[500, 500]),
    "convolutions of the decoder": lambda plan, net: net.update(n_conv_per_stage_decoder=[10**6]),
    "stages": lambda plan, net: net.update(n_stages=10**9),
    "stages for all": lambda plan, net: net.update(n_stages=10**7, features_per_stage=8, kernel_sizes=3, strides=1),
    "kernels": lambda plan, net: net.update(kernel_sizes=[[9999999] * 3, [3] * 3]),
    "strides": lambda plan, net: net.update(strides=[[1] * 3, [10**9] * 3]),
    "a patch": lambda plan, net: plan.update(patch_size=[10**9] * 3),
    "a patch that an axis may have": lambda plan, net: plan.update(patch_size=[2**15] * 3),
    "many axes": lambda plan, net: plan.update(patch_size=[16] * 10**5),
    "infinity": lambda plan, net: plan.update(patch_size=[float("inf")] * 3),
    "no number": lambda plan, net: plan.update(spacing=[float("nan")] * 3),
    "infinite spacing": lambda plan, net: plan.update(spacing=[float("inf")] * 3),
    "a batch": lambda plan, net: plan.update(batch_size=10**12),
    "a fraction": lambda plan, net: net.update(features_per_stage=[4.5, 8]),
    "an infinite slope": lambda plan, net: net.update(nonlin_kwargs={"negative_slope": float("inf")}),
}


def edited(content: dict[str, Any], edit: Edit) -> None:
    plan = content["plans"]["configurations"]["3d_fullres"]
    edit(plan, plan["architecture"]["arch_kwargs"])


def with_manifest(bundle: Path, target: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry == "bundle.json":
                manifest = json.loads(content)
                edit(manifest)
                content = json.dumps(manifest).encode()
            new.writestr(entry, content)
    return target


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return export_bundle(tiny_models.make_run(folder), folder / "model.segflow")


@pytest.mark.parametrize("edit", SIZES.values(), ids=SIZES)
def test_a_bundle_asks_for_no_more_than_its_weights(tmp_path: Path, bundle: Path, edit: Edit) -> None:
    def hostile(manifest: dict[str, Any]) -> None:
        edited(manifest["models"]["3d_fullres"]["record"], edit)

    with pytest.raises(SegflowError):
        Predictor.load(with_manifest(bundle, tmp_path / "hostile", hostile), device="cpu")


@pytest.mark.parametrize("edit", SIZES.values(), ids=SIZES)
def test_a_run_asks_for_no_more_than_its_weights(tmp_path: Path, edit: Edit) -> None:
    run = tiny_models.make_run(tmp_path)
    file = run / "fold_0" / "run.json"
    content = json.loads(file.read_text())
    edited(content, edit)
    file.write_text(json.dumps(content))
    with pytest.raises(SegflowError):
        Predictor.load(run, device="cpu")


@pytest.mark.parametrize(
    ("labels", "channels"),
    [({f"l{k}": k for k in range(1, 9000)}, 1), ({f"l{k}": k for k in range(1, 10**5)}, 1), ({"organ": 1}, 10**5)],
)
def test_labels_and_channels_are_held_against_the_weights(
    tmp_path: Path, bundle: Path, labels: dict[str, int], channels: int
) -> None:
    def hostile(manifest: dict[str, Any]) -> None:
        record = manifest["models"]["3d_fullres"]["record"]
        record["dataset"]["labels"] = {"background": 0, **labels}
        record["dataset"]["channel_names"] = ["CT"] * channels
        plan = record["plans"]["configurations"]["3d_fullres"]
        plan.update(normalization_schemes=["NoNormalization"] * channels, use_mask_for_norm=[False] * channels)

    with pytest.raises(SegflowError):
        load_model(with_manifest(bundle, tmp_path / "hostile", hostile))


def test_the_message_names_the_file_and_the_key(tmp_path: Path, bundle: Path) -> None:
    def hostile(manifest: dict[str, Any]) -> None:
        edited(manifest["models"]["3d_fullres"]["record"], SIZES["features"])

    with pytest.raises(
        SegflowError, match=r"hostile, bundle\.json: the network topology .*'features': \[1000000000, 8"
    ):
        load_model(with_manifest(bundle, tmp_path / "hostile", hostile))


@pytest.mark.parametrize("axes", [[0, 0], [3], [-1], list(range(30)), ["x"], [float("inf")]])
def test_axes_to_mirror_along_are_the_patchs(tmp_path: Path, bundle: Path, axes: list[Any]) -> None:
    with pytest.raises(SegflowError):
        read_bundle(
            with_manifest(
                bundle,
                tmp_path / "hostile",
                lambda manifest: manifest["models"]["3d_fullres"]["record"].update(mirror_axes=axes),
            )
        )


def zip_of(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def encrypted(path: Path) -> Path:
    """The same zip with the mark of encryption on every file."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1
    path.write_bytes(content)
    return path


def of_method(path: Path, method: int) -> Path:
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset : place + offset + 2] = struct.pack("<H", method)
    path.write_bytes(content)
    return path


MANIFESTS = ("bundle.json", "model/plans.json")
"""What makes a zip a bundle, and what makes it a model of nnU-Net."""


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_zip_that_unpacks_to_far_more_than_it_is(tmp_path: Path, manifest: str) -> None:
    bomb = zip_of(tmp_path / "bomb", {manifest: b"{}", "large": bytes(70 << 20)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(SegflowError, match=r"bomb is refused: it would unpack to far more.*found 70 MiB in a file"):
        load_model(bomb)


@pytest.mark.parametrize("manifest", MANIFESTS)
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\..\\x", "a//x", "a/" * 9999 + "x"])
def test_a_zip_with_paths_that_lead_outside(tmp_path: Path, manifest: str, name: str) -> None:
    with pytest.raises(SegflowError, match="is refused: a file in it"):
        load_model(zip_of(tmp_path / "zip", {manifest: b"{}", name: b""}))


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_encrypted_and_oddly_compressed_zips_and_links(tmp_path: Path, manifest: str) -> None:
    with pytest.raises(SegflowError, match="encrypted"):
        load_model(encrypted(zip_of(tmp_path / "a.zip", {manifest: b"{}"})))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97, 1):
        with pytest.raises(SegflowError, match="compressed in a way"):
            load_model(of_method(zip_of(tmp_path / "b.zip", {manifest: b"{}"}), method))
    link = zipfile.ZipInfo(manifest)
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SegflowError, match="is a link"):
        load_model(tmp_path / "c.zip")


def test_a_zip_whose_end_is_no_end(tmp_path: Path) -> None:
    spans = struct.pack("<4sLQL", b"PK\x06\x07", 3, 0, 5) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0)
    (tmp_path / "zip").write_bytes(bytes(64) + spans)
    assert not is_bundle(tmp_path / "zip")
    assert not is_nnunet_model(tmp_path / "zip")


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**5, b'{"a":' * 10**5, b"9" * 10**5, b'{"format": 1e999}', b"\xff\xfe", b"[" * 500 + b"]" * 500],
)
def test_json_that_is_too_much_for_a_parser(tmp_path: Path, text: bytes) -> None:
    for name, members in (("a", {"bundle.json": text}), ("b", {"m/plans.json": text, "m/dataset.json": text})):
        members["m/fold_0/checkpoint_final.pth"] = b""
        with pytest.raises(SegflowError):
            load_model(zip_of(tmp_path / name, members))


def checkpoint(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    content = tiny_models.nnunet_checkpoint(tiny_models.record())
    edit(content)
    file = tmp_path / "hostile.pth"
    torch.save(content, file)
    return file


def _first(value: Any) -> Callable[[dict[str, Any]], object]:
    def edit(content: dict[str, Any]) -> None:
        weights = content["network_weights"]
        weights[next(iter(weights))] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.update(network_weights=None),
        lambda content: content.update(network_weights=[1, 2]),
        lambda content: content.update(network_weights={}),
        lambda content: content.update(network_weights={1: torch.ones(1)}),
        lambda content: content.update(network_weights={"a": "text"}),
        _first("text"),
        _first(torch.ones(3).to_sparse()),
        _first(torch.empty(10**6, 10**6, device="meta")),
        _first(torch.zeros(1).expand(10**6, 10**6)),
        lambda content: content.update(init_args=None),
        lambda content: content.update(init_args={}),
        lambda content: content["init_args"].update(configuration="../x"),
        lambda content: content["init_args"].update(configuration={}),
        lambda content: content["init_args"].update(plans=[]),
        lambda content: content["init_args"]["plans"]["configurations"]["3d_fullres"].update(patch_size=[10**9] * 3),
    ],
)
def test_weights_that_are_none(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = checkpoint(tmp_path, edit)
    with pytest.raises(SegflowError, match=r"hostile\.pth"):
        read_nnunet_weights(file)


@pytest.mark.parametrize("fold", ["../../x", -1, 10**9, None, {"a": 1}, "a/b"])
def test_the_fold_of_a_checkpoint_is_no_path(tmp_path: Path, fold: Any) -> None:
    model = tiny_models.make_nnunet_model(tmp_path)
    file = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    content["init_args"]["fold"] = fold
    torch.save(content, file)
    with pytest.raises(SegflowError, match=r"checkpoint_final\.pth: "):
        read_nnunet_model(model)


def test_a_checkpoint_is_not_inflated(tmp_path: Path) -> None:
    torch.save({"state_dict": {"network.a": torch.zeros(1 << 20)}}, tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "plain") as old:
        entries = {name: old.read(name) for name in old.namelist()}
    bomb = zip_of(tmp_path / "bomb.ckpt", entries, zipfile.ZIP_DEFLATED)
    with pytest.raises(SegflowError, match=r"bomb\.ckpt is refused: it would unpack to far more"):
        read_tensors(bomb)


@pytest.mark.parametrize(
    "header", [b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b"["]
)
def test_the_header_of_weights_is_held_against_them(tmp_path: Path, bundle: Path, header: bytes) -> None:
    for size in (len(header), 2**40, 2**63):
        content = struct.pack("<Q", size) + header + bytes(64)

        def hostile(manifest: dict[str, Any], content: bytes = content) -> None:
            manifest["models"]["3d_fullres"]["folds"]["0"]["sha256"] = hashlib.sha256(content).hexdigest()

        changed = with_manifest(bundle, tmp_path / "a", hostile)
        with zipfile.ZipFile(changed) as old:
            entries = {name: old.read(name) for name in old.namelist()} | {"3d_fullres/fold_0.safetensors": content}
        with pytest.raises(SegflowError, match="cannot read the bundle"):
            read_bundle(zip_of(tmp_path / "b", entries))
