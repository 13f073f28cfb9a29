"""A folder of images becomes a folder of label maps in the images' own geometry."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
import torch
from inference_images import make_image
from torch import nn

from segflow.core.errors import SegflowError
from segflow.execution.progress import ProgressEvent
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.network.build import build_network

WriteImages = Callable[..., Path]


def settings(**options: object) -> PredictSettings:
    return PredictSettings(device="cpu", **options)  # type: ignore[arg-type]


def read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_label_maps_lie_where_their_images_lie(tmp_path: Path, write_images: WriteImages) -> None:
    run, images = tiny_models.make_run(tmp_path), write_images("a", "b")
    report = predict_cases(run, images, tmp_path / "out", settings())
    assert report.done == ("a", "b")
    assert report.ok
    predictor = Predictor.load(run, device="cpu")
    for seed, name in enumerate(("a", "b")):
        label = sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))
        image = make_image(seed)
        assert label.GetPixelID() == sitk.sitkUInt8
        for method in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(label, method)() == pytest.approx(getattr(image, method)())
        assert np.array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(predictor.predict(image)))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == tiny_models.LABELS
    assert json.loads((tmp_path / "out" / "plans.json").read_text())["plans_name"] == "nnUNetPlans"
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["model"] == str(run.resolve())


def test_all_that_can_be_read_is_predicted_and_the_rest_named(
    tmp_path: Path, write_images: WriteImages, caplog: pytest.LogCaptureFixture
) -> None:
    images = write_images("a", "scan_2022", "scan_2023")
    sitk.WriteImage(make_image(1), str(images / "b_0000.nii"))
    (images / "scan_2022_0000.nii.gz").rename(images / "scan_2022.nii.gz")
    (images / "scan_2023_0000.nii.gz").rename(images / "scan_2023.NII.GZ")
    sitk.WriteImage(make_image(2), str(images / "e_0000.mha"))
    (images / "f_0000.nii.bz2").touch()
    (images / "g_0000.nii.gz").symlink_to("../.git/annex/objects/g.nii.gz")
    report = predict_cases(tiny_models.make_run(tmp_path), images, tmp_path / "out", settings())
    assert report.ok
    assert report.done == ("a", "b", "e", "scan_2022", "scan_2023")
    assert {file.name for file in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in report.done}
    assert "2 files are passed over. Links to nowhere: 1 (g_0000.nii.gz). Other endings" in caplog.text
    assert "1 (f_0000.nii.bz2)" in caplog.text


@pytest.mark.parametrize("channels", [1, 2])
def test_a_case_of_more_files_than_channels_is_refused_before_it_is_read(tmp_path: Path, channels: int) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        (images / f"img_{number:04d}.nii.gz").write_text("never looked at")
    report = predict_cases(tiny_models.make_run(tmp_path, channels=channels), images, tmp_path / "out", settings())
    assert report.failed.keys() == {"img"}
    assert "more files than the model has channels; found img_0000.nii.gz, img_0001.nii.gz" in report.failed["img"]
    assert "A case whose own name ends in four digits needs the channel's number too" in report.failed["img"]


def test_files_table_and_folder_give_the_same(tmp_path: Path, write_images: WriteImages) -> None:
    run, images = tiny_models.make_run(tmp_path), write_images("a", "b")
    table = tmp_path / "cases.csv"
    table.write_text("case,image\na,images/a_0000.nii.gz\nb,images/b_0000.nii.gz\n")
    sources = {"folder": images, "table": table, "files": sorted(images.iterdir()), "texts": str(images)}
    for name, source in sources.items():
        assert predict_cases(run, source, tmp_path / name, settings()).done == ("a", "b")
    for case in ("a.nii.gz", "b.nii.gz"):
        first, *others = [read(tmp_path / name / case) for name in sources]
        assert all(np.array_equal(first, other) for other in others)


def test_second_run_does_only_what_is_missing(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a", "b", "c"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    (out / "b.nii.gz").unlink()
    before = (out / "a.nii.gz").stat().st_mtime_ns
    report = predict_cases(run, images, out, settings())
    assert (report.skipped, report.done) == (("a", "c"), ("b",))
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert predict_cases(run, images, out, settings(resume=False)).done == ("a", "b", "c")
    with_maps = predict_cases(run, images, out, settings(entropy=True))
    assert with_maps.done == ("a", "b", "c")  # a case without its maps is not finished


def test_predictions_of_two_models_are_not_mixed(tmp_path: Path, write_images: WriteImages) -> None:
    run, images, out = tiny_models.make_run(tmp_path, folds=(0, 1)), write_images("a"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    for other in ({"folds": 0}, {"mirroring": False}):
        with pytest.raises(SegflowError, match=rf"another '{next(iter(other))}'.*resume=false"):
            predict_cases(run, images, out, settings(**other))
    with pytest.raises(SegflowError, match="another 'model'"):
        predict_cases(tiny_models.make_run(tmp_path / "other"), images, out, settings())
    assert predict_cases(run, images, out, settings(folds=[0, 1])).skipped == ("a",)
    checkpoints = [run / f"fold_{k}" / "checkpoints" / "final.ckpt" for k in (0, 1)]
    checkpoints[0].write_bytes(checkpoints[1].read_bytes())  # trained anew
    with pytest.raises(SegflowError, match="another 'weights'"):
        predict_cases(run, images, out, settings())
    assert predict_cases(run, images, out, settings(folds=0, resume=False)).ok


def test_a_bad_case_is_named_and_the_others_are_done(tmp_path: Path, write_images: WriteImages) -> None:
    run, images = tiny_models.make_run(tmp_path), write_images("a", "z")
    (images / "text_0000.nii.gz").write_text("I am no image")
    (images / "short_0000.nii.gz").write_bytes((images / "a_0000.nii.gz").read_bytes()[:500])
    sitk.WriteImage(make_image() * 0 + 5, str(images / "constant_0000.nii.gz"))
    for channel in range(2):
        sitk.WriteImage(make_image(), str(images / f"twochannels_000{channel}.nii.gz"))
    report = predict_cases(run, images, tmp_path / "out", settings())
    assert report.done == ("a", "z")
    assert report.failed.keys() == {"text", "short", "constant", "twochannels"}
    assert not report.ok
    for name, message in report.failed.items():
        assert f"case '{name}'" in message
    assert "constant" in report.failed["constant"]
    assert "expected 1: MR0" in report.failed["twochannels"]
    written = {file.name for file in (tmp_path / "out").iterdir()} - {".segflow"}
    assert written == {"a.nii.gz", "z.nii.gz", "dataset.json", "plans.json", "predict.json"}


def test_cascade_predicts_its_previous_stage_first(tmp_path: Path, write_images: WriteImages) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run, images = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a")
    (images / "bad_0000.nii.gz").write_text("I am no image")
    report = predict_cases(run, images, tmp_path / "out", settings())
    assert report.done == ("a",)
    assert report.failed.keys() == {"bad"}
    low = tmp_path / "out" / "previous_stage"
    expected = Predictor.load(run, device="cpu").predict(make_image())
    assert np.array_equal(read(tmp_path / "out" / "a.nii.gz"), sitk.GetArrayFromImage(expected))
    given = predict_cases(
        run, images / "a_0000.nii.gz", tmp_path / "given", settings(previous_stage_predictions=str(low))
    )
    assert given.ok
    assert np.array_equal(read(tmp_path / "given" / "a.nii.gz"), read(tmp_path / "out" / "a.nii.gz"))
    assert not (tmp_path / "given" / "previous_stage").exists()


def test_the_stages_of_a_cascade_may_have_different_networks(tmp_path: Path, write_images: WriteImages) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run, images = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a")
    built: list[str] = []

    def stage(name: str, *arguments: Any) -> nn.Module:
        built.append(name)
        return build_network(*arguments)

    options = {"build": partial(stage, "cascade"), "build_previous": partial(stage, "previous")}
    assert predict_cases(run, images, tmp_path / "out", settings(), **options).ok
    assert built == ["cascade", "previous"]


def test_cascades_of_two_previous_stages_are_not_mixed(tmp_path: Path, write_images: WriteImages) -> None:
    low = tiny_models.make_run(tmp_path, "3d_lowres")
    run, images, out = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a"), tmp_path / "out"
    predict_cases(run, images, out, settings())
    other = tiny_models.make_run(tmp_path, "3d_lowres", folds=(1,), run_name="other")
    (low / "fold_0/checkpoints/final.ckpt").write_bytes((other / "fold_1/checkpoints/final.ckpt").read_bytes())
    with pytest.raises(SegflowError, match="another 'weights'"):  # of the stage before, trained anew
        predict_cases(run, images, out, settings())
    given = tmp_path / "given"
    predict_cases(run, images, given, settings(previous_stage_predictions=str(out / "previous_stage")))
    with pytest.raises(SegflowError, match="another 'previous_stage_predictions'"):
        predict_cases(run, images, given, settings(previous_stage_predictions=str(tmp_path)))


def test_missing_or_misshapen_previous_predictions_fail_their_case(tmp_path: Path, write_images: WriteImages) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run, images = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a", "b")
    low = tmp_path / "low"
    low.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 3, 3), np.uint8)), str(low / "b.nii.gz"))
    report = predict_cases(run, images, tmp_path / "out", settings(previous_stage_predictions=str(low)))
    assert "a.nii.gz" in report.failed["a"]
    assert "another shape" in report.failed["b"]


@pytest.mark.parametrize("regions", [False, True])
def test_maps_lie_beside_the_label_maps_in_the_same_geometry(
    tmp_path: Path, write_images: WriteImages, regions: bool
) -> None:
    run, images = tiny_models.make_run(tmp_path, folds=(0, 1), regions=regions), write_images("a")
    out = tmp_path / "out"
    predict_cases(run, images, out, settings(probabilities=True, entropy=True, disagreement=True))
    label = read(out / "a.nii.gz")
    outputs = 2 if regions else 3
    files = [out / "probabilities" / f"a_{k:04d}.nii.gz" for k in range(outputs)]
    probabilities = np.stack([read(file) for file in files])
    if regions:
        expected = np.where(probabilities[1] > 0.5, 2, np.where(probabilities[0] > 0.5, 1, 0))
    else:
        assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
        expected = probabilities.argmax(0)
    assert np.mean(expected == label) > 0.9999  # rounding decides between what is equal to seven digits
    names = json.loads((out / "probabilities" / "outputs.json").read_text())
    assert names["0001"] == (["lesion", "2"] if regions else ["organ", "1"])
    undecided, disputed = read(out / "entropy" / "a.nii.gz"), read(out / "disagreement" / "a.nii.gz")
    assert 0 <= undecided.min() <= undecided.max() <= 1 + 1e-6
    assert set(np.unique(disputed)) <= {0.0, 0.5, 1.0}
    assert disputed.max() > 0
    image = sitk.ReadImage(str(images / "a_0000.nii.gz"))
    for file in (*files, out / "entropy" / "a.nii.gz", out / "disagreement" / "a.nii.gz"):
        written = sitk.ReadImage(str(file))
        assert written.GetPixelID() == sitk.sitkFloat32
        assert written.GetDirection() == pytest.approx(image.GetDirection())
        assert written.GetOrigin() == pytest.approx(image.GetOrigin())


def test_2d_pictures_come_back_as_pictures(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, "2d", reader="NaturalImage2DIO", channels=3, ending=".png")
    images = tmp_path / "images"
    images.mkdir()
    voxels = np.random.default_rng(0).integers(0, 255, (30, 41, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=True), str(images / "a_0000.png"))
    assert predict_cases(run, images, tmp_path / "out", settings(entropy=True)).ok
    assert read(tmp_path / "out" / "a.png").shape == (30, 41)
    assert read(tmp_path / "out" / "entropy" / "a.nii.gz").shape == (30, 41)


def test_parts_share_a_folder(tmp_path: Path, write_images: WriteImages) -> None:
    run, images = tiny_models.make_run(tmp_path), write_images("a", "b", "c")
    assert predict_cases(run, images, tmp_path / "out", settings(part="0/2")).done == ("a", "c")
    assert predict_cases(run, images, tmp_path / "out", settings(part="1/2")).done == ("b",)


def test_nnunet_model_in_a_zip_is_predicted_with(tmp_path: Path, write_images: WriteImages) -> None:
    import zipfile

    model, images = tiny_models.make_nnunet_model(tmp_path / "r"), write_images("a")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        for file in model.rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "r"))
    assert predict_cases(tmp_path / "model.zip", images, tmp_path / "one", settings()).ok
    assert predict_cases(model, images, tmp_path / "two", settings()).ok
    assert np.array_equal(read(tmp_path / "one" / "a.nii.gz"), read(tmp_path / "two" / "a.nii.gz"))


def test_output_into_the_input_folder_is_refused(tmp_path: Path, write_images: WriteImages) -> None:
    images = write_images("a")
    with pytest.raises(SegflowError, match="folder of their own"):
        predict_cases(tiny_models.make_run(tmp_path), images, images, settings())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written_is_named(tmp_path: Path, write_images: WriteImages) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SegflowError, match="cannot write"):
        predict_cases(tiny_models.make_run(tmp_path), write_images("a"), out, settings())


def test_output_that_is_a_file_is_named(tmp_path: Path, write_images: WriteImages) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SegflowError, match="cannot write"):
        predict_cases(tiny_models.make_run(tmp_path), write_images("a"), tmp_path / "out", settings())


def test_unexpected_failures_of_the_network_end_their_case_only(tmp_path: Path, write_images: WriteImages) -> None:
    class Fragile(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.calls = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("no such kernel")
            return image.repeat(1, 3, 1, 1, 1)

    run, images = tiny_models.make_run(tmp_path), write_images("a", "b")
    torch.save({"network.weight": torch.zeros(1)}, run / "fold_0" / "checkpoints" / "final.ckpt")
    report = predict_cases(run, images, tmp_path / "out", settings(), build=lambda *_: Fragile())
    assert report.done == ("b",)
    assert "no such kernel" in report.failed["a"]


def test_progress_counts_cases(tmp_path: Path, write_images: WriteImages) -> None:
    events: list[ProgressEvent] = []
    predict_cases(
        tiny_models.make_run(tmp_path), write_images("a", "b"), tmp_path / "out", settings(), progress=events.append
    )
    assert [(event.name, event.done, event.total) for event in events] == [("", 0, 2), ("a", 1, 2), ("b", 2, 2)]


@pytest.mark.parametrize("wrong", [{"part": "4/4"}, {"readers": 0}, {"overlap": 2.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SegflowError):
        settings(**wrong)


@pytest.mark.parametrize(
    ("given", "meant"), [("all", "all"), (["all"], "all"), (0, ["0"]), ("2", ["2"]), ([0, "1"], ["0", "1"])]
)
def test_folds_may_be_given_as_numbers_texts_and_lists(given: object, meant: object) -> None:
    assert settings(folds=given).folds == meant
