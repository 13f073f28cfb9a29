"""Prediction of images whose logits do not fit into memory: the same files, written as the logits come."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
import torch
from inference_images import make_image
from torch import nn

from segflow.inference.image_objects import image_object
from segflow.inference.load_model import Model
from segflow.inference.planes import Room
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import _Pass
from segflow.inference.streamed_files import StreamedFiles

WriteImages = Callable[..., Path]
MAPS = {"probabilities": True, "entropy": True, "disagreement": True}


@pytest.fixture
def in_slabs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Leaves no memory for the sums of an image. Gives the slabs' first planes, as they were written."""
    starts: list[int] = []
    take = StreamedFiles.take

    def watched(self: StreamedFiles, slab: Any) -> None:
        starts.append(slab.start)
        take(self, slab)

    def begin() -> list[int]:
        monkeypatch.setattr(Room, "of_machine", classmethod(lambda cls, scratch=None: cls(1, 1, scratch)))
        monkeypatch.setattr(StreamedFiles, "take", watched)
        monkeypatch.setattr(Predictor, "preprocess", None)  # of whole images
        return starts

    return begin


def settings(**options: Any) -> PredictSettings:
    return PredictSettings(device="cpu", **{"batch_size": 1, **options})


def files_of(folder: Path) -> dict[str, sitk.Image]:
    return {str(file.relative_to(folder)): sitk.ReadImage(str(file)) for file in sorted(folder.rglob("*.nii.gz"))}


def assert_same_files(found: Path, expected: Path) -> None:
    ours, theirs = files_of(found), files_of(expected)
    assert ours.keys() == theirs.keys()
    for name, image in ours.items():
        other = theirs[name]
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(other)), name
        assert (image.GetPixelID(), image.GetSpacing()) == (other.GetPixelID(), other.GetSpacing())
        assert (image.GetOrigin(), image.GetDirection()) == (other.GetOrigin(), other.GetDirection())


RUNS: dict[str, dict[str, Any]] = {
    "labels": {},
    "maps of two folds": {"folds": (0, 1), "inference": MAPS | {"mirroring": False}},
    "maps of regions": {"folds": (0, 1), "regions": True, "inference": MAPS | {"mirroring": False}},
    "nnU-Net's sums": {"folds": (0, 1), "inference": {"sums": "float16", "mirroring": False}},
    "2d": {"name": "2d", "inference": {"entropy": True}},
    "other axes": {"axis_order": (2, 0, 1), "inference": MAPS | {"mirroring": False}},
}


@pytest.mark.parametrize("which", RUNS)
def test_files_are_those_of_the_image_at_once(
    tmp_path: Path, write_images: WriteImages, in_slabs: Callable[[], list[int]], which: str
) -> None:
    options = dict(RUNS[which])
    chosen = settings(**options.pop("inference", {}))
    run, images = tiny_models.make_run(tmp_path, **options), write_images("a", "b")
    assert predict_cases(run, images, tmp_path / "whole", chosen).ok
    starts = in_slabs()
    report = predict_cases(run, images, tmp_path / "slabs", chosen)
    assert report.ok, report.failed
    assert starts.count(0) == 2
    assert len(starts) >= 6
    assert_same_files(tmp_path / "slabs", tmp_path / "whole")
    assert predict_cases(run, images, tmp_path / "slabs", chosen).skipped == ("a", "b")


def test_both_stages_of_a_cascade_may_come_in_slabs(
    tmp_path: Path, write_images: WriteImages, in_slabs: Callable[[], list[int]]
) -> None:
    tiny_models.make_run(tmp_path, "3d_lowres")
    run, images = tiny_models.make_run(tmp_path, "3d_cascade_fullres"), write_images("a")
    chosen = settings(mirroring=False)
    assert predict_cases(run, images, tmp_path / "whole", chosen).ok
    starts = in_slabs()
    assert predict_cases(run, images, tmp_path / "slabs", chosen).ok
    assert starts.count(0) == 2
    assert_same_files(tmp_path / "slabs", tmp_path / "whole")


