"""``segflow report``: one run, several, a single fold, and a training that goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models

from segflow.apps import _edge, _first_words, _shipped, report
from segflow.core.errors import SegflowError
from segflow.core.selection import Candidate, Selection
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings, overlap_only
from segflow.storage.folds import Fold

CASES = ("a", "b", "c", "d", "e", "f")


def write_label(file: Path, edge: int) -> None:
    label = np.zeros((6, 8, 8), np.uint8)
    label[1:4, 2:edge, 2:6] = 1
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(label), str(file))


def make_run(folder: Path, name: str, edges: Sequence[int], folds: int = 2) -> Path:
    """A run with validated folds: every case's label map, and the scores that a training writes."""
    references = folder / "preprocessed" / tiny_models.DATASET / "gt_segmentations"
    run = folder / "outputs" / tiny_models.DATASET / "nnUNetPlans" / "3d_fullres" / name
    for fold in range(folds):
        cases = CASES[: len(edges)][fold::folds]
        tiny_models.make_run(folder / "outputs", folds=[fold], run_name=name, val_cases=cases)
        validation = Fold(run / f"fold_{fold}").validation
        for case in cases:
            write_label(references / f"{case}.nii.gz", 6)
            write_label(validation / f"{case}.nii.gz", edges[CASES.index(case)])
        labels = tiny_models.record().dataset.labels
        settings = EvaluateSettings(scores=overlap_only(), partial=True, processes=0)
        evaluate_cases(validation, references, labels, settings, file_ending=".nii.gz", output=validation)
    return run


def written(folder: Path, *arguments: str) -> str:
    """Run the command, and read its page."""
    page = folder / "page.html"
    paths = [f"paths.{name}={folder / name}" for name in ("raw", "preprocessed", "outputs")]
    report.run(_edge.compose("report", *paths, *arguments, f"output={page}"))
    return page.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub("<[^>]*>", " ", body).split())


