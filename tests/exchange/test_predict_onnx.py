"""The runner of exported models: its parts equal segflow's, and bad input is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest

from segflow.core.cropping import crop_to_nonzero
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.geometry import Geometry
from segflow.exchange import predict_onnx as runner
from segflow.inference.tiles import gaussian_importance, tile_starts
from segflow.postprocessing.components import components_from, largest_components
from segflow.preprocessing.interpolation import axis_matrix
from segflow.preprocessing.normalization import SCHEMES, normalize
from segflow.storage.image_formats.turned_reader import TurnedReader
from segflow.storage.readers import reader_by_name


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("order", range(6))
def test_splines_are_those_of_scipy(order: int) -> None:
    for size, new_size in random(order).integers(1, 70, (25, 2)).tolist():
        expected = axis_matrix(size, new_size, order)
        assert np.abs(runner.axis_matrix(size, new_size, order) - expected).max() < 1e-6, (size, new_size)


def test_components_and_holes_are_those_of_the_libraries() -> None:
    draws = random()
    for _ in range(60):
        mask = draws.random(draws.integers(1, 13, 3)) < draws.random()
        assert np.array_equal(runner.components_of_size(mask, None), largest_components(mask))
        assert np.array_equal(runner.components_of_size(mask, 3), components_from(mask, 3))
        whole = np.pad(mask, 1)  # so that cropping leaves the mask as it is
        whole[0, 0, 0] = whole[-1, -1, -1] = True
        inside = crop_to_nonzero(whole[None].astype(np.float32), None).label >= 0
        assert np.array_equal(runner.fill_holes(whole), inside)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("masked", [False, True])
def test_normalisations_are_segflows(scheme: str, masked: bool) -> None:
    image = random().uniform(0, 255, (7, 9, 11)).astype(np.float32)
    inside = random(1).random(image.shape) < 0.5 if masked else None
    known = {
        "max": 250.0,
        "mean": 90.0,
        "median": 88.0,
        "min": 1.0,
        "percentile_00_5": 5.0,
        "percentile_99_5": 200.0,
        "std": 31.0,
    }
    expected, found = image.copy(), image.copy()
    normalize(expected, scheme, inside, ChannelIntensities(**known))
    runner.normalize(found, scheme, inside, known)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_tiles_and_their_weights_are_segflows() -> None:
    for size, patch in ((110, 64), (300, 128), (129, 128), (64, 64)):
        assert tuple(runner.tile_starts(size, patch, 0.5)) == tile_starts(size, patch, 0.5)
    for patch in ((16, 20, 18), (5, 64, 64), (320, 256), (7, 9, 11)):
        assert np.array_equal(runner.gaussian_importance(patch), gaussian_importance(patch))


def test_sums_that_lie_in_a_file_give_the_same() -> None:
    model = {"patch_size": [8, 8, 8], "mirror_axes": [0, 2], "outputs": [0, 1]}
    image = random().normal(size=(1, 13, 7, 20)).astype(np.float32)

    def network(batch: np.ndarray) -> np.ndarray:
        return np.concatenate([batch, np.roll(batch, 1, axis=2)], axis=1)

    expected = runner.predict_logits(model, [network], image)
    in_a_file = runner.predict_logits(model, [network], image, runner.Options(memory=0))
    assert isinstance(in_a_file, np.memmap)
    assert np.array_equal(in_a_file, expected)
    assert expected.shape == (2, 13, 7, 20)


def test_an_image_turned_to_ras_comes_back() -> None:
    voxels = random().normal(size=(2, 4, 5, 6)).astype(np.float32)
    affine = np.array([[0, 0, -3, 9], [1, 0, 0, 2], [0, -2, 0, 4], [0, 0, 0, 1]], float)
    made = runner.oriented({"turn_to_ras": "affine"}, voxels, affine)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels[0], affine))
    assert np.array_equal(made.voxels[0].T, canonical.get_fdata(dtype=np.float32))
    assert made.spacing == tuple(canonical.header.get_zooms()[::-1])
    assert np.array_equal(made.back(made.voxels[1]), voxels[1])


@pytest.mark.parametrize("own", ["RAS", "LPS", "ASR", "ILP"])
@pytest.mark.parametrize("usual", ["LPS", "PIR", None])
def test_an_orientation_that_no_training_image_has_is_turned_to_the_usual_one(own: str, usual: str | None) -> None:
    to_own = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(tuple(own)), (4, 5, 6))
    affine = np.diag([1.0, 2.0, 3.0, 1.0]) @ to_own
    voxels = random().normal(size=(2, 4, 5, 6)).astype(np.float32)
    described = {"turn_to_ras": None, "usual_orientation": usual, "orientations": ["RAS", *([usual] if usual else [])]}
    made = runner.oriented(described, voxels, affine)
    image = nibabel.Nifti1Image(voxels[0], affine)
    choose = usual if own not in ("RAS", usual) else None
    expected, geometry = read_turned(image, choose)
    assert np.array_equal(made.voxels[0], expected)
    assert made.spacing == pytest.approx(geometry.spacing)
    assert np.array_equal(made.back(made.voxels[1]), voxels[1])
    oblique = nibabel.affines.from_matvec(affine[:3, :3] @ nibabel.eulerangles.euler2mat(0.6))
    assert np.array_equal(runner.oriented(described, voxels, oblique).voxels, voxels.transpose(0, 3, 2, 1))


def read_turned(image: nibabel.Nifti1Image, to: str | None) -> tuple[np.ndarray, Geometry]:
    """The image (Z, Y, X) and its geometry, turned as `segflow predict` turns it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.nii"
        nibabel.save(image, file)
        voxels, geometry = TurnedReader(reader_by_name("SimpleITKIO"), lambda _: to).read_file(file)
    return voxels[0], geometry


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the description of a model of two channels."""
    folder = tmp_path / "model"
    folder.mkdir()
    content = {
        **{"format": 1, "channels": ["T1", "T2"], "turn_to_ras": None, "axis_order": [0, 1, 2], "outputs": [0, 1]},
        **{"normalization": [{"scheme": "NoNormalization", "use_mask": False}] * 2, "networks": []},
        **{"spacing": [1, 1, 1], "resampling": {"image": {"method": "no_resampling_hack", "options": {}}}},
    }
    (folder / "model.json").write_text(json.dumps(content))
    return folder


def save(folder: Path, name: str, voxels: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert runner.main([str(one) for one in arguments]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_bad_input_is_refused_in_words(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = random().normal(size=(5, 6, 7)).astype(np.float32)
    out, given = tmp_path / "out", f"--model={model}"
    assert "there is no" in error_of(capsys, tmp_path / "none", out, given)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in error_of(capsys, tmp_path / "empty", out, given)
    assert "cannot read the model" in error_of(capsys, tmp_path, out, f"--model={tmp_path}")
    one = save(tmp_path / "one", "a_0000.nii.gz", noise)
    assert "it must be from 0 to below 1" in error_of(capsys, one, out, given, "--overlap=1")
    assert "case a: the image has 1 channels; the model needs 2: T1, T2" in error_of(capsys, one, out, given)
    same = save(tmp_path / "same", "a.nii.gz", noise)
    for output in (same, same / "a.nii.gz"):
        assert "a.nii.gz is an image: label maps need another" in error_of(capsys, same, output, given)
    assert "there is no fold 7" in error_of(capsys, one, out, given, "--folds=7")
    save(one, "a_0001.nii.gz", noise[:4])
    assert "lie on different grids" in error_of(capsys, one, out, given)
    (one / "a_0001.nii.gz").write_bytes((one / "a_0000.nii.gz").read_bytes()[:200])
    assert "cannot read" in error_of(capsys, one, out, given)
    both = save(tmp_path / "both", "b.nii.gz", np.stack([noise, np.full_like(noise, np.nan)], -1))
    assert "case b: the image holds NaN" in error_of(capsys, both, out, given)
    flat = save(tmp_path / "flat", "c.nii", np.ones((4, 4, 4, 2), np.float32))
    assert "case c: the image is constant, 1 everywhere" in error_of(capsys, flat, out, given)
    save(flat, "d.nii", np.ones((4, 4, 4, 2), np.float32))
    assert "2 cases need a folder as output" in error_of(capsys, flat, tmp_path / "out.nii", given)
    assert not list(out.iterdir())
    (model / "model.json").write_text(json.dumps({"format": 99}))
    assert "of format 99; this file reads format 1" in error_of(capsys, one, out, given)