def test_an_image_from_python_may_come_in_slabs(tmp_path: Path, in_slabs: Callable[[], list[int]]) -> None:
    predictor = Predictor.load(tiny_models.make_run(tmp_path), device="cpu", settings=settings())
    case = image_object(make_image()).case
    expected, logits = predictor.predict_case(case), predictor.logits(predictor.preprocess(case))
    prepared = predictor.preprocess(case)
    in_slabs()
    assert np.array_equal(predictor.predict_preprocessed(prepared), expected)
    assert torch.equal(predictor.logits(prepared), logits)


def at_each_tile(event: Callable[[int], None]) -> Callable[..., torch.Tensor]:
    """What takes the place of the passes through the network: they are the same, and something happens before them."""
    forward, tiles = _Pass._forward, itertools.count(1)

    def watched(self: _Pass, *arguments: Any) -> torch.Tensor:
        event(next(tiles))
        return forward(self, *arguments)

    return watched


def leftovers(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*a.*") if file.name != "a.nii.gz.json"]


def test_a_failure_in_the_middle_leaves_nothing_and_ends_its_case_only(
    tmp_path: Path, write_images: WriteImages, in_slabs: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tile: int) -> None:
        if tile == 6:
            assert leftovers(tmp_path / "out")  # its first slab is there
            raise RuntimeError("the cable is out")

    run, images = tiny_models.make_run(tmp_path), write_images("a", "b")
    starts = in_slabs()
    monkeypatch.setattr(_Pass, "_forward", at_each_tile(fail))
    report = predict_cases(run, images, tmp_path / "out", settings(mirroring=False))
    assert (report.done, report.failed) == (("b",), {"a": "case 'a': RuntimeError: the cable is out"})
    assert starts[:2] == [0, 0]  # of both cases
    assert leftovers(tmp_path / "out") == []


def test_what_is_not_finite_in_a_later_slab_is_predicted_anew(
    tmp_path: Path, write_images: WriteImages, in_slabs: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` never means autocast on a CPU, so the choice is put in here."""

    class Narrow(nn.Conv3d):
        tiles = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            self.tiles += 1
            logits = super().forward(image)
            return logits * torch.inf if logits.dtype == torch.bfloat16 and self.tiles == 6 else logits

    torch.manual_seed(0)
    predictor = Predictor(Model(tiny_models.record(), (Narrow(1, 3, 1),), ("0",), Path()), device="cpu")
    predictor.settings.mirroring, predictor.settings.batch_size = False, 1
    expected = predictor.predict(make_image())
    predictor.settings.precision = "bf16"
    predictor.networks[0].tiles = 0
    case = predictor.preprocess(image_object(make_image()).case)
    in_slabs()
    starts = [slab.start for slab in predictor.slabs(case)]
    assert starts == [0, 0, 6, 12, 16]  # one slab was void
    predictor.networks[0].tiles = 0
    assert np.array_equal(predictor.predict_preprocessed(case), sitk.GetArrayFromImage(expected))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [str(Path({tests!r}) / "inference"), {tests!r}]
import test_streamed_prediction as t
t.Room.of_machine = classmethod(lambda cls, scratch=None: cls(1, 1, scratch))
def kill(tile):
    if tile == 6:
        assert t.leftovers(Path({out!r}))
        os.kill(os.getpid(), signal.SIGKILL)
t._Pass._forward = t.at_each_tile(kill)
t.predict_cases({run!r}, {images!r}, {out!r}, t.settings(mirroring=False))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no such signal on Windows")
def test_a_process_that_is_killed_leaves_nothing_that_looks_whole(
    tmp_path: Path, write_images: WriteImages, in_slabs: Callable[[], list[int]]
) -> None:
    run, images, out = tiny_models.make_run(tmp_path), write_images("a"), tmp_path / "out"
    tests = Path(__file__).parents[1]
    code = KILLED.format(tests=str(tests), run=str(run), images=str(images), out=str(out))
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (out / "a.nii.gz").exists()
    assert leftovers(out)
    in_slabs()
    report = predict_cases(run, images, out, settings(mirroring=False))
    assert report.ok, report.failed
    assert [file.name for file in leftovers(out)] == ["a.nii.gz"]
