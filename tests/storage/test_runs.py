"""A run's folder says where its folds and all that they share lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.storage.folds import Fold
from segflow.storage.runs import Run, names_of_runs


def test_a_run_is_found_from_its_parts_and_from_its_folds(tmp_path: Path) -> None:
    run = Run.at(tmp_path / "plans", "3d_fullres", "default")
    assert run.path == tmp_path / "plans" / "3d_fullres" / "default"
    assert run.fold("all") == Fold(run.path / "fold_all")
    assert Run.of(run.fold(0).path) == Run.of(run.path) == run
    assert run.runs_of("3d_lowres") == tmp_path / "plans" / "3d_lowres"
    assert not list(tmp_path.iterdir())


def test_trained_folds_have_a_record_and_weights(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.trained_folds() == []
    for name in (0, 1, 2):
        run.fold(name).checkpoints.mkdir(parents=True)
    for name in (0, 1):
        run.fold(name).record_file.write_text("{}")
    for name in (1, 2):
        run.fold(name).checkpoint("last").write_bytes(b"")
    assert run.trained_folds() == [run.fold(1)]
    run.fold(2).validation.mkdir()
    (run.fold(2).validation / "summary.json").write_text("{}")
    assert run.validated_folds() == [run.fold(2)]


def test_what_all_folds_share_does_not_lie_elsewhere(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    assert run.crossval() == run.path / "crossval"
    assert run.handed_on("3d_cascade_fullres") == run.path / "predicted_next_stage" / "3d_cascade_fullres"
    run.path.mkdir()
    for name in ("crossval", "predicted_next_stage"):
        (run.path / name).symlink_to(tmp_path)
    with pytest.raises(SegflowError, match="a link that leads out"):
        run.crossval()
    with pytest.raises(SegflowError, match="a link that leads out"):
        run.handed_on("3d_cascade_fullres")


def test_runs_of_other_folders_with_equal_names_are_told_apart(tmp_path: Path) -> None:
    runs = [tmp_path / seed / "D" / "plans" / "2d" / "default" for seed in ("a_0", "a_1")]
    assert names_of_runs(runs) == ["a_0", "a_1"]
    assert names_of_runs([run / "fold_0" for run in runs]) == ["a_0", "a_1"]
    assert names_of_runs([runs[0], runs[0].with_name("other")]) == ["2d/default", "2d/other"]
