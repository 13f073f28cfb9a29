"""No label map of one command passes for another's, and no file of the user's is replaced."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
import torch
from inference_images import make_image

from segflow.core.errors import SegflowError
from segflow.execution.progress import ProgressEvent
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.inference.origins import described, weights_digest
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.network.build import build_network
from segflow.storage.folds import Fold

WriteImages = Callable[..., Path]
CASES = ("a", "b", "c")


def settings(**options: Any) -> PredictSettings:
    return PredictSettings(device="cpu", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.nii.gz"))}


def expected_of(run: Path, images: Path, place: Path, **options: Any) -> dict[str, bytes]:
    """What a new folder would hold."""
    predict_cases(run, images, place, settings(**options))
    return contents(place)


def replace_quietly(file: Path, content: bytes) -> None:
    """Another content of the same length at the same time, as some copies leave it."""
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_image(run: Path, images: Path) -> dict[str, Any]:
    sitk.WriteImage(make_image(7), str(images / "a_0000.nii.gz"))
    return {}


def one_voxel(run: Path, images: Path) -> dict[str, Any]:
    for case in CASES:
        file = images / f"{case}_0000.nii"
        voxels = bytearray(file.read_bytes())
        voxels[-4000] ^= 0x40
        replace_quietly(file, bytes(voxels))
    return {}


def other_kernel(run: Path, images: Path) -> dict[str, Any]:
    """One value of one convolution: neither a bias nor a norm."""
    file = Fold(run / "fold_0").checkpoint("final")
    state = torch.load(file, weights_only=True)
    key = next(name for name, value in state["state_dict"].items() if value.ndim == 5)
    state["state_dict"][key].flatten()[3] += 1.0
    torch.save(state, file)
    return {}


def other_plan(run: Path, images: Path) -> dict[str, Any]:
    file = run / "fold_0" / "run.json"
    content = json.loads(file.read_text())
    content["plans"]["configurations"]["3d_fullres"]["normalization_schemes"] = ["RescaleTo01Normalization"]
    file.write_text(json.dumps(content))
    return {}


CHANGES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "image": other_image,
    "weight": other_kernel,
    "plan": other_plan,
    "overlap": lambda run, images: {"overlap": 0.75},
    "gaussian": lambda run, images: {"gaussian": False},
    "mirroring": lambda run, images: {"mirroring": False},
    "sums": lambda run, images: {"sums": "float16"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_any_change_the_old_label_maps_are_refused_or_made_anew(
    tmp_path: Path, write_images: WriteImages, change: str
) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a", "b"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    options = CHANGES[change](run, images)
    wanted = expected_of(run, images, tmp_path / "new", **options)
    if change == "image":
        report = predict_cases(run, images, out, settings(**options))
        assert (report.done, report.skipped) == (("a",), ("b",))
    else:
        with pytest.raises(SegflowError, match="another '"):
            predict_cases(run, images, out, settings(**options))
        assert predict_cases(run, images, out, settings(resume=False, **options)).done == ("a", "b")
    assert contents(out) == wanted
    assert predict_cases(run, images, out, settings(**options)).skipped == ("a", "b")


def test_images_that_changed_are_predicted_anew_though_size_and_time_did_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, images, out = (
        tiny_models.make_run(tmp_path, ending=".nii", reader="NibabelIO"),
        tmp_path / "im",
        tmp_path / "o",
    )
    images.mkdir()
    for seed, case in enumerate(CASES):
        sitk.WriteImage(make_image(seed), str(images / f"{case}_0000.nii"))
    predict_cases(run, images, out, settings())
    one_voxel(run, images)
    with caplog.at_level(logging.WARNING):
        assert predict_cases(run, images, out, settings()).done == CASES
    assert "3 of 3 predictions are made anew: another image (3)" in caplog.text


def test_two_patients_whose_images_have_one_name_never_share_a_label_map(tmp_path: Path) -> None:
    run, out = tiny_models.make_run(tmp_path), tmp_path / "out"
    files = [tmp_path / patient / "img_0000.nii.gz" for patient in ("p1", "p2")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        sitk.WriteImage(make_image(seed), str(file))
    for file in files:
        assert predict_cases(run, file, out, settings()).done == ("img",)
        expected = Predictor.load(run, device="cpu").predict(sitk.ReadImage(str(file)))
        written = sitk.ReadImage(str(out / "img.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("again", [{}, {"resume": False}])
def test_a_change_of_model_that_is_killed_leaves_no_map_of_the_old_one(
    tmp_path: Path, write_images: WriteImages, again: dict[str, Any]
) -> None:
    images, out = write_images(*CASES), tmp_path / "out"
    old, new = tiny_models.make_run(tmp_path / "old"), tiny_models.make_run(tmp_path / "new", folds=(1,))
    predict_cases(old, images, out, settings(probabilities=True))

    def kill(event: ProgressEvent) -> None:
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_cases(new, images, out, settings(resume=False), progress=kill)
    wanted = expected_of(new, images, tmp_path / "fresh")
    left = contents(out)
    assert left == {name: wanted[name] for name in left}
    assert not list((out / "probabilities").glob("*.nii.gz"))  # they were the old model's
    assert predict_cases(new, images, out, settings(**again)).ok
    assert contents(out) == wanted


def test_a_folder_never_holds_the_maps_of_two_models(tmp_path: Path, write_images: WriteImages) -> None:
    out = tmp_path / "out"
    first, second = write_images("a", folder="one"), write_images("b", folder="two")
    predict_cases(tiny_models.make_run(tmp_path / "old"), first, out, settings())
    other = tiny_models.make_run(tmp_path / "new", folds=(1,))
    for resume in (True, False):
        with pytest.raises(SegflowError, match=r"predictions of another model.*case 'a'|case 'a'.*another model"):
            predict_cases(other, second, out, settings(resume=resume))
    assert [*contents(out)] == ["a.nii.gz"]


def test_parts_of_another_model_follow_one_another(tmp_path: Path, write_images: WriteImages) -> None:
    images, out = write_images(*CASES), tmp_path / "out"
    predict_cases(tiny_models.make_run(tmp_path / "old"), images, out, settings())
    new = tiny_models.make_run(tmp_path / "new", folds=(1,))
    for part in ("0/2", "1/2"):
        assert predict_cases(new, images, out, settings(part=part, resume=False)).ok
    assert contents(out) == expected_of(new, images, tmp_path / "fresh")


def test_a_case_that_fails_leaves_no_map_of_another_image(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a", "b"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    (images / "a_0000.nii.gz").write_text("I am no image")
    assert predict_cases(run, images, out, settings()).failed.keys() == {"a"}
    assert [*contents(out)] == ["b.nii.gz"]


def test_a_folder_of_a_run_is_brought_up_to_date_without_asking(tmp_path: Path, write_images: WriteImages) -> None:
    images, out = write_images("a", "b"), tmp_path / "out"
    predict_cases(tiny_models.make_run(tmp_path / "old"), images, out, settings(), own=True)
    new = tiny_models.make_run(tmp_path / "new", folds=(1,))
    (images / "b_0000.nii.gz").unlink()
    assert predict_cases(new, images, out, settings(), own=True).done == ("a",)
    assert contents(out) == expected_of(new, images, tmp_path / "fresh")  # and the case that is gone, is gone here too


@pytest.mark.parametrize("kind", ["file", "files", "table"])
@pytest.mark.parametrize("resume", [True, False])
def test_an_image_is_never_replaced_by_its_label_map(tmp_path: Path, kind: str, resume: bool) -> None:
    run, folder = tiny_models.make_run(tmp_path), tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate(("scan", "other")):
        sitk.WriteImage(make_image(seed), str(folder / f"{name}.nii.gz"))
    (folder / "list.csv").write_text("case,image\nscan,scan.nii.gz\n")
    before = contents(folder)
    source: Any = {
        "file": folder / "scan.nii.gz",
        "files": [folder / "scan.nii.gz", folder / "other.nii.gz"],
        "table": folder / "list.csv",
    }[kind]
    with pytest.raises(SegflowError, match=r"replace an input.*scan\.nii\.gz"):
        predict_cases(run, source, folder, settings(resume=resume))
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    with pytest.raises(SegflowError, match="replace an input"):
        predict_cases(run, source, linked, settings(resume=resume))
    assert contents(folder) == before
    assert not (folder / "dataset.json").exists()


@pytest.mark.parametrize("resume", [True, False])
def test_references_and_descriptions_of_a_dataset_are_never_replaced(
    tmp_path: Path, write_images: WriteImages, resume: bool
) -> None:
    run, images = tiny_models.make_run(tmp_path), write_images("a", folder="imagesTr")
    labels = tmp_path / "labelsTr"
    labels.mkdir()
    sitk.WriteImage(make_image(), str(labels / "a.nii.gz"))
    (tmp_path / "dataset.json").write_text("mine")
    before = contents(labels)
    with pytest.raises(SegflowError, match=r"did not write.*a\.nii\.gz"):
        predict_cases(run, images, labels, settings(resume=resume))
    with pytest.raises(SegflowError, match=r"did not write.*dataset\.json"):
        predict_cases(run, images, tmp_path, settings(resume=resume))
    assert contents(labels) == before
    assert (tmp_path / "dataset.json").read_text() == "mine"
    assert not (labels / ".segflow").exists()


def test_a_label_map_that_a_person_edited_is_not_replaced(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    sitk.WriteImage(make_image(5), str(out / "a.nii.gz"))
    edited = contents(out)
    for resume in (True, False):
        with pytest.raises(SegflowError, match=r"did not write.*a\.nii\.gz"):
            predict_cases(run, images, out, settings(resume=resume))
    assert contents(out) == edited


def test_a_copied_folder_of_predictions_is_still_done(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile)
    assert predict_cases(run, images, tmp_path / "copy", settings()).skipped == ("a",)


def test_a_tiffs_spacing_is_an_input_too(tmp_path: Path) -> None:
    from segflow.core.geometry import Geometry
    from segflow.storage.images import reader_by_name

    run, images, out = tiny_models.make_run(tmp_path, ending=".tif", reader="Tiff3DIO"), tmp_path / "im", tmp_path / "o"
    images.mkdir()
    voxels = (np.random.default_rng(0).random((14, 20, 20)) * 200).astype(np.uint8)
    reader_by_name("Tiff3DIO").write_label(voxels, Geometry((1.0, 1.0, 1.0)), images / "a_0000.tif")
    predict_cases(run, images, out, settings())
    assert predict_cases(run, images, out, settings()).skipped == ("a",)
    (images / "a_0000.json").write_text('{"spacing": [1.0, 2.0, 1.0]}')
    assert predict_cases(run, images, out, settings()).done == ("a",)
    assert json.loads((out / "a.json").read_text()) == {"spacing": [1.0, 2.0, 1.0]}


def test_an_edited_map_of_the_previous_stage_is_seen(tmp_path: Path, write_images: WriteImages) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run, images = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a", "b")
    predict_cases(run, images, tmp_path / "first", settings())
    low, out = tmp_path / "low", tmp_path / "out"
    shutil.copytree(tmp_path / "first" / "previous_stage", low)
    given = settings(previous_stage_predictions=str(low))
    predict_cases(run, images, out, given)
    empty = sitk.ReadImage(str(low / "b.nii.gz")) * 0
    sitk.WriteImage(empty, str(low / "b.nii.gz"))
    report = predict_cases(run, images, out, given)
    assert (report.skipped, report.done) == (("a",), ("b",))


def test_the_digest_of_weights_sees_every_value_and_is_not_changed_by_predicting(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    predictor = Predictor.load(run, device="cpu")
    before = weights_digest(predictor.networks)
    predictor.predict(make_image())
    assert weights_digest(predictor.networks) == before
    assert weights_digest(Predictor.load(run, device="cpu").networks) == before
    for value in predictor.networks[0].state_dict().values():
        kept = value.clone()
        value[(-1,) * value.ndim] += 1
        assert weights_digest(predictor.networks) != before
        value.copy_(kept)
    assert weights_digest(predictor.networks) == before


def test_a_network_of_ones_own_is_described_by_its_name_and_plain_options() -> None:
    from functools import partial

    assert described(build_network) == "segflow.network.build.build_network"
    one, other = (partial(build_network, dropout=value, act=torch.nn.ReLU) for value in (0.1, 0.2))
    assert described(one) == described(partial(build_network, dropout=0.1, act=torch.nn.ReLU))
    assert described(one) != described(other)
    json.dumps(described(one))


def make_member(folder: Path, seed: int) -> Path:
    one = tiny_models.record()
    values = np.random.default_rng(seed).random((2, 3, 4, 6, 5)).astype(np.float32)
    from segflow.storage.json_files import write_json

    write_json(folder / "probabilities" / "outputs.json", {f"{k:04d}": [str(k), str(k)] for k in range(3)})
    write_json(folder / "dataset.json", one.dataset.to_json())
    for case, channels in zip(("x", "y"), values, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(channels.argmax(0).astype(np.uint8)), str(folder / f"{case}.nii.gz"))
        for k, channel in enumerate(channels):
            sitk.WriteImage(sitk.GetImageFromArray(channel), str(folder / "probabilities" / f"{case}_{k:04d}.nii.gz"))
    return folder


def average(members: list[Path], output: Path, **options: Any):
    labels = tiny_models.record().dataset.labels
    own = options.pop("own", False)
    return ensemble_cases(
        members, output, labels, EnsembleSettings(**options), file_ending=".nii.gz", reader="SimpleITKIO", own=own
    )


def test_an_ensemble_sees_every_change_of_its_members(tmp_path: Path) -> None:
    a, b = make_member(tmp_path / "a", 0), make_member(tmp_path / "b", 1)
    out = tmp_path / "out"
    assert average([a, b], out).done == ("x", "y")
    assert average([a, b], out).skipped == ("x", "y")
    changed = make_member(tmp_path / "c", 2) / "probabilities" / "y_0001.nii.gz"
    shutil.copy2(changed, b / "probabilities" / "y_0001.nii.gz")
    report = average([a, b], out)
    assert (report.skipped, report.done) == (("x",), ("y",))
    with pytest.raises(SegflowError, match="another 'weights'"):
        average([a, b], out, weights=[1.0, 2.0])
    assert average([a, b], out, weights=[1.0, 2.0], own=True).done == ("x", "y")
    fresh = average([a, b], tmp_path / "fresh", weights=[1.0, 2.0])
    assert fresh.ok
    assert contents(out) == contents(tmp_path / "fresh")


def test_an_ensemble_never_replaces_its_members_nor_other_files(tmp_path: Path) -> None:
    a, b = make_member(tmp_path / "a", 0), make_member(tmp_path / "b", 1)
    before = contents(a) | contents(b)
    for output in (a, b):
        for resume in (True, False):
            with pytest.raises(SegflowError, match=r"replace an input|did not write"):
                average([a, b], output, resume=resume)
    assert contents(a) | contents(b) == before
