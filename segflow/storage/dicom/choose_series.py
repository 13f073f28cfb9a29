"""Which series are the channels of which cases, by patterns or by a table."""

from __future__ import annotations

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.core.wording import some
from segflow.storage.dicom.series import DicomSeries
from segflow.storage.dicom.series_checks import kind_defect
from segflow.storage.tables import CASE_HEADINGS, LABEL_HEADINGS, Line, column_of, read_table

Patterns = Mapping[str, Sequence[str]]
"""Channel → patterns, of which the first that fits a series counts."""

PATIENT_HEADINGS, STUDY_HEADINGS = ("patient", "patient_id", "patientid"), ("study", "study_uid", "study_date")
EXAMPLE = "\"series={T1:'*t1*',FLAIR:'*flair*'}\""
NAMED = "Name it by description, modality, series UID or folder: " + EXAMPLE
ONE_NAMED = "Name one more narrowly, by description, modality, series UID or folder: " + EXAMPLE
ONLY = "only"
LONGEST_ID = 64


@dataclass(frozen=True, slots=True)
class DicomCase:
    """A case and its series.

    Attributes:
        case_id: Its name.
        channels: Its series, in the order of the channels.
        label: File of its labels, if a table names it.
    """

    case_id: str
    channels: tuple[DicomSeries, ...]
    label: Path | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cases of a tree.

    Attributes:
        names: Names of the channels.
        cases: Those whose channels were all found, by id.
        failed: Name of each other case → what is wrong with it.
    """

    names: tuple[str, ...]
    cases: tuple[DicomCase, ...]
    failed: Mapping[str, SegflowError] = field(default_factory=dict)

    def in_order(self, channels: Sequence[str]) -> Chosen:
        """The same with the channels in another order."""
        order = [self.names.index(name) for name in channels]
        cases = (replace(case, channels=tuple(case.channels[k] for k in order)) for case in self.cases)
        return replace(self, names=tuple(channels), cases=tuple(cases))

    def use_of(self, series: DicomSeries) -> tuple[str, str] | None:
        """Case and channel that a series is used for, or None."""
        for case in self.cases:
            for name, one in zip(self.names, case.channels, strict=True):
                if one is series:
                    return case.case_id, name
        return None


@dataclass(frozen=True, slots=True)
class SeriesChoice:
    """What a person says about the series to read.

    Attributes:
        series: Channel → pattern or list of patterns; one pattern for the only channel; or the path of a CSV. See
            `choose_series` and `choose_by_table`. None or empty leaves it to the names of the channels.
        resample: See `read_channels`.
    """

    series: Mapping[str, str | Sequence[str]] | str | None = None
    resample: bool = False

    def choose(self, found: Sequence[DicomSeries], root: Path, channels: Sequence[str] | None = None) -> Chosen:
        """The cases of a tree.

        Args:
            found: All series.
            root: The folder that they were found in.
            channels: Names of the channels that are wanted, such as those of a model; None takes those of the patterns.

        Raises:
            SegflowError: The choice cannot be used, or names other channels.
        """
        if isinstance(self.series, str) and self.series.lower().endswith(".csv"):
            chosen = choose_by_table(found, root, Path(self.series).expanduser())
            _check_channels(chosen.names, channels)
            return chosen if channels is None else chosen.in_order(channels)
        patterns = self._patterns(channels)
        if patterns is not None and channels is not None:
            _check_channels(tuple(patterns), channels)
            patterns = {channel: patterns[channel] for channel in channels}
        return choose_series(found, root, patterns)

    def _patterns(self, channels: Sequence[str] | None) -> dict[str, tuple[str, ...]] | None:
        if not self.series:
            return None if channels is None else patterns_of_names(channels)
        if isinstance(self.series, str):
            if channels is not None and len(channels) > 1:
                raise SegflowError("series= has one pattern", found=self.series, expected=EXAMPLE)
            return {channels[0] if channels else ONLY: (self.series,)}
        result = {}
        for channel, given in self.series.items():
            patterns = (given,) if isinstance(given, str) else tuple(given or ())
            if not patterns or not all(isinstance(one, str) and one.strip() for one in patterns):
                raise SegflowError(f"series= has no pattern for channel '{channel}'", found=given, expected=EXAMPLE)
            result[str(channel)] = tuple(one.strip() for one in patterns)
        return result


def patterns_of_names(channels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Patterns for the channels of a model: a series whose modality or description is the name, or contains it.

    A single channel may be the only series of a study too, unless it is CT, whose values have a unit.
    """
    result: dict[str, tuple[str, ...]] = {}
    for name in channels:
        plain = glob.escape(name)
        result[name] = (plain,) if name.upper() == "CT" else (plain, f"*{plain}*")
    if len(channels) == 1 and channels[0].upper() != "CT":
        result[channels[0]] += ("*",)
    return result


