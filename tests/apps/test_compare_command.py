"""``segflow compare``: runs, seeds, summaries and tables; its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from apps_commands import start

import segflow
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import OVERLAP_METRICS, CaseMetrics, Summary
from segflow.evaluation.summary import write_summary
from segflow.storage.folds import Fold

CASES = tuple(f"scan_{number:02d}x" for number in range(24))
HARDNESS = np.random.default_rng(0).uniform(0.7, 0.9, len(CASES))
LABELS = Labels.from_json(tiny_models.LABELS)


def put(folder: Path, dice: Sequence[float], cases: Sequence[str] = CASES) -> Path:
    """Scores as a validation writes them."""
    scores = [{key: {**dict.fromkeys(OVERLAP_METRICS, 1.0), "Dice": float(value)} for key in (1, 2)} for value in dice]
    found = [CaseMetrics(case, one, f"{case}.nii.gz", "r") for case, one in zip(cases, scores, strict=True)]
    write_summary(Summary.of_cases(found), LABELS, folder)
    return folder


def make_run(outputs: Path, name: str, dice: Sequence[float], **settings: Any) -> Path:
    run = tiny_models.make_run(outputs, run_name=name, val_cases=CASES)
    fold = Fold(run / "fold_0")
    content = json.loads(fold.record_file.read_text())
    training = {"seed": settings.pop("seed", 0), "num_workers": len(name)}
    content["settings"] = {"run_name": name, "training": training, "optimizer": {"lr": 0.01, **settings}}
    fold.record_file.write_text(json.dumps(content))
    put(fold.validation, dice)
    return run


def noise(number: int) -> np.ndarray:
    return HARDNESS + np.random.default_rng(number).normal(0, 0.003, len(CASES))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Three seeds of a setting, and three of one with a higher rate that is better."""
    folder = tmp_path_factory.mktemp("compare")
    made = [make_run(folder / "outputs", f"base_s{seed}", noise(seed), seed=seed) for seed in range(3)]
    made += [
        make_run(folder / "outputs", f"fast_s{seed}", noise(9 + seed) + 0.02, seed=seed, lr=0.1) for seed in range(3)
    ]
    return folder, [str(run.relative_to(folder)) for run in made]


def test_runs_that_differ_by_their_seed_are_one_setting(runs: tuple[Path, list[str]]) -> None:
    folder, made = runs
    done = start(folder, "compare", f"runs={','.join(made)}")
    assert done.returncode == 0, done.stderr
    assert "3d_fullres/fast is better than 3d_fullres/base: +0.0" in done.stdout
    assert "3d_fullres/base: 3 runs that differ by their seed: 3d_fullres/base_s0, 3d_fullres/base_s1" in done.stdout
    assert "unknown" not in done.stdout
    output = folder / "outputs" / tiny_models.DATASET / "comparisons" / "3d_fullres-base_3d_fullres-fast"
    assert f"Written to {output.relative_to(folder)}." in done.stdout
    assert f"Next: segflow report run=[{made[0]}," in done.stdout.replace("'", "")
    assert {file.name for file in output.iterdir()} == {
        *("comparison.json", "comparison.csv", "comparison.png", "comparison.svg", ".segflow"),
    }
    content = json.loads((output / "comparison.json").read_text())
    assert [len(one["trainings"]) for one in content["settings"]] == [3, 3]
    assert content["pairs"][0]["test"] == "seeds and cases"
    with (output / "comparison.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["metric"], row["label"]) for row in rows] == [
        ("Dice", "mean of labels"), ("Dice", "organ"), ("Dice", "lesion"),
    ]  # fmt: skip
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (output / "comparison.svg").read_text()


