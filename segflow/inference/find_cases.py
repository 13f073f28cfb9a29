"""The cases to predict, from a folder, a CSV table, or files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.dataset import COUNT_FROM_0
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.names import safe_name
from segflow.core.wording import counted, some
from segflow.storage.case_names import DIGITS_OF_A_NAME, IMAGE_ENDINGS, digits_mean, missing_numbers
from segflow.storage.channel_names import case_and_channel, channel_name
from segflow.storage.folder_files import names_a_folder
from segflow.storage.listing import FETCH, list_folder, missing_file, tell_passed_over
from segflow.storage.tables import CASE_HEADINGS, LABEL_HEADINGS, column_of, read_table

logger = logging.getLogger(__name__)

TRAIN_WITHOUT = "Only a model that was trained with training.drop_channels does without a channel."

Input = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Names:
    """Rules for the names of a model's images.

    Attributes:
        endings: Endings in lower case, with the dot. That of the training images comes first.
        channels: Number of the model's channels.
        may_lack: Numbers of the channels that an image may lack.
    """

    endings: tuple[str, ...]
    channels: int
    may_lack: tuple[int, ...] = ()

    def lacks(self, numbers: Collection[int]) -> tuple[int, ...]:
        """Numbers of the channels that a case lacks, one file for each; empty if the model does not do without them."""
        lacking = missing_numbers(numbers, self.channels)
        return lacking if set(lacking) <= set(self.may_lack) else ()

    def stem(self, name: str) -> str:
        """The name without its ending, which may differ from the model's. A name may contain dots."""
        known = next((end for end in (*self.endings, *IMAGE_ENDINGS) if name.lower().endswith(end)), None)
        return name[: -len(known)] if known else Path(name).stem

    def case_of(self, file: Path) -> str:
        """The case of its only or first file."""
        stem = self.stem(file.name)
        found = case_and_channel(stem)
        return found.case_id if found.number == 0 else stem

    def rank(self, name: str) -> tuple[bool, int, str]:
        """Sort key of files with the same stem. The one with the ending of the training images comes first."""
        ending = next(k for k, end in enumerate(self.endings) if name.lower().endswith(end))
        return not name.endswith(self.endings[0]), ending, name


def find_cases(
    source: Input, endings: Sequence[str], channels: int, *, may_lack: Sequence[int] = ()
) -> list[CaseFiles]:
    """The cases to predict, sorted by id. Other files of a folder are logged.

    Args:
        source: A folder of ``<case>_0000<ending>``, …; a CSV table with one row per case, whose column ``case`` is its
            name and whose other columns are its channels' files in order, relative to the table; one file; or a list
            of files. A file whose name has no channel number is a case by itself. So is a file with a number that
            cannot be a channel, such as a year.
        endings: Endings that the model's reader can read, with the dot. That of the training images comes first. Files
            that are named one by one may have other endings.
        channels: Number of the model's channels.
        may_lack: Numbers of the channels that a case may lack: its file, or its cell in a table, is then missing.

    Raises:
        SegflowError: There is no image, two cases have the same name, or channels are misnumbered.
    """
    names = Names(tuple(ending.lower() for ending in endings), channels, tuple(may_lack))
    if not isinstance(source, (str, Path)):
        cases = _group([Path(file) for file in source], names, "the images")
    else:
        place = Path(source).expanduser()
        refuse_missing_source(place)
        if place.is_dir() and not names_a_folder(place.name):
            cases = _in_folder(place, names)
        elif place.suffix.lower() == ".csv":
            cases = _in_table(place, names)
        else:
            cases = _group([place], names, "the images")
    if not cases:
        raise SegflowError("there is no image to predict", found=str(source))
    return sorted(cases, key=lambda case: case.case_id)


def refuse_missing_source(place: Path) -> None:
    """Refuse a path that does not exist. It needs no model, so a command can ask before it loads one.

    Raises:
        SegflowError: There is nothing at the path.
    """
    if place.exists():
        return
    if place.is_symlink():
        raise missing_file(place)
    raise SegflowError(f"there is no {place}", expected="a folder of images, a CSV table, or image files")


def refuse_too_many(case: CaseFiles, channels: Sequence[str]) -> None:
    """Refuse a case with more files than the model has channels, before they are read.

    Raises:
        SegflowError: There are more. The error names the case.
    """
    if len(case.images) > len(channels):
        raise SegflowError(
            "the case has more files than the model has channels",
            case=case.case_id,
            found=some([file.name for file in case.images]),
            expected=f"{len(channels)}: {', '.join(channels)}",
            fix=f"Leave the others out. {DIGITS_OF_A_NAME}",
        )


