"""Where a trained fold's files lie, and what is said when there is no trained fold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.storage import folder_lock
from segflow.storage.find_folds import find_folds, named_checkpoint
from segflow.storage.folds import Fold


def record(fold: int | str = 0) -> RunRecord:
    dataset = DatasetDescription.from_json(
        "Dataset001_Toy",
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"},
    )
    plans = Plans(
        dataset_name="Dataset001_Toy",
        plans_name="nnUNetPlans",
        median_spacing=(1.0, 1.0, 1.0),
        median_shape=(8, 8, 8),
        reader="SimpleITKIO",
        axis_order=(0, 1, 2),
        intensities=(),
        configurations={},
    )
    return RunRecord(dataset, plans, "3d_fullres", fold, ("a",), ("b",), (0, 1, 2), {"seed": 1})


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    run = Fold(tmp_path / "fold_0")
    run.write_record(tiny_models.record())
    assert run.read_record() == tiny_models.record()


def test_folds_are_found_from_the_run_and_from_the_fold(tmp_path: Path) -> None:
    for fold in ("10", "all", "2"):
        Fold(tmp_path / f"fold_{fold}").write_record(record(fold))
    (tmp_path / "fold_3").mkdir()  # begun, but nothing written
    (tmp_path / "crossval").mkdir()
    assert [run.fold for run in find_folds(tmp_path)] == ["2", "10", "all"]
    assert find_folds(tmp_path / "fold_2") == [Fold(tmp_path / "fold_2")]


@pytest.mark.parametrize("name", ["missing", "."])
def test_predict_before_train_says_train_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(SegflowError, match="Train first: segflow train"):
        find_folds(tmp_path / name)


def test_a_run_without_record_says_train_first(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="Train first"):
        Fold(tmp_path).read_record()


def test_a_foreign_run_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SegflowError, match=r"run\.json holds something that cannot be used"):
        Fold(tmp_path).read_record()


def test_a_missing_checkpoint_names_the_present_ones(tmp_path: Path) -> None:
    run = Fold(tmp_path)
    with pytest.raises(SegflowError, match="Train first"):
        run.existing_checkpoint("final")
    run.checkpoints.mkdir()
    run.checkpoint("last").touch()
    with pytest.raises(SegflowError, match="found last"):
        run.existing_checkpoint("final")
    assert run.existing_checkpoint("last") == tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(SegflowError, match=r"final \| best \| last"):
        run.checkpoint("newest")


def test_finished_needs_both_the_mark_and_the_weights(tmp_path: Path) -> None:
    run = Fold(tmp_path)
    run.mark_finished({"epochs": 3})
    assert not run.is_finished()
    run.checkpoints.mkdir()
    run.checkpoint("final").touch()
    assert run.is_finished()


HOLDS_THE_LOCK = """
import sys
from pathlib import Path
from segflow.storage.folds import Fold
with Fold(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = Fold(tmp_path / "fold_0")
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SegflowError, match=f"found process {other.pid} on .* since .*run_name"), run.locked():
            pass
        other.kill()  # the lock goes with the process, not with an orderly end
        other.wait()
        with run.locked():
            pass
        with run.locked():
            pass


def test_a_holder_whose_lock_another_machine_does_not_see_is_known_by_its_touches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that locks within one machine only: here the second process has no locks at all."""
    monkeypatch.setattr(folder_lock, "fcntl", None)
    run = Fold(tmp_path / "fold_0")
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(SegflowError, match=f"found process {other.pid} on .* since "), run.locked():
            pass
        other.kill()
        other.wait()
    monkeypatch.setattr(folder_lock, "PATIENCE", 1.0)
    with run.locked():
        pass
    assert (run.path / ".lock").read_text() == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file in the way")
    run = Fold(tmp_path / "outputs" / "fold_0")
    with pytest.raises(SegflowError, match=r"cannot write into .*fold_0.*paths\.outputs="), run.locked():
        pass


def test_a_path_inside_a_fold_stands_for_the_fold(tmp_path: Path) -> None:
    fold = Fold(tmp_path / "run" / "fold_0")
    fold.write_record(record())
    fold.checkpoints.mkdir()
    for name in ("final", "best"):
        fold.checkpoint(name).write_bytes(b"x")
    assert named_checkpoint(fold.checkpoint("best")) == (fold.path, "best")
    assert named_checkpoint(fold.checkpoints, "last") == (fold.path, "last")
    assert named_checkpoint(fold.record_file) == (fold.path, "final")
    assert find_folds(fold.checkpoints) == [fold]
    with pytest.raises(SegflowError, match="found final, best"):
        named_checkpoint(fold.checkpoint("last"))
    assert named_checkpoint(tmp_path / "a.ckpt", "last") == (tmp_path / "a.ckpt", "last")


def test_runs_below_or_beside_a_wrong_folder_are_named(tmp_path: Path) -> None:
    runs = [tmp_path / "Dataset001_A" / "plans" / "2d" / name for name in ("a", "b")]
    for run in runs:
        Fold(run / "fold_0").write_record(record())
    for wrong in (runs[0].parent, tmp_path, runs[0].parent / "c"):
        with pytest.raises(SegflowError, match="runs") as caught:
            find_folds(wrong)
        assert all(str(run) in str(caught.value) for run in runs)
        assert "Train first" not in str(caught.value)
