"""The splits of a planned dataset: made once, then kept, and checked at every use."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import Split, check_splits, select_fold
from segflow.core.wording import counted, some
from segflow.storage.file_names import SPLITS_FILE
from segflow.storage.json_files import read_json_as, write_json
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.split_files import build_splits, groups_of_cases, read_splits, write_splits

logger = logging.getLogger(__name__)


def split_dataset(
    folder: Path,
    case_ids: Sequence[str],
    settings: SplitSettings,
    *,
    raw_folder: Path | None = None,
    replace: bool = False,
    groups: Mapping[str, str] | None = None,
) -> list[Split]:
    """The splits in ``folder/splits_final.json``, which is written if it is missing.

    Existing splits are kept, since trained folds depend on them. They are refused if they do not fit the cases, if
    cases both train and validate, or if they differ from the settings.

    Args:
        folder: The preprocessed dataset.
        case_ids: All training cases.
        settings: How to divide them. The defaults accept any existing splits.
        raw_folder: The raw dataset; a ``splits_final.json`` in it is taken over if the settings are the defaults.
        replace: Make the splits anew.
        groups: Case → group that the dataset itself gives, for settings without ``group_by``. A case without one is
            its own.

    Returns:
        The folds; none if there are fewer cases, or groups, than folds, so that only ``fold=all`` can train.

    Raises:
        SegflowError: The splits do not fit.
    """
    prepared = PreparedDataset(folder)
    stored = prepared.splits_file
    asked = _asks_for_something(settings)
    brought = None if raw_folder is None else raw_folder / SPLITS_FILE
    if brought is not None and not brought.is_file():
        brought = None
    own = {case: groups.get(case, case) for case in case_ids} if groups else None
    groups = groups_of_cases(case_ids, settings) or own
    if stored.is_file() and not replace:
        splits = _kept(prepared, case_ids, settings, groups, asked=asked, brought=None if asked else brought)
        _tell_left_out(splits, settings, groups)
        return splits
    if brought is not None and not asked:
        splits = read_splits(brought)
        check_splits(splits, case_ids, groups=groups, source=str(brought))
        logger.info("Splits were taken from %s", brought)
    elif not asked and (units := _units(case_ids, groups)) < settings.folds:
        kind = "groups of cases" if groups else "cases"
        logger.warning("%d %s are too few for %d folds; train with fold=all.", units, kind, settings.folds)
        return []
    else:
        splits = build_splits(case_ids, settings, groups)
        if brought is not None:
            logger.warning("%s is not used, since other splits were asked for", brought)
    prepared.groups_file.unlink(missing_ok=True)
    if groups:
        write_json(prepared.groups_file, groups, sort_keys=True)
    write_splits(stored, splits)
    _tell_left_out(splits, settings, groups)
    return splits


def read_fold(folder: Path, case_ids: Sequence[str], fold: int | str, settings: SplitSettings) -> Split:
    """The cases of one fold of a planned dataset.

    Args:
        folder: The preprocessed dataset.
        case_ids: All training cases.
        fold: Number of the fold, or ``all``, for which no splits are needed.
        settings: As in `split_dataset`.

    Raises:
        SegflowError: There is no such fold, or the splits do not fit the cases or the settings.
    """
    if fold == "all":
        return select_fold([], fold, case_ids)
    splits = split_dataset(folder, case_ids, settings)
    return select_fold(splits, fold, case_ids, random_beyond=settings.random_beyond, seed=settings.seed)


def _asks_for_something(settings: SplitSettings) -> bool:
    """Whether the division differs from the default. Settings that only choose a fold do not count."""
    default = SplitSettings()
    names = {field.name for field in fields(SplitSettings)} - {"random_beyond"}
    return any(getattr(settings, name) != getattr(default, name) for name in names)


def _kept(
    prepared: PreparedDataset,
    case_ids: Sequence[str],
    settings: SplitSettings,
    groups: Mapping[str, str] | None,
    *,
    asked: bool,
    brought: Path | None,
) -> list[Split]:
    stored = prepared.splits_file
    splits = read_splits(stored)
    if groups is None and (file := prepared.groups_file).is_file():
        groups = read_json_as(file, _groups)
    fix = "segflow plan with replace_splits=true makes splits anew; folds trained on the old ones are then void."
    try:
        check_splits(splits, case_ids, groups=groups, source=str(stored))
    except SegflowError as error:
        raise error.changed(fix=fix) from None
    if asked and not _same(splits, build_splits(case_ids, settings, groups)):
        raise SegflowError(f"{stored} holds other splits than were asked for", fix=fix)
    if brought is not None:
        theirs = read_splits(brought)
        if not _same(splits[: len(theirs)], theirs):  # folds may have been added to those of the raw dataset
            raise SegflowError(f"{stored} and {brought} hold different splits", fix=fix)
    return splits


def _tell_left_out(splits: Sequence[Split], settings: SplitSettings, groups: Mapping[str, str] | None) -> None:
    """Say which group each fold leaves out."""
    if settings.scheme != "leave_one_group_out" or not groups:
        return
    left_out = [
        f"{index} {groups[split.val[0]]} ({counted(len(split.val), 'case')})" for index, split in enumerate(splits)
    ]
    logger.info("Folds by the group that they leave out: %s", some(left_out, most=20))


def _units(case_ids: Sequence[str], groups: Mapping[str, str] | None) -> int:
    """Number of cases, or of groups, that folds can be made of."""
    return len({groups[case] for case in case_ids} if groups else set(case_ids))


def _groups(content: Mapping[str, Any]) -> dict[str, str]:
    return {case_id: str(group) for case_id, group in content.items()}


def _same(some: Sequence[Split], others: Sequence[Split]) -> bool:
    def sides(splits: Sequence[Split]) -> list[tuple[set[str], set[str]]]:
        return [(set(split.train), set(split.val)) for split in splits]

    return sides(some) == sides(others)
