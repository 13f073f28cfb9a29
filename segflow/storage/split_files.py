"""Files of splits, and tables of cases that belong together."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.names import safe_name
from segflow.core.split_cases import make_splits, values_by_pattern
from segflow.core.split_settings import SplitSettings
from segflow.core.splits import Split, check_splits, splits_from_json, splits_to_json
from segflow.core.wording import some
from segflow.storage.json_files import read_json, write_json
from segflow.storage.tables import CASE_HEADINGS, column_of, read_table

logger = logging.getLogger(__name__)

_COLUMN = re.compile(r"(?P<file>.+\.csv):(?P<heading>[^/\\]+)", re.IGNORECASE)


def read_splits(file: Path) -> list[Split]:
    """Read ``splits_final.json``, or a CSV file of case id and the fold that it validates in.

    Raises:
        SegflowError: The file is missing or holds something else.
    """
    if file.suffix.lower() != ".csv":
        return splits_from_json(read_json(file), source=str(file))
    fold_of = _read_table(file)
    for case_id in fold_of:
        safe_name(case_id, f"{file}: the name of a case")
    names = sorted(set(fold_of.values()), key=lambda name: (len(name), name))
    return [
        Split(
            train=tuple(sorted(case for case, fold in fold_of.items() if fold != name)),
            val=tuple(sorted(case for case, fold in fold_of.items() if fold == name)),
        )
        for name in names
    ]


def write_splits(file: Path, splits: list[Split]) -> None:
    """Write ``splits_final.json`` as a whole or not at all."""
    write_json(file, splits_to_json(splits))


def values_of_cases(case_ids: Iterable[str], source: str) -> dict[str, str]:
    """Case id → its group or stratum, from a regular expression on the id or a CSV file of id and value.

    Args:
        case_ids: The cases.
        source: The path of a file that ends in ``.csv``, perhaps with ``:HEADING`` of a column behind it; or a regular
            expression.

    Raises:
        SegflowError: The file is missing or lacks a case or the column, or the expression does not match a case.
    """
    named = _COLUMN.fullmatch(source)
    if not named and not source.lower().endswith(".csv"):
        return values_by_pattern(case_ids, source)
    file = Path(named["file"] if named else source).expanduser()
    table = _read_table(file, named["heading"] if named else None)
    wanted = list(case_ids)
    missing = [case for case in wanted if case not in table]
    if missing:
        raise SegflowError(f"{source} lacks {len(missing)} cases", found=some(missing))
    return {case: table[case] for case in wanted}


def build_splits(
    case_ids: Iterable[str], settings: SplitSettings, groups: Mapping[str, str] | None = None
) -> list[Split]:
    """Splits by the settings, or from the file that they name; in either case checked.

    Args:
        case_ids: The cases.
        settings: How to divide them.
        groups: Case → group, for settings without ``group_by``.

    Raises:
        SegflowError: See `make_splits` and `check_splits`.
    """
    cases = sorted(set(case_ids))
    groups = groups_of_cases(cases, settings) or groups
    if settings.file:
        file = Path(settings.file).expanduser()
        splits, source = read_splits(file), str(file)
    else:
        strata = values_of_cases(cases, settings.stratify_by) if settings.stratify_by else None
        splits, source = make_splits(cases, settings, groups=groups, strata=strata), "the splits"
    check_splits(splits, cases, groups=groups, source=source)
    return splits


def groups_of_cases(case_ids: Iterable[str], settings: SplitSettings) -> dict[str, str] | None:
    """Case id → group, or None if the settings do not group cases."""
    return values_of_cases(case_ids, settings.group_by) if settings.group_by else None


def _read_table(file: Path, heading: str | None = None) -> dict[str, str]:
    """Case id → value, from the first two columns, or from those of the case ids and of a heading."""
    rows = [line.cells for line in read_table(file)]
    case, value = 0, 1
    if heading is not None:
        case, value = _columns(file, rows, heading)
    if heading is not None or (rows and column_of(rows[0], CASE_HEADINGS) == 0):
        rows = rows[1:]
    table: dict[str, str] = {}
    for row in rows:
        if len(row) <= max(case, value) or not row[value]:
            raise SegflowError(f"{file}: every line needs a case id and a value", found=",".join(row)[:80])
        if table.setdefault(row[case], row[value]) != row[value]:
            raise SegflowError(
                f"{file}: two values for one case", case=row[case], found=f"{table[row[case]]}, {row[value]}"
            )
    if not table:
        raise SegflowError(f"{file} is empty", expected="lines of case id and value")
    return table


def _columns(file: Path, rows: Sequence[Sequence[str]], heading: str) -> tuple[int, int]:
    """Index of the column of case ids, and of the one with a heading."""
    headings = rows[0] if rows else ()
    case, value = column_of(headings, CASE_HEADINGS), column_of(headings, (heading.lower(),))
    if value is None:
        raise SegflowError(f"{file} has no column '{heading}'", found=", ".join(headings) or "an empty file")
    if case is None:
        raise SegflowError(
            f"{file} has no column of case ids", found=", ".join(headings), expected=" or ".join(CASE_HEADINGS)
        )
    return case, value
