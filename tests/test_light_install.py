"""Prediction in an environment that has what ``pip install segflow`` installs, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_models
from packaging.requirements import Requirement
from PIL import Image

from segflow.apps._edge import OF_TRAINING
from segflow.exchange.export_model import export_bundle
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def installed(requirements: Sequence[str]) -> Iterator[Distribution]:
    """The distributions that requirements install, with those that they require."""
    seen: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        found = distribution(name)
        waiting += found.requires or []
        yield found


@dataclass(frozen=True)
class Environment:
    """An environment with the light install.

    Attributes:
        python: Its interpreter.
        folder: A folder to work in.
    """

    python: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, without the tester's own paths and settings."""
        own = ("PYTHON", "SEGFLOW_", "nnUNet_", "VIRTUAL_ENV")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(own)}
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False)

    def segflow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "segflow", *arguments)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment is made of links to what is installed here, so that nothing is downloaded."""
    place = tmp_path_factory.mktemp("light")
    venv.create(place / "env", with_pip=False, symlinks=True)
    (site,) = (place / "env").glob("lib/python3*/site-packages")
    for found in installed(PROJECT["dependencies"]):
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        for top in sorted(tops):
            source = Path(str(found.locate_file(top)))
            if source.exists() and source.suffix != ".pth" and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "segflow").symlink_to(ROOT / "segflow")
    info = site / "segflow-0.1.0.dist-info"
    info.mkdir()
    required = [f"Requires-Dist: {text}; extra == 'train'" for text in PROJECT["optional-dependencies"]["train"]]
    info.joinpath("METADATA").write_text("\n".join(["Name: segflow", "Version: 0.1.0", *required]), encoding="utf-8")
    return Environment(place / "env" / "bin" / "python", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def bundle(light: Environment) -> Path:
    """A bundle of a 3D model beside a folder with one image for it."""
    images = light.folder / "images"
    images.mkdir()
    voxels = np.random.default_rng(0).normal(size=(20, 18, 17)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 1.5, 1.0])), images / "a_0000.nii.gz")
    return export_bundle(tiny_models.make_run(light.folder), light.folder / "tiny.segflow")


def test_nothing_of_training_is_there(light: Environment) -> None:
    script = f"from importlib.util import find_spec; print([m for m in {OF_TRAINING} if find_spec(m)])"
    result = light.run("-c", script)
    assert result.stdout == "[]\n", result.stderr
    required = " ".join(PROJECT["optional-dependencies"]["train"]).replace("-", "_")
    assert all(re.search(rf"\b{module}\b|\b{module}_core\b", required) for module in OF_TRAINING)


def test_the_command_predicts_and_scores(light: Environment, bundle: Path) -> None:
    words = ["input=images", "output=out", "inference=quick", "inference.device=cpu"]
    result = light.segflow("predict", f"model={bundle}", *words)
    assert result.returncode == 0, result.stderr
    assert "Predicted 1 case" in result.stdout
    made = np.asanyarray(nibabel.load(light.folder / "out" / "a.nii.gz").dataobj)
    image = np.asanyarray(nibabel.load(light.folder / "images" / "a_0000.nii.gz").dataobj)
    quick = SlidingWindowSettings(mirroring=False, overlap=0.25)
    expected = Predictor.load(bundle, device="cpu", settings=quick).predict(image.T[None], (1.5, 1, 1))
    np.testing.assert_array_equal(made.T, expected)
    assert len(np.unique(made)) > 1
    scored = light.segflow("evaluate", "prediction=out", "reference=out", "processes=0")
    assert scored.returncode == 0, scored.stderr
    assert "organ" in scored.stdout
    summary = json.loads((light.folder / "out" / "summary.json").read_text())
    assert 1 in (scores["Dice"] for scores in summary["metric_per_case"][0]["metrics"].values())
    again = light.run("-c", "import segflow; print(segflow.evaluate(prediction='out', reference='out').score)")
    assert again.stdout == "1.0\n", again.stderr


def test_the_same_with_devices_side_by_side(light: Environment, bundle: Path) -> None:
    words = ["input=images", "output=shared", "inference=quick", "devices=[cpu,cpu]", "verbose=true"]
    result = light.segflow("predict", f"model={bundle}", *words)
    assert result.returncode == 0, result.stderr
    assert (light.folder / "shared" / "a.nii.gz").is_file()


def test_python_predicts_pictures(light: Environment) -> None:
    run = tiny_models.make_run(light.folder / "2d", "2d", reader="NaturalImage2DIO", channels=3, ending=".png")
    (light.folder / "pictures").mkdir()
    voxels = np.random.default_rng(0).integers(0, 255, (30, 41, 3), dtype=np.uint8)
    Image.fromarray(voxels).save(light.folder / "pictures" / "a_0000.png")
    script = (
        "from segflow import Predictor; from pathlib import Path\n"
        "from segflow.inference.predict_cases import predict_cases\n"
        "from segflow.inference.predict_settings import PredictSettings\n"
        f"assert Predictor.load({str(run)!r}, device='cpu').labels\n"
        f"predict_cases(Path({str(run)!r}), Path('pictures'), Path('made'), PredictSettings(device='cpu'))\n"
    )
    result = light.run("-c", script)
    assert result.returncode == 0, result.stderr
    assert np.asarray(Image.open(light.folder / "made" / "a.png")).shape == (30, 41)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("train dataset=4", "segflow train: 'segflow train' needs more than a light install"),
        ("predict -m shards=1,2 model=x input=y output=z", "segflow predict: '-m' needs more than a light install"),
        ("predict model=x input=y output=z +foo=1", "'foo=1' needs more than a light install"),
        ("predict model=x overlap=0.5)", "'inference.overlap=0.5)' needs more than a light install. Quote special"),
    ],
)
def test_what_needs_more_says_how_to_get_it(line: str, told: str, light: Environment) -> None:
    result = light.segflow(*line.split())
    assert result.returncode == 2
    assert told in result.stderr
    assert result.stderr.endswith(". Type: pip install 'segflow[train]'\n")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("predict modle=x", "there is no setting 'modle'. did you mean"),
        ("predict inference=qick", "Did you mean 'quick'?"),
        ("predict inference.overlap=much", "'inference.overlap' has the wrong type; found much; expected a number"),
    ],
)
def test_mistakes_are_told(line: str, told: str, light: Environment) -> None:
    result = light.segflow(*line.split())
    assert result.returncode == 2
    assert told.lower() in result.stderr.lower()
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["plan", "preprocess", "train"])
def test_python_says_what_needs_more(name: str, light: Environment) -> None:
    result = light.run("-c", f"import segflow; segflow.{name}('dataset=4')")
    assert f"segflow.{name} needs more than a light install. Type: pip install 'segflow[train]'" in result.stderr


def test_help_is_there(light: Environment) -> None:
    assert "inference.overlap=0.5" in light.segflow("predict", "--help").stdout