def _check_channels(names: Sequence[str], channels: Sequence[str] | None) -> None:
    if channels is not None and set(names) != set(channels):
        raise SegflowError(
            "series= names other channels than the model has", found=", ".join(names), expected=", ".join(channels)
        )


def choose_series(found: Sequence[DicomSeries], root: Path, patterns: Patterns | None = None) -> Chosen:
    """Choose the series of each study: one for each channel.

    Overviews, colour images and the like are never chosen. A pattern has ``*``, ``?`` and ``[…]`` as in names of files
    and is compared with description, modality, series UID, and the folder below the root, whatever their case.

    Args:
        found: All series.
        root: The folder that they were found in.
        patterns: Channel → patterns. None takes the only series of each study. Its modality names the channel, also
            that of a pattern for the channel `ONLY`.

    Raises:
        SegflowError: Without patterns, modalities differ between studies.
    """
    studies = _studies(found)
    names = _case_ids(studies, root)
    patterns = {ONLY: ("*",)} if patterns is None else patterns
    cases, failed = [], {}
    for key, series in studies.items():
        try:
            cases.append(DicomCase(names[key], channels_of(series, root, patterns)))
        except SegflowError as error:
            failed[names[key]] = error.of_case(names[key])
    channels = (_only_modality([case.channels[0] for case in cases]),) if ONLY in patterns else tuple(patterns)
    return Chosen(channels, tuple(sorted(cases, key=lambda case: case.case_id)), failed)


def channels_of(series: Sequence[DicomSeries], root: Path, patterns: Patterns) -> tuple[DicomSeries, ...]:
    """The series of one study, one for each channel.

    Raises:
        SegflowError: A channel fits none or several series, or two channels fit the same.
    """
    problems = [kind_defect(one) for one in series]
    usable = [one for one, problem in zip(series, problems, strict=True) if problem is None]
    if not usable:
        told = [f"{one.title} {problem.problem}" for one, problem in zip(series, problems, strict=True) if problem]
        raise SegflowError("no series is a volume", found=some(told))
    chosen = [_only(channel, wanted, usable, root) for channel, wanted in patterns.items()]
    if len({id(one) for one in chosen}) < len(chosen):
        raise SegflowError("two channels are the same series", found=some([one.title for one in chosen]), fix=ONE_NAMED)
    return tuple(chosen)