def data_of(page: str) -> Any:
    return json.loads(re.findall(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder with two runs: ``good`` has six cases, and ``poor`` four of them."""
    folder = tmp_path_factory.mktemp("report")
    return folder, make_run(folder, "good", [6, 5, 6, 5, 6, 5]), make_run(folder, "poor", [4, 4, 4, 5])


def test_a_run_has_all_scores_by_label_and_fold_and_the_decision(runs: tuple[Path, Path, Path]) -> None:
    folder, good, _ = runs
    best = Candidate("3d_fullres/good", (str(good),), (("0", "1"),), 0.93, {1: 0.93})
    other = Candidate("2d", ("outputs/x",), (("0", "1"),), 0.9, {1: 0.9}, 0.03, 0.01, 0.05)
    chosen = Selection("D", (best, other), CASES, "c", "p", 0.94, ("It leads by <noise>.",), ())
    file = folder / "outputs" / tiny_models.DATASET / "selection.json"
    file.write_text(json.dumps(chosen.to_json()))
    page = written(folder, f"run={good}")
    file.unlink()
    text = text_of(page)
    for words in (
        "Chosen on 6 cases: 3d_fullres/good, with Dice 0.9300, and 0.9400 after the chosen postprocessing.",
        *("0.0100 … 0.0500", "It leads by &lt;noise&gt;.", "HD95 [mm]", "surface Dice", "mean ± sd 6"),
        *("fold cases Dice", "There are no pictures of cases"),
    ):
        assert words in text
    keys = [metric["key"] for metric in data_of(page)["metrics"]]
    assert keys[0] == "Dice"
    assert {"hd95_mm", "surface_dice", "lesion_f1", "volume_difference_mm3", "TP"} <= set(keys)


def test_all_scores_are_computed_once_and_again_for_other_label_maps(runs: tuple[Path, Path, Path]) -> None:
    folder, good, _ = runs
    written(folder, f"run={good}")
    kept = good / "fold_0" / "validation" / "all_scores" / "summary.json"
    before = kept.stat().st_mtime_ns
    written(folder, f"run={good}")
    assert kept.stat().st_mtime_ns == before
    reference = folder / "preprocessed" / tiny_models.DATASET / "gt_segmentations" / "a.nii.gz"
    write_label(reference, 7)
    written(folder, f"run={good / 'fold_0'}")
    assert kept.stat().st_mtime_ns > before
    write_label(reference, 6)


def test_without_references_or_on_demand_the_stored_scores_are_shown(runs: tuple[Path, Path, Path]) -> None:
    folder, good, _ = runs
    page = written(folder, f"run={good}", "all_scores=false")
    assert "HD95" not in text_of(page)
    assert len(data_of(page)["runs"][0]["cases"]) == 6
    page = written(folder, f"run={good}", f"paths.preprocessed={folder / 'nowhere'}")
    assert "Only the scores that the validation of fold 0 wrote are shown: there is no folder" in text_of(page)


def test_runs_are_compared_on_the_cases_that_all_have(runs: tuple[Path, Path, Path]) -> None:
    folder, good, poor = runs
    _first_words.check("report", [f"run={good},{poor}"], [_shipped.config_dir()])  # is not refused as several values
    for typed in (f"run={good},{poor}", f"run=[{good},{poor}]"):
        page = written(folder, typed)
        text, data = text_of(page), data_of(page)
        assert [run["name"] for run in data["runs"]] == ["3d_fullres/good", "3d_fullres/poor"]
        assert [run["cases"] for run in data["runs"]] == [["a", "b", "c", "d"]] * 2
        assert "Compared on the 4 cases that all runs have." in text
        assert "HD95 [mm] organ 3d_fullres/good 3d_fullres/poor" in text
        assert "3d_fullres/good and 3d_fullres/poor are not distinguishable" in text
        assert "Seed noise is unknown" in text
        assert "mean rank first places" in text
        first, second = (run["scores"]["Dice"][0] for run in data["runs"])
        assert f"{np.mean(second) - np.mean(first):+.4f}" in text


def test_runs_that_share_nothing_are_refused(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder, good, _ = runs
    with pytest.raises(SegflowError, match=r"no scored case in common; found .*fold_0: folds 0, .*fold_1: folds 1"):
        written(folder, f"run={good}/fold_0,{good}/fold_1")
    other = tiny_models.make_run(tmp_path, labels={"background": 0, "lung": 1})
    with pytest.raises(SegflowError, match="only runs with the same labels can be compared"):
        written(folder, f"run={good},{other}")


def test_a_training_that_goes_on_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, "begun", [6, 5], folds=1)
    tiny_models.make_run(tmp_path / "outputs", folds=[1], run_name="begun")
    going = Fold(run / "fold_1")
    going.finished_file.unlink()
    going.metrics_csv.write_text("epoch,train/loss\n0,0.5\n1,0.4\n")
    page = written(tmp_path, f"run={run}")
    assert "Fold 1 is not trained to its end: 2 epochs. It has no scores yet." in text_of(page)
    assert "The scores are those of 2 of" in text_of(page)
    assert data_of(page)["runs"][0]["curves"]["1"] == {"train/loss": [0.5, 0.4]}
    page = written(tmp_path, f"run={run / 'fold_1'}")
    assert 'id="scores"' not in page
    assert 'id="training"' in page


def test_an_imported_run_without_scores_has_a_page(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "outputs")
    assert "Fold 0 is trained, and its validation cases are not scored." in text_of(written(tmp_path, f"run={run}"))


def test_settings_that_were_changed_stand_beside_their_defaults(tmp_path: Path) -> None:
    fold = Fold(tiny_models.make_run(tmp_path / "outputs") / "fold_0")
    settings = {
        "run_name": "mine",
        "paths": {"raw": "/x"},
        "trainer": {"_target_": "pytorch_lightning.Trainer", "max_epochs": 7, "gradient_clip_val": 12.0},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
    }
    fold.record_file.write_text(json.dumps({**json.loads(fold.record_file.read_text()), "settings": settings}))
    (fold.path / ".hydra").mkdir()
    (fold.path / ".hydra" / "overrides.yaml").write_text("- trainer.max_epochs=7\n- optimizer=<adamw>\n")
    text = text_of(written(tmp_path, f"run={fold.path.parent}"))
    assert "3 settings differ from the defaults." in text
    for words in (
        "run_name default mine",
        "trainer.max_epochs 1000 7",
        "optimizer._target_ torch.optim.SGD torch.optim.AdamW",
    ):
        assert words in text
    assert "As typed: trainer.max_epochs=7 optimizer=&lt;adamw&gt;" in text
