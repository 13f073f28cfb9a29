"""Ranking runs and ensembles by their cross-validation."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from selection_runs import (
    CASES,
    probabilities_of,
    read_map,
    reference_map,
    stamp_validation,
    write_map,
    write_references,
    write_run,
)

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.metrics import mean_of_defined
from segflow.core.selection import Candidate, Selection
from segflow.evaluation.overlap import count_pairs
from segflow.postprocessing.apply_postprocessing import apply_postprocessing, read_choice
from segflow.selection.commands import predict_commands
from segflow.selection.crossval import accumulate_crossval
from segflow.selection.select_configuration import select_configuration
from segflow.selection.select_settings import SelectSettings
from segflow.selection.table import selection_rows
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.runs import CROSSVAL_FOLDER, find_runs

QUALITY = {"2d": (1, 0.55), "3d_fullres": (2, 0.45), "3d_lowres": (3, 0.6)}


def _runs(outputs: Path, names: tuple[str, ...] = tuple(QUALITY), **options: object) -> list[Path]:
    return [write_run(outputs, n, seed=QUALITY[n][0], noise=QUALITY[n][1], **options) for n in names]  # type: ignore[arg-type]


def _dice_by_hand(names: tuple[str, ...]) -> float:
    per_label = []
    for label in (1, 2):
        values = []
        for case_id in CASES:
            mean = np.mean([probabilities_of(case_id, *QUALITY[name]) for name in names], axis=0)
            values.append(count_pairs(reference_map(case_id), mean.argmax(0)).overlap(label).dice)
        per_label.append(mean_of_defined(values))
    return float(np.mean(per_label))


def test_every_run_and_every_ensemble_up_to_three_is_ranked_by_its_dice(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    selection = select_configuration(runs, write_references(tmp_path / "ref"), tmp_path)
    expected = {" + ".join(names): _dice_by_hand(names) for size in (1, 2, 3) for names in combinations(QUALITY, size)}
    assert {c.name: c.dice for c in selection.candidates} == pytest.approx(expected, abs=1e-6)
    scores = [candidate.dice for candidate in selection.candidates]
    assert scores == sorted(scores, reverse=True)
    assert selection.best.dice == max(scores)
    assert selection.cases == CASES
    assert len(selection.best.runs) > 1  # independent errors cancel


def test_a_winning_ensemble_leaves_its_label_maps_and_postprocessing(tmp_path: Path) -> None:
    selection = select_configuration(_runs(tmp_path), write_references(tmp_path / "ref"), tmp_path)
    folder = Path(selection.crossval)
    assert folder.parent == tmp_path / "ensembles"
    names = selection.best.name.split(" + ")
    for case_id in CASES:
        mean = np.mean([probabilities_of(case_id, *QUALITY[name]) for name in names], axis=0)
        assert (read_map(folder / f"{case_id}.nii.gz") != mean.argmax(0)).mean() < 1e-3
    choice = read_choice(Path(selection.postprocessing))
    assert choice.cases == len(CASES)
    assert mean_of_defined(list(choice.before.values())) == pytest.approx(selection.best.dice)
    assert selection.dice_after >= selection.best.dice


def test_a_winning_run_is_postprocessed_in_its_own_folder(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    settings = SelectSettings(max_members=1)
    selection = select_configuration(runs, write_references(tmp_path / "ref"), tmp_path, settings)
    assert selection.best.name == "3d_fullres"
    assert Path(selection.crossval) == runs[1] / "crossval"
    assert (runs[1] / "crossval" / "postprocessing.json").is_file()
    assert len(selection.candidates) == 3


def test_the_file_says_all_and_comes_back(tmp_path: Path) -> None:
    selection = select_configuration(_runs(tmp_path), write_references(tmp_path / "ref"), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "selection.json").read_text())
    assert Selection.from_json(content) == selection
    assert content["best"] == selection.best.name
    rows = selection_rows(selection)
    assert rows[1][0] == selection.best.name
    assert rows[1][-1] == "best"
    assert len(rows) == 8
    with pytest.raises(SegflowError, match=r"selection\.json"):
        Selection.from_json({"best": "2d"})


def test_equal_runs_are_within_noise_and_the_first_is_taken(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, "3d_fullres", seed=1, noise=0.5, run_name=name) for name in ("a", "b")]
    selection = select_configuration(runs, write_references(tmp_path / "ref"), tmp_path)
    assert selection.best.name == "3d_fullres/a"
    assert all(candidate.within_noise for candidate in selection.candidates)
    assert any("within noise" in note for note in selection.notes)


def test_a_clear_lead_is_no_noise(tmp_path: Path) -> None:
    good = write_run(tmp_path, "3d_fullres", seed=1, noise=0.1)
    bad = write_run(tmp_path, "2d", seed=2, noise=0.8)
    settings = SelectSettings(max_members=1)
    selection = select_configuration([bad, good], write_references(tmp_path / "ref"), tmp_path, settings)
    loser = selection.candidates[1]
    assert loser.name == "2d"
    assert loser.behind == pytest.approx(selection.best.dice - loser.dice)
    assert 0 < loser.behind_low <= loser.behind <= loser.behind_high
    assert not loser.within_noise
    assert "more than noise" in selection.notes[-1]


def test_runs_without_probabilities_take_part_alone(tmp_path: Path) -> None:
    runs = [*_runs(tmp_path, ("2d", "3d_fullres")), *_runs(tmp_path, ("3d_lowres",), keep_probabilities=False)]
    selection = select_configuration(runs, write_references(tmp_path / "ref"), tmp_path)
    assert {c.name for c in selection.candidates} == {"2d", "3d_fullres", "3d_lowres", "2d + 3d_fullres"}
    note = next(note for note in selection.notes if "probabilities" in note)
    assert "3d_lowres" in note
    assert "save_probabilities=true" in note


def test_runs_of_different_folds_are_compared_on_common_cases(tmp_path: Path) -> None:
    whole = write_run(tmp_path, "3d_fullres", seed=2, noise=0.45)
    part = write_run(tmp_path, "2d", seed=1, noise=0.5, folds=1, cases=CASES[:3])
    selection = select_configuration([whole, part], write_references(tmp_path / "ref"), tmp_path)
    assert selection.cases == CASES[:3]
    assert any("3 validation cases" in note for note in selection.notes)


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    references = write_references(tmp_path / "ref")
    one = write_run(tmp_path, "2d", seed=1, noise=0.5, cases=CASES[:3], folds=1)
    other = write_run(tmp_path, "3d_fullres", seed=1, noise=0.5, cases=CASES[3:], folds=1)
    with pytest.raises(SegflowError, match="no validation case in common"):
        select_configuration([one, other], references, tmp_path)
    third = write_run(tmp_path, "3d_lowres", seed=1, noise=0.5)
    for k in range(2):
        fold = Fold(third / f"fold_{k}")
        record = fold.read_record()
        fold.write_record(replace(record, dataset=replace(record.dataset, name="Dataset901_Other")))
    with pytest.raises(SegflowError, match="one dataset"):
        select_configuration([one, third], references, tmp_path)
    with pytest.raises(SegflowError, match="segflow train"):
        select_configuration([], references, tmp_path)


def test_crossval_brings_all_folds_together(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", seed=2, noise=0.45, folds=3)
    (run / "crossval").mkdir()
    (run / "crossval" / "gone.nii.gz").write_bytes(b"of a fold that is gone")
    found = accumulate_crossval(run, write_references(tmp_path / "ref"))
    assert found.folds == ("0", "1", "2")
    assert sorted(f.name for f in (run / "crossval").glob("*.nii.gz")) == [f"{c}.nii.gz" for c in CASES]
    assert found.summary.score == pytest.approx(_dice_by_hand(("3d_fullres",)))
    assert json.loads((run / "crossval" / "summary.json").read_text())["foreground_mean"]["Dice"] == pytest.approx(
        found.summary.score
    )
    for case_id, fold in found.cases.items():
        np.testing.assert_array_equal(
            read_map(run / "crossval" / f"{case_id}.nii.gz"), read_map(fold.validation / f"{case_id}.nii.gz")
        )


def test_a_fold_of_all_cases_is_no_cross_validation(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", seed=2, noise=0.45)
    (run / "fold_0").rename(run / "fold_all")
    found = accumulate_crossval(run, write_references(tmp_path / "ref"))
    assert found.folds == ("1",)
    (run / "fold_1").rename(tmp_path / "elsewhere")
    found = accumulate_crossval(run, tmp_path / "ref")
    assert found.folds == ("all",)
    assert "trained on the cases" in found.notes[0]


def test_a_crossval_that_is_not_whole_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", seed=2, noise=0.45)
    references = write_references(tmp_path / "ref")
    (run / "fold_1" / "validation" / "c1.nii.gz").unlink()
    with pytest.raises(SegflowError, match=r"case 'c1'.*segflow train"):
        accumulate_crossval(run, references)
    record = Fold(run / "fold_0").read_record()
    Fold(run / "fold_1").write_record(record)
    with pytest.raises(SegflowError, match="validation case of"):
        accumulate_crossval(run, references)


def test_a_fold_in_training_does_not_keep_the_others_from_being_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", seed=2, noise=0.45)
    shutil.rmtree(run / "fold_1" / "validation")
    found = accumulate_crossval(run, write_references(tmp_path / "ref"))
    assert found.folds == ("0",)
    assert "fold_1 is not trained to its end" in found.notes[0]
    Fold(run / "fold_1").checkpoint("final").parent.mkdir(parents=True)
    Fold(run / "fold_1").checkpoint("final").touch()
    Fold(run / "fold_1").mark_finished()
    with pytest.raises(SegflowError, match="is incomplete"):
        accumulate_crossval(run, tmp_path / "ref")


def test_runs_are_found_below_any_folder(tmp_path: Path) -> None:
    runs = _runs(tmp_path)
    assert find_runs(tmp_path) == sorted(runs)
    assert find_runs(runs[0]) == [runs[0]]
    with pytest.raises(SegflowError, match="no run"):
        find_runs(tmp_path / "empty")


def test_the_commands_name_everything_that_is_needed(tmp_path: Path) -> None:
    record = Fold(write_run(tmp_path, "2d", seed=2, noise=0.45) / "fold_0").read_record()
    single = Candidate("2d", ("out/2d",), (("0", "1"),), 0.9, {1: 0.9})
    assert predict_commands(single, [record], None) == (
        "segflow predict model=out/2d input=INPUT output=OUTPUT 'inference.folds=[0,1]'",
    )
    pair = Candidate("2d + 3d", ("out/2d", "out/my run"), (("0",), ("0",)), 0.9, {1: 0.9})
    inference = {"overlap": 0.5, "mirroring": False, "checkpoint": "best", "device": "cpu"}
    other = replace(record, settings={"inference": inference})
    commands = predict_commands(pair, [record, other], Path("out/postprocessing.json"))
    assert "inference.mirroring=false inference.checkpoint=best" in commands[1]
    assert "inference.mirroring" not in commands[0]
    assert "inference.device" not in commands[1]
    assert len(commands) == 4
    assert all("inference.probabilities=true" in command for command in commands[:2])
    assert "'model=out/my run'" in commands[1]
    assert commands[2] == "segflow ensemble 'members=[OUTPUT/member_1,OUTPUT/member_2]' output=OUTPUT"
    assert "choice=out/postprocessing.json" in commands[3]


@pytest.mark.parametrize("wrong", [{"max_members": 0}, {"confidence": 1.0}, {"resamples": 0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(SegflowError, match=next(iter(wrong))):
        SelectSettings(**wrong)


def test_a_stack_of_tiff_keeps_its_spacing_from_fold_to_crossval_and_postprocessing(tmp_path: Path) -> None:
    tiff, spacing = reader_by_name("Tiff3DIO"), (3.0, 0.5, 0.75)
    run = tmp_path / "run"
    for fold, own in enumerate((CASES[:3], CASES[3:])):
        folder = Fold(run / f"fold_{fold}")
        folder.write_record(tiny_models.record("3d_fullres", fold, ending=".tif", reader="Tiff3DIO", val_cases=own))
        for case_id in own:
            label, geometry = reference_map(case_id), Geometry(spacing)
            tiff.write_label(label, geometry, tmp_path / "ref" / f"{case_id}.tif")
            tiff.write_label(label, geometry, folder.validation / f"{case_id}.tif")
    selection = select_configuration([run], tmp_path / "ref", tmp_path)
    assert selection.best.dice == 1.0
    assert {tiff.read_label(run / CROSSVAL_FOLDER / f"{c}.tif")[1].spacing for c in CASES} == {spacing}
    apply_postprocessing(
        run / CROSSVAL_FOLDER, read_choice(run / CROSSVAL_FOLDER / "postprocessing.json"), tmp_path / "done",
        file_ending=".tif", reader="Tiff3DIO",
    )  # fmt: skip
    assert {tiff.read_label(tmp_path / "done" / f"{c}.tif")[1].spacing for c in CASES} == {spacing}

    fewer = tiny_models.record("3d_fullres", 1, ending=".tif", reader="Tiff3DIO", val_cases=CASES[3:5])
    Fold(run / "fold_1").write_record(fewer)
    accumulate_crossval(run, tmp_path / "ref")
    assert not list((run / CROSSVAL_FOLDER).glob("c5.*"))


def test_a_copy_in_the_cross_validation_follows_its_label_map_whatever_its_age(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", noise=1.0, seed=1)
    references = write_references(tmp_path / "ref")
    accumulate_crossval(run, references)
    source, copy = run / "fold_0" / "validation" / "c0.nii.gz", run / CROSSVAL_FOLDER / "c0.nii.gz"
    before, others = source.stat(), (run / CROSSVAL_FOLDER / "c1.nii.gz").stat().st_mtime_ns
    write_map(source, reference_map("c0"))
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert accumulate_crossval(run, references).summary.cases[0].metrics[1]["Dice"] == 1.0
    assert copy.read_bytes() == source.read_bytes()
    assert (run / CROSSVAL_FOLDER / "c1.nii.gz").stat().st_mtime_ns == others


def test_the_commands_repeat_the_validation_that_was_made(tmp_path: Path) -> None:
    run = write_run(tmp_path, "3d_fullres", noise=1.0, seed=1)
    used = {"checkpoint": "final", "overlap": 0.5, "gaussian": True, "mirroring": False, "sums": "auto"}
    stamp_validation(run, used)
    selection = select_configuration([run], write_references(tmp_path / "ref"), tmp_path)
    assert "inference.mirroring=false" in selection.commands[0]
    stamp_validation(run, used | {"mirroring": True}, folds=(1,))
    with pytest.raises(SegflowError, match=r"fold_1.*mirroring=True.*fold_0.*False.*segflow train"):
        select_configuration([run], tmp_path / "ref", tmp_path)
    stamp_validation(run, used)
    Fold(run / "fold_1").checkpoint("final").write_bytes(b"other weights")
    with pytest.raises(SegflowError, match=r"fold_1.*other weights"):
        select_configuration([run], tmp_path / "ref", tmp_path)