def _only(channel: str, patterns: Sequence[str], series: Sequence[DicomSeries], root: Path) -> DicomSeries:
    for pattern in patterns:
        fitting = [one for one in series if _fits(one, pattern, root)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting and channel == ONLY and pattern == "*":
            raise SegflowError(
                "there are several series, and nothing says which one to take",
                found=some([one.title for one in fitting]),
                fix=f"Name one, or one for each channel, by description, modality, series UID or folder: {EXAMPLE}",
            )
        if fitting:
            raise SegflowError(
                f"channel '{channel}' fits several series ('{pattern}')",
                found=some([one.title for one in fitting]),
                fix=ONE_NAMED,
            )
    raise SegflowError(
        f"channel '{channel}' fits no series ({some([f'{one!r}' for one in patterns])})",
        found=some([one.title for one in series]),
        fix=NAMED,
    )


def _fits(series: DicomSeries, pattern: str, root: Path) -> bool:
    folder = series.folder.relative_to(root).as_posix() if series.folder.is_relative_to(root) else str(series.folder)
    texts = (series.description, series.modality, series.series_uid, folder)
    return any(fnmatchcase(text.casefold(), pattern.casefold()) for text in texts)


def _only_modality(found: Sequence[DicomSeries]) -> str:
    modalities = Counter(one.modality or "image" for one in found)
    if len(modalities) > 1:
        raise SegflowError(
            "the images are of several modalities",
            found=", ".join(f"{count} {name}" for name, count in modalities.items()),
            fix=f"Say which series are which channels: {EXAMPLE}",
        )
    return next(iter(modalities), "image")


StudyKey = tuple[str, str]


def _studies(found: Sequence[DicomSeries]) -> dict[StudyKey, list[DicomSeries]]:
    """The series of each patient and study; where their ids were removed, those of each folder."""
    studies: dict[StudyKey, list[DicomSeries]] = defaultdict(list)
    for one in found:
        studies[one.patient_id, one.study_uid or str(one.folder)].append(one)
    return studies


def _case_ids(studies: Mapping[StudyKey, Sequence[DicomSeries]], root: Path) -> dict[StudyKey, str]:
    """Names of cases: the patient, or the folder; with the date if there are several studies, or else a number."""
    plain = {key: _plain(key[0]) or _plain(series[0].folder.name) or "case" for key, series in studies.items()}
    dated = {
        key: f"{plain[key]}_{series[0].study_date}" if series[0].study_date else plain[key]
        for key, series in studies.items()
    }
    shared = Counter(plain.values())
    wanted = {key: plain[key] if shared[plain[key]] == 1 else dated[key] for key in studies}
    taken: set[str] = set()
    names = {}
    for key, name in wanted.items():
        number = 1
        while (free := name if number == 1 else f"{name}_{number}").casefold() in taken:
            number += 1
        taken.add(free.casefold())
        names[key] = free
    return names


def _plain(text: str) -> str:
    """A text as a name of files: other signs than letters, digits, ``.``, ``_`` and ``-`` become ``_``."""
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("._-")[:LONGEST_ID]


def choose_by_table(found: Sequence[DicomSeries], root: Path, table: Path) -> Chosen:
    """Choose the series that a table names, with one line for each case.

    Args:
        found: All series.
        root: The folder that they were found in.
        table: CSV with a column ``patient`` (PatientID) or ``study`` (StudyInstanceUID or date) or both; perhaps
            ``case`` (its name) and ``label`` (a file, relative to the table); and one column for each channel, which
            holds a pattern as in `choose_series`. An empty cell takes the only series.

    Raises:
        SegflowError: The table lacks a column or lists no case.
    """
    header, *lines = read_table(table) or [Line(1, ())]
    headings = header.cells
    special = [
        column_of(headings, names) for names in (PATIENT_HEADINGS, STUDY_HEADINGS, CASE_HEADINGS, LABEL_HEADINGS)
    ]
    patient, study, case, label = special
    channels = {k: heading for k, heading in enumerate(headings) if k not in special}
    if (patient is None and study is None) or not channels or len(set(headings)) != len(headings):
        raise SegflowError(
            f"{table} lacks a column", found=", ".join(headings) or "nothing", expected="patient,CT,label or study,T1,…"
        )
    if not lines:
        raise SegflowError(f"{table} lists no case", expected="one line per case")
    studies = _studies(found)
    names = _case_ids(studies, root)
    cases: dict[str, DicomCase] = {}
    failed: dict[str, SegflowError] = {}
    for line in lines:
        cells = [*line.cells, *([""] * (len(headings) - len(line.cells)))]
        wanted = [cells[k] if k is not None else "" for k in (patient, study, case, label)]
        title = wanted[2] or f"line {line.number}"
        try:
            key = _named_study(studies, wanted[0], wanted[1])
            title = _plain(wanted[2]) or names[key]
            patterns = {heading: (cells[k] or "*",) for k, heading in channels.items()}
            if title in cases:
                raise SegflowError("two lines are the same case", fix="Give them names in a column 'case'.")
            place = table.parent / wanted[3] if wanted[3] else None
            cases[title] = DicomCase(title, channels_of(studies[key], root, patterns), place)
        except SegflowError as error:
            problem = f"{table.name}, line {line.number}: {error.problem}"
            failed[title] = error.changed(problem=problem, case=title)
    return Chosen(tuple(channels.values()), tuple(cases[name] for name in sorted(cases)), failed)


def _named_study(studies: Mapping[StudyKey, Sequence[DicomSeries]], patient: str, study: str) -> StudyKey:
    fitting = [
        key
        for key, series in studies.items()
        if patient in ("", key[0]) and study in ("", key[1], series[0].study_date)
    ]
    if len(fitting) == 1 and (patient or study):
        return fitting[0]
    raise SegflowError(
        f"{len(fitting) or 'no'} studies are those of patient {shortened(patient)}, study {shortened(study)}",
        expected="one",
        fix="Give StudyInstanceUID or date in a column 'study'." if fitting else None,
    )
