"""The commands of the guides about machines and models run, and do what the pages say."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pages import PHANTOM, run_page

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = Path("outputs") / PHANTOM / "nnUNetPlans" / "3d_fullres" / "default"
SHOWN = ["install.md", "guides/slurm.md", "guides/ray.md", "guides/docker.md"]


@pytest.mark.parametrize("page", SHOWN)
def test_commands_for_other_machines_are_understood(
    page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(workspace))  # batch systems set it
    run_page(page, workspace)


def test_several_gpus(workspace: Path) -> None:
    run_page("guides/several_gpus.md", workspace)
    assert (workspace / RUN / "fold_1" / "finished.json").is_file()


def test_memory(workspace: Path) -> None:
    run_page("guides/memory.md", workspace)
    assert (workspace / "data" / "preprocessed" / PHANTOM / "smaller.json").is_file()


def test_cpu_and_apple(workspace: Path) -> None:
    run_page("guides/cpu_and_apple.md", workspace)
    assert list((workspace / "on_cpu").glob("*.nii.gz"))


def test_stop_and_go_on(workspace: Path) -> None:
    run_page("guides/resume.md", workspace)


def test_sweeps(workspace: Path) -> None:
    run_page("guides/sweeps.md", workspace)
    names = {run.name for run in (workspace / RUN).parent.iterdir()}
    assert {"rate-0.01", "rate-0.003"} <= names
    assert len([name for name in names if name.startswith("aug")]) == 2


def test_ensembles(workspace: Path) -> None:
    ran = run_page("guides/ensembles.md", workspace)
    assert "Combined 2 cases" in ran.output("method=majority")
    assert "liver" in ran.output("evaluate prediction=likely")
    assert "no cross-validation" in ran.output("action=average")
    assert "did not start" not in next(r.stderr for c, r in ran.commands if "action=average" in c)


def test_a_model_zoo_of_ones_own(workspace: Path) -> None:
    run_page("guides/model_zoo.md", workspace)
    assert list((workspace / "from_bundle").glob("*.nii.gz"))


def test_serving_a_model(workspace: Path) -> None:
    run_page("guides/serving.md", workspace)
    assert list((workspace / "label_maps").glob("*.nii.gz"))


@pytest.fixture
def service(workspace: Path) -> Iterator[str]:
    """Address of examples/serve.py with the phantom's model."""
    command = [sys.executable, str(ROOT / "examples" / "serve.py"), str(workspace / RUN), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=workspace) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def test_the_service_gives_the_label_map_of_the_command_and_answers_what_it_cannot_read(
    service: str, workspace: Path, tmp_path: Path
) -> None:
    image = sorted((workspace / "data" / "raw" / PHANTOM / "imagesTs").glob("*.nii.gz"))[0]
    with urllib.request.urlopen(urllib.request.Request(service, image.read_bytes())) as answer:
        (tmp_path / "label.nii.gz").write_bytes(answer.read())
    served = sitk.ReadImage(tmp_path / "label.nii.gz")

    from segflow import Predictor

    expected = Predictor.load(workspace / RUN).predict(sitk.ReadImage(image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(served), sitk.GetArrayFromImage(expected))
    assert served.GetSpacing() == expected.GetSpacing()

    with urllib.request.urlopen(service) as answer:
        assert "liver" in json.load(answer)
    for body, headers in ((b"no image", {}), (b"", {}), (b"image", {"Content-Length": "many"})):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(service, body, headers))
        assert refused.value.code == 422
        assert json.load(refused.value)["error"]
