"""Finding of trained folds at a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.names import is_number
from segflow.core.wording import some
from segflow.storage.file_names import FOLD_PREFIX
from segflow.storage.folds import CHECKPOINTS, RECORD_FILE, TRAIN_FIRST, Fold

DEEPEST = 5  # levels from the folder of outputs to that of a fold


def find_folds(path: Path) -> list[Fold]:
    """The trained folds at a path: the fold itself, or the folds below its run's folder.

    Args:
        path: A ``fold_<k>`` folder, or the folder that holds some.

    Returns:
        Folds 0, 1, … in order, then ``all``.

    Raises:
        SegflowError: There is none.
    """
    path, _ = named_checkpoint(path)
    if (path / RECORD_FILE).is_file():
        return [Fold(path)]
    if not path.is_dir():
        raise no_run(path, f"there is no folder {path}")
    found = [
        Fold(child)
        for child in path.iterdir()
        if child.name.startswith(FOLD_PREFIX) and (child / RECORD_FILE).is_file()
    ]
    if not found:
        raise no_run(path, f"{path} holds no trained fold")
    return sorted(found, key=_order)


def _order(run: Fold) -> tuple[bool, int, str]:
    numbered = is_number(run.fold)
    return not numbered, int(run.fold) if numbered else 0, run.fold


def named_checkpoint(path: Path, checkpoint: str = "final") -> tuple[Path, str]:
    """The fold and the checkpoint that a path means: ``…/fold_0/checkpoints/best.ckpt`` means ``best`` of fold 0.

    Args:
        path: Any path. One that does not lie in a fold is returned as it is.
        checkpoint: Checkpoint to take if the path names none.

    Raises:
        SegflowError: The path names a checkpoint that the fold does not have.
    """
    if path.name in (CHECKPOINTS, RECORD_FILE) and (path.parent / RECORD_FILE).is_file():
        return path.parent, checkpoint
    fold = Fold(path.parent.parent)
    if path.suffix == ".ckpt" and path.parent.name == CHECKPOINTS and fold.record_file.is_file():
        fold.existing_checkpoint(path.stem)
        return fold.path, path.stem
    return path, checkpoint


def refuse_missing(model: Path) -> None:
    """Refuse the path of a model at which there is nothing: quicker than opening it, which loads torch.

    Raises:
        SegflowError: There is nothing; lists the runs near it.
    """
    path, _ = named_checkpoint(model)
    if not path.exists():
        raise no_run(path, f"there is no model {path}")


def no_run(path: Path, problem: str) -> SegflowError:
    """The error for a path that is not a run. It lists runs below the path, or near it if it does not exist."""
    near = path if path.is_dir() else path.parent
    runs = list(dict.fromkeys(str(fold.parent) for fold in _folds_below(near, DEEPEST)))
    expected = "the folder of one run, with fold_0, fold_1, … in it"
    if not runs:
        return SegflowError(problem, expected=expected, fix=TRAIN_FIRST)
    where = "below it" if near == path else f"in {near}"
    return SegflowError(problem, found=f"runs {where}: {some(runs)}", expected=expected)


def _folds_below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of trained folds, at most ``depth`` levels down."""
    try:
        children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return
    for child in children:
        if (child / RECORD_FILE).is_file():
            yield child
        elif depth > 1:
            yield from _folds_below(child, depth - 1)
