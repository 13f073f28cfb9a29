"""Weights come back from their files, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.models.own_runs import read_fold
from segflow.models.tensor_files import read_tensors, without_wrappers
from segflow.models.trained_fold import choose_folds, load_weights
from segflow.network.build import build_network
from segflow.storage.folds import Fold


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("touch /tmp/should-never-exist-segflow",))


def test_lightning_checkpoint_gives_the_networks_tensors_by_their_own_names(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    fold = read_fold(Fold(run / "fold_0"))
    expected = tiny_models.weights(fold.record)
    assert fold.weights.keys() == expected.keys()
    assert all(torch.equal(fold.weights[key], value) for key, value in expected.items())


def test_missing_checkpoint_says_train_first(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    (run / "fold_0" / "checkpoints" / "final.ckpt").unlink()
    with pytest.raises(SegflowError, match="Train first: segflow train"):
        read_fold(Fold(run / "fold_0"))


@pytest.mark.parametrize("kept", [0, 10, 1000, -100])
def test_truncated_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    file = Fold(tiny_models.make_run(tmp_path) / "fold_0").checkpoint("final")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SegflowError, match=r"final\.ckpt"):
        read_tensors(file)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "extra": Malicious()}, file)
    with pytest.raises(SegflowError, match=r"refused; found [^.]*GLOBAL (posix|nt)\.system") as refused:
        read_tensors(file)
    assert "`False`" not in str(refused.value)  # torch's advice on how to run the code nevertheless
    assert not Path("/tmp/should-never-exist-segflow").exists()


def test_weights_of_another_network_are_refused_with_the_tensors_that_differ(tmp_path: Path) -> None:
    fold = read_fold(Fold(tiny_models.make_run(tmp_path) / "fold_0"))
    two_channels = build_network(fold.record.plan.topology, 2, 3)
    with pytest.raises(SegflowError, match=r"is \[4, 1, 3, 3, 3\] instead of \[4, 2, 3, 3, 3\]"):
        load_weights(two_channels, fold)
    residual = build_network(tiny_models.topology(network="residual_unet"), 1, 3)
    with pytest.raises(SegflowError, match=r"lacks .* more"):
        load_weights(residual, fold)


def test_prefixes_of_compiled_and_distributed_networks_are_dropped() -> None:
    tensor = torch.zeros(1)
    assert without_wrappers({"_orig_mod.module.a": tensor, "module.b": tensor, "c": tensor}).keys() == {"a", "b", "c"}


def test_all_folds_means_the_numbered_ones_in_order() -> None:
    assert choose_folds(["10", "all", "2"], "all", "run") == ["2", "10"]
    assert choose_folds(["all"], "all", "run") == ["all"]
    assert choose_folds(["0", "1", "2"], [2, "0"], "run") == ["2", "0"]
    assert choose_folds(["0", "1"], 1, "run") == ["1"]


@pytest.mark.parametrize(("present", "folds"), [([], "all"), (["0"], [0, 3])])
def test_folds_that_are_not_there_are_named(present: list[str], folds: object) -> None:
    with pytest.raises(SegflowError, match=r"has no weights of fold (3|any)"):
        choose_folds(present, folds, "run")  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"broken", b"\x80\x02", b"PK\x03\x04", b"{}"])
def test_files_of_other_kinds_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "final.ckpt"
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=r"final\.ckpt"):
        read_tensors(file)