def test_a_comparison_is_made_anew_when_scores_change_and_replaces_nothing_of_yours(
    runs: tuple[Path, list[str]], tmp_path: Path
) -> None:
    first, second = put(tmp_path / "a", HARDNESS), put(tmp_path / "b", noise(1))
    words = ("compare", f"runs=[{first},{second}]", "output=out")
    assert "not distinguishable" in start(tmp_path, *words).stdout
    before = (tmp_path / "out" / "comparison.svg").read_bytes()
    assert start(tmp_path, *words).returncode == 0
    assert (tmp_path / "out" / "comparison.svg").read_bytes() == before
    put(second, HARDNESS + np.linspace(0.01, 0.02, len(CASES)))
    assert "b is better than a" in start(tmp_path, *words).stdout
    assert (tmp_path / "out" / "comparison.svg").read_bytes() != before
    (tmp_path / "out" / "comparison.csv").write_text("mine")
    refused = start(tmp_path, *words)
    assert refused.returncode == 1
    assert "segflow did not write, or that were changed since" in refused.stderr
    assert (tmp_path / "out" / "comparison.csv").read_text() == "mine"


def test_seeds_are_named_for_scores_without_settings(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / f"s{number}", noise(number) + 0.02 * (number > 2))
    folders = [tmp_path / f"s{number}" for number in range(5)]
    old, new = (",".join(map(str, part)) for part in (folders[:3], folders[3:]))
    found = segflow.compare(f"seeds={{old:[{old}],new:[{new}]}}", output=tmp_path / "out")
    assert found.settings == ("old", "new")
    assert [len(own) for own in found.trainings] == [3, 2]


def test_from_python(runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, made = runs
    found = segflow.compare(runs=[folder / made[0], folder / made[3]], output=tmp_path / "out", correction="none")
    assert (found.metrics, len(found.cases), found.correction) == (("Dice",), 24, "none")
    assert found.rows[0].pair.winner(found.alpha) == 1
    with pytest.raises(SegflowError, match="nothing to compare with"):
        segflow.compare(runs=[folder / made[0]])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to compare with. Give runs="),
        (["runs=[nowhere,none]"], "there is no nowhere; expected the folder of a run"),
        (["runs=[a,a]"], "the same scores are given twice"),
        (["runs=[a,b]", "metric=hd95"], "metric 'hd95' is missing in a"),
        (["runs=[a,b]", "correction=fdr"], "unknown correction; found fdr; expected holm | bonferroni | none"),
        (["runs=[a,other]"], "there is no case that all have a score of"),
        (["seeds={a:a}"], "there is nothing to compare with"),
        (["a", "b"], "Did you mean 'runs=a'?"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, words: list[str], message: str) -> None:
    put(tmp_path / "a", HARDNESS)
    put(tmp_path / "b", noise(1))
    put(tmp_path / "other", [0.5], ["another"])
    done = start(tmp_path, "compare", *words)
    assert done.returncode != 0
    assert message in done.stderr


def test_names_of_labels_that_contradict_are_refused(tmp_path: Path) -> None:
    for name, label in (("a", "liver"), ("b", "spleen")):
        put(tmp_path / name, HARDNESS)
        content = tiny_models.dataset_json() | {"labels": {"background": 0, label: 1, "lesion": 2}}
        (tmp_path / name / "dataset.json").write_text(json.dumps(content))
    done = start(tmp_path, "compare", "runs=[a,b]")
    assert "label 1 is 'liver' in a and 'spleen' in b" in done.stderr


def test_all_scores_are_computed_for_runs_on_demand(tmp_path: Path) -> None:
    from test_report_command import make_run as make_scored  # with label maps and references

    good, poor = make_scored(tmp_path, "good", [6, 5, 6, 5, 6, 5]), make_scored(tmp_path, "poor", [4, 4, 4, 5, 4, 5])
    paths = [f"paths.{name}={tmp_path / name}" for name in ("preprocessed", "outputs")]
    plain = start(tmp_path, "compare", f"runs={good},{poor}", *paths)
    assert "HD95" not in plain.stdout
    full = start(tmp_path, "compare", f"runs={good},{poor}", "all_scores=true", *paths)
    assert "HD95 [mm]" in full.stdout, full.stderr
    kept = start(tmp_path, "compare", f"runs={good},{poor}", "metric=nsd", *paths)
    assert "surface Dice" in kept.stdout, kept.stderr
