"""segflow as a library: the commands as functions, light to import, settings as texts or keywords."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apps_commands import PATHS

import segflow
from segflow.apps import _python
from segflow.core.errors import CaseErrors, SegflowError
from segflow.storage.phantom import make_phantom

TINY = {"planner__base_features": 4, "planner__max_features_3d": 8, "planner__max_features_2d": 8}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in PATHS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_dataset_is_planned_preprocessed_trained_and_scored_from_python(place: Path) -> None:
    make_phantom(place / "data" / "raw" / "Dataset001_Phantom", cases=5, held_out=1)
    planned = segflow.plan(dataset="phantom", processes=0, **TINY)
    assert set(planned.plans.configurations) >= {"2d", "3d_fullres"}
    prepared = segflow.preprocess("dataset=phantom", configurations="2d", preprocessing__processes=0)
    assert len(prepared.done) == 5
    trained = segflow.train(
        *("dataset=phantom", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"),
        configuration="2d", fold=0, logger="csv", inference__mirroring=False, training__num_workers=0,
    )  # fmt: skip
    assert trained.finished
    assert trained.folder == Path("outputs/Dataset001_Phantom/nnUNetPlans/2d/default/fold_0")
    references = place / "data" / "raw" / "Dataset001_Phantom" / "labelsTr"
    assert trained.summary is not None
    assert trained.summary.score == trained.value
    summary = segflow.evaluate(prediction=references, reference=str(references), output="scores")
    assert summary.score == 1
    assert (place / "scores" / "summary.json").is_file()
    spoilt = shutil.copytree(references, place / "a folder, (spoilt)")
    next(spoilt.glob("*.nii.gz")).write_bytes(b"")
    with pytest.raises(CaseErrors, match="some cases could not be evaluated"):
        segflow.evaluate(prediction=spoilt, reference=references)


@pytest.mark.parametrize(
    ("command", "arguments", "settings", "said"),
    [
        ("plan", ("42",), {}, "Did you mean 'dataset=42'"),
        ("plan", (), {"dataset": "phantom", "planer": "resenc_m"}, "planer"),
        ("train", ("dataset=phantom",), {"optimizer": "sdg"}, "no 'sdg' for 'optimizer'"),
        ("train", (), {"dataset": {"name": "x"}}, "'dataset': dict cannot be written as a setting; expected a text"),
        ("train", (), {}, "which dataset"),
        ("preprocess", ("dataset=phantom", "shards=2"), {}, "segflow.preprocess works in this process"),
        ("train", ("dataset=phantom",), {"trainer__devices": 2}, "segflow.train trains on one device"),
        ("evaluate", (), {"prediction": "x"}, "reference= is missing"),
    ],
)
def test_what_is_wrong_is_told_as_the_command_tells_it(
    command: str, arguments: tuple[str, ...], settings: dict[str, object], said: str
) -> None:
    with pytest.raises(SegflowError, match=said):
        getattr(segflow, command)(*arguments, **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"dataset": 42}, "42"),
        ({"dataset": "42"}, "42"),
        ({"dataset": "Dataset042_X", "fold": "0"}, "Dataset042_X"),
        ({"dataset__name": "Dataset042_X", "dataset__source": "raw"}, "Dataset042_X"),
    ],
)
def test_a_dataset_is_named_as_on_the_command_line(settings: dict[str, object], expected: str) -> None:
    record = _python._composed("plan", list(_python._typed("plan", settings)))
    assert record.dataset.name == expected
    assert record.dataset.source == "raw"


def test_paths_with_every_sign_arrive_as_they_are() -> None:
    path = Path("a b/[1], (x=2) ${y} 'z'")
    record = _python._composed(
        "evaluate", list(_python._typed("evaluate", {"prediction": path, "reference": str(path)}))
    )
    assert (record.prediction, record.reference) == (path, path)


def test_import_is_light_and_names_are_offered() -> None:
    code = (
        "import sys, segflow\n"
        "assert set(segflow.__all__) <= set(dir(segflow))\n"
        "assert segflow.__version__[0].isdigit()\n"
        "heavy = {'torch', 'numpy', 'hydra', 'yaml', 'pytorch_lightning', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match="no attribute 'predictor_'"):
        _ = segflow.predictor_
