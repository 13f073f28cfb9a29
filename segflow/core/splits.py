"""The training and validation cases of each fold (recipe 10).

The JSON form is nnU-Net's ``splits_final.json``: a list of ``{"train": [ids], "val": [ids]}``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.names import safe_names, shortened
from segflow.core.wording import some

FALLBACK_TRAIN_SHARE = 0.8

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Split:
    """One fold.

    Attributes:
        train: Case ids to train on.
        val: Case ids to validate on.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]

    def __post_init__(self) -> None:
        safe_names((*self.train, *self.val), "the name of a case")


def check_splits(
    splits: Sequence[Split],
    case_ids: Iterable[str],
    *,
    groups: Mapping[str, str] | None = None,
    source: str = "the splits",
) -> None:
    """Refuse splits that leak, or that do not fit the dataset.

    Args:
        splits: All folds.
        case_ids: The dataset's training cases.
        groups: Case id → group; no group may lie on both sides.
        source: Name of the splits in an error, such as the file's path.

    Raises:
        SegflowError: A case is on both sides, twice on one side, unknown, or in no fold; a side is empty; a group is
            on both sides.
    """
    known = set(case_ids)
    if not splits:
        raise SegflowError(f"{source}: there are no folds")
    for index, split in enumerate(splits):
        where = f"{source}, fold {index}"
        train, val = set(split.train), set(split.val)
        if not train or not val:
            raise SegflowError(f"{where}: no cases to {'train on' if not train else 'validate on'}")
        if len(train) != len(split.train) or len(val) != len(split.val):
            twice = [case for case, n in (Counter(split.train) + Counter(split.val)).items() if n > 1]
            raise SegflowError(f"{where}: cases are listed twice", found=some(sorted(twice)))
        if train & val:
            raise SegflowError(f"{where}: cases both train and validate", found=some(sorted(train & val)))
        if unknown := (train | val) - known:
            raise SegflowError(f"{where}: the dataset has no such training cases", found=some(sorted(unknown)))
        if groups and (leaking := {groups.get(c, c) for c in train} & {groups.get(c, c) for c in val}):
            raise SegflowError(
                f"{where}: cases of the same group both train and validate",
                found=some(sorted(leaking)),
                fix="Make splits anew with group_by, or mend the file.",
            )
    if missing := known - {case for split in splits for case in (*split.train, *split.val)}:
        raise SegflowError(
            f"{source}: training cases are in no fold",
            found=some(sorted(missing)),
            fix="Add them, or take them out of the dataset.",
        )


def select_fold(
    splits: Sequence[Split],
    fold: int | str,
    case_ids: Iterable[str],
    *,
    random_beyond: bool = False,
    seed: int = 12345,
) -> Split:
    """The cases of one fold.

    Args:
        splits: All folds; not used for ``all``.
        fold: Number of the fold, or ``all``: every case trains and validates.
        case_ids: The dataset's training cases.
        random_beyond: Give a fold beyond the last a random 80:20 split, as nnU-Net does.
        seed: Seed of that split; the fold's number is added.

    Raises:
        SegflowError: There is no such fold.
    """
    cases = sorted(set(case_ids))
    if fold == "all":
        return Split(tuple(cases), tuple(cases))
    try:
        index = int(fold)
    except ValueError:
        index = -1
    if 0 <= index < len(splits):
        return splits[index]
    if index < 0 or not random_beyond:
        raise SegflowError(
            f"there is no fold {fold}",
            expected=f"0 to {len(splits) - 1}, or all" if splits else "all",
            fix="fold.random_beyond=true gives folds beyond the last a random 80:20 split." if index >= 0 else None,
        )
    split = _random_split(cases, index, seed)
    logger.warning(
        "There are %d folds; fold %d is a random 80:20 split: %d cases train, %d validate.",
        len(splits),
        index,
        len(split.train),
        len(split.val),
    )
    return split


def _random_split(cases: Sequence[str], fold: int, seed: int) -> Split:
    generator = np.random.RandomState(seed + fold)
    chosen = generator.choice(len(cases), int(len(cases) * FALLBACK_TRAIN_SHARE), replace=False)
    train = tuple(cases[i] for i in chosen)
    return Split(train, tuple(sorted(set(cases) - set(train))))


def splits_to_json(splits: Sequence[Split]) -> list[dict[str, list[str]]]:
    """The content of ``splits_final.json``."""
    return [{"train": list(split.train), "val": list(split.val)} for split in splits]


def splits_from_json(value: Any, *, source: str = "the splits") -> list[Split]:
    """Inverse of `splits_to_json`.

    Raises:
        SegflowError: It is not a list of objects with ``train`` and ``val``.
    """
    splits = []
    for index, entry in enumerate(value if isinstance(value, list) else [value]):
        sides = [entry.get(side) if isinstance(entry, Mapping) else None for side in ("train", "val")]
        if not all(isinstance(side, list) and all(isinstance(case, str) for case in side) for side in sides):
            raise SegflowError(
                f"{source}, fold {index}: not a split",
                found=shortened(entry),
                expected='[{"train": ["case_1", …], "val": ["case_2", …]}, …]',
            )
        try:
            splits.append(Split(tuple(sides[0]), tuple(sides[1])))  # type: ignore[arg-type]
        except SegflowError as error:
            raise error.changed(problem=f"{source}, fold {index}: {error.problem}") from None
    return splits
