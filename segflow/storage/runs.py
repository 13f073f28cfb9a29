"""The folder of a run: one configuration trained under one name, with a folder for each fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.wording import told_apart
from segflow.storage.file_names import FOLD_PREFIX
from segflow.storage.folds import RECORD_FILE, TRAIN_FIRST, Fold
from segflow.storage.links import within

CROSSVAL_FOLDER = "crossval"
NEXT_STAGE_FOLDER = "predicted_next_stage"


@dataclass(frozen=True, slots=True)
class Run:
    """The folder ``outputs/<dataset>/<plans>/<configuration>/<run_name>``.

    Nothing is made or read unless a method says so.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def at(cls, plans: Path, configuration: str, name: str) -> Run:
        """The run of a configuration and a name.

        Args:
            plans: The folder of all runs of some plans, ``outputs/<dataset>/<plans>``.
            configuration: Name of the configuration, such as ``3d_fullres``.
            name: The ``run_name``.
        """
        return cls(plans / configuration / name)

    @classmethod
    def of(cls, path: Path) -> Run:
        """The run of a path, which is a run or one of its folds."""
        return cls(path.parent if path.name.startswith(FOLD_PREFIX) else path)

    @property
    def name(self) -> str:
        """Its ``run_name``."""
        return self.path.name

    def fold(self, name: int | str) -> Fold:
        """The folder of a fold: 0, 1, … or ``all``."""
        return Fold(self.path / f"{FOLD_PREFIX}{name}")

    def trained_folds(self) -> list[Fold]:
        """The folds that have a record and weights, sorted by path. Empty if there are none."""
        folds = [Fold(path) for path in sorted(self.path.glob(f"{FOLD_PREFIX}*"))]
        return [fold for fold in folds if fold.record_file.is_file() and fold.has_weights()]

    def validated_folds(self) -> list[Fold]:
        """The folds whose validation cases are scored, sorted by path."""
        return [Fold(file.parent.parent) for file in sorted(self.path.glob(f"{FOLD_PREFIX}*/validation/summary.json"))]

    def runs_of(self, configuration: str) -> Path:
        """The folder of the runs of another configuration of the same plans."""
        return self.path.parent.parent / configuration

    def crossval(self) -> Path:
        """The folder of the label maps of all folds' validation cases.

        Raises:
            SegflowError: It is a link that leads elsewhere.
        """
        return within(self.path, CROSSVAL_FOLDER)

    def handed_on(self, configuration: str) -> Path:
        """The folder of the label maps that a cascade takes as input. All folds of the run share it.

        Args:
            configuration: The cascade's configuration.

        Raises:
            SegflowError: It is a link that leads elsewhere.
        """
        return within(self.path, NEXT_STAGE_FOLDER, configuration)


def find_runs(outputs: Path) -> list[Path]:
    """All folders at or below a path that hold trained folds, sorted.

    Args:
        outputs: A run's folder, or any folder above, such as ``outputs/Dataset004_Hippocampus``.

    Raises:
        SegflowError: There is none.
    """
    found = sorted({record.parent.parent for record in outputs.glob(f"**/{FOLD_PREFIX}*/{RECORD_FILE}")})
    if not found:
        raise SegflowError(f"no run lies in {outputs}", expected="folders fold_0, fold_1, … of runs", fix=TRAIN_FIRST)
    return found


def names_of_runs(paths: Sequence[Path]) -> list[str]:
    """A name for each run: its configuration, with as much of its path as tells the runs apart.

    Args:
        paths: Folders of runs, or of folds.
    """
    known = [path.resolve() for path in paths]
    folds = any(path.name.startswith(FOLD_PREFIX) for path in known)
    for parts in (-2, -3, -4) if folds else (slice(-2, -1), -2, -3):
        names = ["/".join(path.parts[parts if isinstance(parts, slice) else slice(parts, None)]) for path in known]
        if len(set(names)) == len(names):
            return names
    return told_apart(known)
