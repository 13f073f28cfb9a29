"""Scores are read from runs, summaries of segflow and nnU-Net, and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models

from segflow.core.errors import SegflowError
from segflow.core.metrics import OVERLAP_METRICS
from segflow.evaluation.read_scores import read_scores
from segflow.storage.folds import Fold


def summary(dice: dict[str, float], *, labels: tuple[str, ...] = ("1", "2"), ending: str = ".nii.gz") -> dict[str, Any]:
    def scores(value: float) -> dict[str, dict[str, float]]:
        return {label: {**dict.fromkeys(OVERLAP_METRICS, 1.0), "Dice": value} for label in labels}

    cases = [
        {"prediction_file": f"/x/{case}{ending}", "reference_file": f"/y/{case}{ending}", "metrics": scores(value)}
        for case, value in dice.items()
    ]
    mean = scores(float(np.mean(list(dice.values()))))
    return {"foreground_mean": mean[labels[0]], "mean": mean, "metric_per_case": cases}


def put(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def test_a_run_is_read_over_its_folds(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=[0], val_cases=("a", "b"))
    tiny_models.make_run(tmp_path, folds=[1], val_cases=("c",))
    tiny_models.make_run(tmp_path, folds=[2], val_cases=("d",))
    put(Fold(run / "fold_0").validation, summary({"b": 0.5, "a": 0.7}))
    put(Fold(run / "fold_1").validation, summary({"c": 0.9}))
    found = read_scores(run, "mine")
    assert found.table.cases == ("a", "b", "c")
    np.testing.assert_array_equal(found.table.values["Dice"][:, 0], [0.7, 0.5, 0.9])
    assert found.label_names == {"1": "organ", "2": "lesion"}
    assert found.notes == ("mine: fold 2 has no scores yet.",)
    assert len(found.records) == len(found.files) == 2
    assert read_scores(run / "fold_1", "mine").table.cases == ("c",)


def test_scores_of_seen_cases_are_refused(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=["all"], val_cases=("a",))
    with pytest.raises(SegflowError, match=r"mine are of cases that the model was trained on.*fold_all"):
        read_scores(run, "mine")
    fold = Fold(tiny_models.make_run(tmp_path / "two", folds=[0], val_cases=("a",)) / "fold_0")
    seen = fold.read_record().train_cases[0]
    put(fold.validation, summary({seen: 0.9}))
    with pytest.raises(SegflowError, match=f"fold 0 was trained on {seen}"):
        read_scores(fold.path, "mine")
    predictions = put(tmp_path / "predictions", summary({seen: 0.9}))
    (predictions / "predict.json").write_text(json.dumps({"model": str(fold.path.parent), "folds": ["0"]}))
    with pytest.raises(SegflowError, match=f"which predicted them, was trained on {seen}"):
        read_scores(predictions, "mine")
    put(predictions, summary({"new": 0.9}))
    assert read_scores(predictions, "mine").table.cases == ("new",)


def test_nnunets_models_are_read(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold, cases in enumerate(({"case.01": 0.5}, {"case.02": 0.6})):
        put(model / f"fold_{fold}" / "validation", summary(cases, labels=("(1, 2)", "2")))
    (model / "dataset.json").write_text(json.dumps(tiny_models.dataset_json(regions=True)))
    found = read_scores(model, "theirs")
    assert found.table.cases == ("case.01", "case.02")
    assert found.label_names == {"(1, 2)": "whole", "2": "lesion"}
    assert read_scores(model / "fold_1", "theirs").table.cases == ("case.02",)
    (model / "fold_0").rename(model / "fold_all")
    with pytest.raises(SegflowError, match="trained on all cases"):
        read_scores(model / "fold_all", "theirs")


def test_a_summary_is_read_by_its_folder_or_itself(tmp_path: Path) -> None:
    folder = put(tmp_path / "scores", {**summary({"a": 0.5}), "failed": {"b": "too small"}})
    for path in (folder, folder / "summary.json"):
        found = read_scores(path, "S")
        assert (found.table.cases, found.table.labels) == (("a",), ("1", "2"))
        assert found.notes == ("S: cases that could not be scored are left out: b",)


def test_a_table_is_read_with_and_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("case,label,name,Dice,n_pred,n_ref\na,1,organ,0.5,3,3\na,2,tumour,NaN,0,0\nb,1,organ,,2,0\n")
    found = read_scores(file, "M")
    assert found.table.cases == ("a", "b")
    assert found.label_names == {"1": "organ", "2": "tumour"}
    assert found.table.absent.tolist() == [[False, True], [False, False]]
    np.testing.assert_array_equal(found.table.values["Dice"], [[0.5, np.nan], [np.nan, np.nan]])
    file.write_text("ID,dice,HD95_mm\na,0.5,inf\nb,0.75,2\n")
    plain = read_scores(file, "M").table
    assert (plain.labels, list(plain.values)) == (("score",), ["Dice", "hd95_mm"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,Dice\na,0.5\n", "no column of cases; found scan, Dice"),
        ("case,Dice\na,0.5\na,0.6\n", "two scores of one case; found a"),
        ("case,Dice\na,good\n", "line 2: 'Dice' is no number; found good"),
        ("case;Dice\na;0,91\n", "line 2: 'Dice' is no number; found 0,91. Write it with a decimal point"),
        ("case,Dice\na,0.5\nb,85\n", "Dice must lie between 0 and 1; found 85. Divide percentages by 100"),
        ("case,Dice\n", "holds no scores"),
        ("", "no column of cases"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(SegflowError, match=message):
        read_scores(tmp_path / "t.csv", "T")


def test_what_holds_no_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"there is no .*nowhere; expected the folder of a run"):
        read_scores(tmp_path / "nowhere", "N")
    with pytest.raises(SegflowError, match="holds no scores; expected the folder of a run"):
        read_scores(tmp_path, "N")
    (tmp_path / "model.segflow").write_text("")
    with pytest.raises(SegflowError, match="holds no scores that are known here"):
        read_scores(tmp_path / "model.segflow", "N")
    run = tiny_models.make_run(tmp_path, folds=[0])
    with pytest.raises(SegflowError, match="mine has no scores yet"):
        read_scores(run, "mine")