def _in_folder(folder: Path, names: Names) -> list[CaseFiles]:
    listing = list_folder(folder)
    readable = [name for name in listing.files if name.lower().endswith(names.endings)]
    chosen: dict[str, str] = {}
    for name in sorted(readable, key=names.rank):
        chosen.setdefault(names.stem(name), name)
    if not chosen:
        raise SegflowError(
            f"{folder} holds no image",
            found=listing.summary(),
            expected=f"names like case_0000{names.endings[0]}, as in training",
            fix=FETCH if listing.lost else None,
        )
    taken = sorted(chosen.values())
    cases = _group((folder / name for name in taken), names, f"the images in {folder}")
    passed = listing.passed_over(readable, names.endings)
    if doubled := sorted(set(readable).difference(taken)):
        passed["the same image, of another ending, as a file that is taken"] = doubled
    tell_passed_over(folder, passed)
    return cases


def _group(files: Iterable[Path], names: Names, where: str) -> list[CaseFiles]:
    """The cases by the names of their files.

    Raises:
        SegflowError: Two files are the same channel, or numbers are not channels. The error names all such cases.
    """
    cases: dict[str, tuple[Path, ...]] = {}
    lacking: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []
    from_one: list[str] = []
    own: list[str] = []
    for case_id, channels in _by_channel(files, names).items():
        images = tuple(channels[number] for number in sorted(channels))
        meaning = digits_mean(channels, names.channels)
        lacking[case_id] = () if meaning == "names" else names.lacks(channels)
        if lacking[case_id]:
            pass
        elif meaning == "nothing" and sorted(channels) != list(range(len(channels))):
            problems.append(str(_wrong_numbers(case_id, images, names)))
        elif meaning == "counted from 1":
            from_one += [file.name for file in images]
        elif meaning == "names":
            own += [file.name for file in images]
        for name, part in [(names.stem(f.name), (f,)) for f in images] if meaning == "names" else [(case_id, images)]:
            if name in cases:
                raise _same_channel(name, cases[name][0], part[0])
            cases[name] = part
    if from_one:
        problems.append(str(SegflowError("the channels are counted from 1", found=some(from_one), fix=COUNT_FROM_0)))
    if problems:
        raise CaseErrors(f"{where} do not fit together", problems)
    if own:
        logger.warning(
            "The four digits at the end of %s (%s) are no channel of this model, which has %d: each file is a case of "
            "its own",
            counted(len(own), "name"),
            some(own),
            names.channels,
        )
    return [CaseFiles(case_id, images, missing=lacking.get(case_id, ())) for case_id, images in cases.items()]


def _by_channel(files: Iterable[Path], names: Names) -> dict[str, dict[int, Path]]:
    """Case → number of a channel → its file; a file without a number is channel 0.

    Raises:
        SegflowError: Two files are the same channel.
    """
    numbered: dict[str, dict[int, Path]] = {}
    for file in files:
        case_id, number = case_and_channel(names.stem(file.name))
        channels = numbered.setdefault(case_id, {})
        if (number or 0) in channels:
            raise _same_channel(case_id, channels[number or 0], file)
        channels[number or 0] = file
    return numbered


def _same_channel(case_id: str, first: Path, second: Path) -> SegflowError:
    return SegflowError(
        "two files are the same channel of one case",
        case=case_id,
        found=f"{first} and {second}",
        fix="Rename one: predictions are named after their cases.",
    )


def _wrong_numbers(case_id: str, images: Sequence[Path], names: Names) -> SegflowError:
    """The error for channels that do not count from 0000. They would enter the network in the wrong places."""
    return SegflowError(
        "the channels are not numbered from 0000 without gaps",
        case=case_id,
        found=some([file.name for file in images]),
        expected=some([channel_name(case_id, number, names.endings[0]) for number in range(names.channels)]),
        fix=f"{DIGITS_OF_A_NAME} {TRAIN_WITHOUT}",
    )


def _in_table(table: Path, names: Names) -> list[CaseFiles]:
    lines = read_table(table)
    if len(lines) < 2:
        raise SegflowError(f"{table} lists no case", expected="a header line such as case,image_0 and a line per case")
    headings = lines[0].cells
    named = column_of(headings, CASE_HEADINGS)
    images = [k for k, name in enumerate(headings) if k != named and name.lower() not in LABEL_HEADINGS]
    cases: dict[str, CaseFiles] = {}
    for line in lines[1:]:
        if len(line.cells) != len(headings):
            problem = f"{table}: line {line.number} has another number of cells than the header"
            raise SegflowError(problem, found=", ".join(line.cells))
        files = tuple(table.parent / line.cells[k] for k in images if line.cells[k])
        given = [number for number, k in enumerate(images) if line.cells[k]]
        if named is None and not files:
            continue
        case_id = line.cells[named] if named is not None else names.case_of(files[0])
        safe_name(case_id, f"{table}: the name of a case")
        if case_id in cases:
            raise SegflowError(f"{table}: cases need names of their own, for their predictions", found=repr(case_id))
        missing = names.lacks(given) if len(images) == names.channels else ()
        cases[case_id] = CaseFiles(case_id, files, missing=missing)
    return list(cases.values())
