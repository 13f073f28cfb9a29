"""Which cases a user means: a folder, a CSV table, or files."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.names import safe_name
from segflow.storage.case_files import IMAGE_ENDINGS, list_files, some

logger = logging.getLogger(__name__)

CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)
CASE_COLUMNS = ("case", "case_id", "id")
LABEL_COLUMNS = ("label", "reference")

Input = str | Path | Sequence[str | Path]


def find_cases(source: Input, file_ending: str) -> list[CaseFiles]:
    """The cases to predict, sorted by id.

    Args:
        source: A folder of ``<case>_0000<ending>``, …; a CSV table with one row per case, whose column ``case`` is its
            name and whose other columns are its channels' files in order, relative to the table; one file; or a list
            of files. A file whose name has no channel number is a case of its own.
        file_ending: Ending of the training images, with the dot.

    Raises:
        SegflowError: There is nothing there, two cases have one name, or a folder's channels are misnumbered.
    """
    if not isinstance(source, (str, Path)):
        cases = _group([Path(file) for file in source], file_ending)
    else:
        place = Path(source).expanduser()
        if place.is_dir():
            cases = _in_folder(place, file_ending)
        elif place.suffix.lower() == ".csv":
            cases = _in_table(place, file_ending)
        elif place.exists():
            cases = _group([place], file_ending)
        else:
            raise SegflowError(f"there is no {place}", expected="a folder of images, a CSV table, or image files")
    if not cases:
        raise SegflowError("there is no image to predict", found=str(source))
    return sorted(cases, key=lambda case: case.case_id)


def part_of(cases: Sequence[CaseFiles], part: str) -> list[CaseFiles]:
    """Every n-th case, so that n machines share the work.

    Args:
        cases: All of them.
        part: ``k/n`` with 0 <= k < n.

    Raises:
        SegflowError: The text is no such part.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or int(match[1]) >= int(match[2]):
        raise SegflowError("part must be k/n with 0 <= k < n", found=part, expected="such as 0/4, 1/4, 2/4, 3/4")
    return list(cases[int(match[1]) :: int(match[2])])


def _in_folder(folder: Path, file_ending: str) -> list[CaseFiles]:
    names = list_files(folder)
    files = [folder / name for name in names if name.endswith(file_ending)]
    if not files:
        raise SegflowError(
            f"{folder} holds no image",
            found=", ".join(names[:5]) or "an empty folder",
            expected=f"names like case_0000{file_ending}, as in training",
        )
    cases = _group(files, file_ending)
    problems = [str(problem) for case in cases if (problem := _wrong_numbers(case, file_ending)) is not None]
    if problems:
        raise CaseErrors(f"the images in {folder} do not fit together", problems)
    return cases


def _wrong_numbers(case: CaseFiles, file_ending: str) -> SegflowError | None:
    """Channels that do not count from 0000 would go into the network in places that are not theirs."""
    names = [file.name for file in case.images]
    expected = [f"{case.case_id}_{number:04d}{file_ending}" for number in range(len(names))]
    if names == expected or names == [case.case_id + file_ending]:
        return None
    return SegflowError(
        "the channels are not numbered from 0000 without gaps",
        case=case.case_id,
        found=some(names),
        expected=some(expected),
        fix="A case whose own name ends in four digits needs the channel's number too: case_0012_0000.",
    )


def _group(files: Iterable[Path], file_ending: str) -> list[CaseFiles]:
    channels: dict[str, dict[str, Path]] = {}
    for file in files:
        stem = _stem(file.name, file_ending)
        match = CHANNEL.fullmatch(stem)
        case_id, number = (match[1], match[2]) if match else (stem, "0000")
        if number in channels.setdefault(case_id, {}):
            raise SegflowError(
                "two files are the same channel of one case",
                case=case_id,
                found=f"{channels[case_id][number]} and {file}",
                fix="Rename one: predictions are named after their cases.",
            )
        channels[case_id][number] = file
    return [CaseFiles(case_id, tuple(found[n] for n in sorted(found))) for case_id, found in channels.items()]


def _stem(name: str, file_ending: str) -> str:
    """The name without its ending: the training images', or another of images; a name may hold dots of its own."""
    known = next((ending for ending in (file_ending, *IMAGE_ENDINGS) if name.lower().endswith(ending.lower())), None)
    return name[: -len(known)] if known else Path(name).stem


def _in_table(table: Path, file_ending: str) -> list[CaseFiles]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegflowError(f"cannot read {table}: {error}") from error
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if len(rows) < 2:
        raise SegflowError(f"{table} lists no case", expected="a header line such as case,image_0 and a line per case")
    header = [name.strip().lower() for name in rows[0]]
    named = next((header.index(name) for name in CASE_COLUMNS if name in header), None)
    images = [k for k, name in enumerate(header) if k != named and name not in LABEL_COLUMNS]
    if any(len(row) != len(header) for row in rows[1:]):
        wrong = next(number for number, row in enumerate(rows, 1) if len(row) != len(header))
        raise SegflowError(f"{table}: line {wrong} has another number of cells than the header", found=rows[wrong - 1])
    cases: dict[str, CaseFiles] = {}
    for row in rows[1:]:
        files = tuple(table.parent / row[k].strip() for k in images if row[k].strip())
        if named is None and not files:
            continue
        case_id = row[named].strip() if named is not None else _group(files[:1], file_ending)[0].case_id
        safe_name(case_id, f"{table}: the name of a case")
        if case_id in cases:
            raise SegflowError(f"{table}: cases need names of their own, for their predictions", found=repr(case_id))
        cases[case_id] = CaseFiles(case_id, files)
    return list(cases.values())
