"""What ``segflow compare`` compares: scores at paths, named, and runs that differ by their seed together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from segflow.apps._changes import leaves
from segflow.apps._records import PathSettings
from segflow.core.errors import SegflowError
from segflow.core.metrics import Summary
from segflow.core.run_record import RunRecord
from segflow.core.wording import shared_start, told_apart
from segflow.evaluation.all_scores import all_scores
from segflow.evaluation.compare_scores import Contender
from segflow.evaluation.read_scores import OfFold, Scores, read_scores, stored_scores
from segflow.execution.progress import Progress
from segflow.selection.commands import VALIDATED_WITH
from segflow.storage.file_stamps import digest_of
from segflow.storage.folds import Fold
from segflow.storage.runs import names_of_runs
from segflow.training.claim_folder import FREE_SETTINGS

OF_A_SEED = ("settings.training.seed", "settings.run_name", "settings.fold.index")
"""Settings in which two seeds of one setting differ."""
COUNT_HERE = (
    "settings.trainer.max_time",
    "settings.trainer.precision",
    *(f"settings.inference.{s}" for s in VALIDATED_WITH),
)
"""Settings that may change when a training is continued, and decide its scores all the same."""
_SEED_AT_THE_END = re.compile(r"[-_/ .]*(seed|run|rep|s|r)?[-_/ .=]*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared.

    Attributes:
        contenders: The settings, each with the scores of its trainings.
        label_names: Label, as ``summary.json`` writes it → its name.
        files: The files that the scores were read from.
        dataset: Name of the dataset, if all are runs of one; else empty.
        notes: What to know about the scores, one sentence each.
    """

    contenders: tuple[Contender, ...]
    label_names: Mapping[str, str]
    files: tuple[Path, ...]
    dataset: str
    notes: tuple[str, ...]


def read_compared(
    runs: Sequence[Path], seeds: Mapping[str, Sequence[Path]], paths: PathSettings | None, progress: Progress
) -> Compared:
    """Read what is compared.

    Args:
        runs: Paths of scores, see `read_scores`. Runs whose settings differ only by their seed become one setting.
        seeds: Name → paths of its seeds, as the user says.
        paths: Folders with the references, to compute all scores of runs; None takes the scores that there are.
        progress: Called after each case that is scored.

    Raises:
        SegflowError: A path is given twice, has no scores, or has other labels.
    """
    given = [*runs, *(path for own in seeds.values() for path in own)]
    twice = [path for path, count in Counter(path.resolve() for path in given).items() if count > 1]
    if twice:
        raise SegflowError("the same scores are given twice", found=str(twice[0]), fix="Leave one of them out.")
    of_fold = _computing(paths, progress) if paths else stored_scores
    sources = [read_scores(path, name, of_fold) for path, name in zip(given, _names(given), strict=True)]
    contenders = [*by_settings(sources[: len(runs)]), *_as_said(sources[len(runs) :], seeds)]
    repeated = [name for name, count in Counter(one.name for one in contenders).items() if count > 1]
    if repeated:
        raise SegflowError("two settings have the same name", found=repeated[0], fix="Name them with seeds={NAME:[…]}.")
    datasets = {record.dataset.name for source in sources for record in source.records[:1]}
    of_one = datasets.pop() if len(datasets) == 1 and all(source.records for source in sources) else ""
    told = tuple(note for source in sources for note in source.notes)
    files = tuple(file for source in sources for file in source.files)
    joined = grouped(contenders[: len(contenders) - len(seeds)])
    return Compared(tuple(contenders), _label_names(sources), files, of_one, (*told, *joined))


def _computing(paths: PathSettings, progress: Progress) -> OfFold:
    def of_fold(fold: Fold, record: RunRecord) -> Summary:
        return all_scores(
            fold.validation,
            paths.references(record.dataset.name),
            record.dataset.labels,
            file_ending=record.dataset.label_ending,
            reader=record.plans.reader,
            progress=progress,
        )

    return of_fold


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names that tell the paths apart."""
    known = [path.resolve() for path in paths]
    if all((path / "run.json").is_file() or any(path.glob("fold_*/run.json")) for path in known):
        return names_of_runs(paths)
    stems = [path.with_suffix("") if path.is_file() else path for path in known]
    return told_apart(stems if len(set(stems)) == len(stems) else known)


def by_settings(sources: Sequence[Scores]) -> list[Contender]:
    """Sources whose settings are the same but for the seed, together, in the order in which they came."""
    groups: dict[str, list[Scores]] = {}
    for number, source in enumerate(sources):
        groups.setdefault(_settings_of(source) or f"alone {number}", []).append(source)
    names = [_common_name([source.table.name for source in own]) for own in groups.values()]
    if len(set(names)) < len(names):
        names = [own[0].table.name for own in groups.values()]
    return [
        Contender(name, tuple(source.table for source in own)) for name, own in zip(names, groups.values(), strict=True)
    ]


def _settings_of(source: Scores) -> str:
    """A text that two runs share if they differ only by their seed; empty if that is not known."""
    record = source.records[0] if source.records else None
    if record is None or record.from_nnunet or not record.settings:
        return ""
    free = (*FREE_SETTINGS, *OF_A_SEED)
    settings = {
        key: value
        for key, value in leaves({"settings": record.settings})
        if key in COUNT_HERE or not any(fnmatchcase(key, pattern) for pattern in free)
    }
    plan = record.plans.to_json()["configurations"]
    return digest_of({"settings": settings, "configuration": record.configuration, "plan": plan})


def _as_said(sources: Sequence[Scores], seeds: Mapping[str, Sequence[Path]]) -> list[Contender]:
    waiting = iter(sources)
    return [Contender(name, tuple(next(waiting).table for _ in own)) for name, own in seeds.items()]


def _common_name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    common = _SEED_AT_THE_END.sub("", names[0][: shared_start(names)])
    return common or names[0]


def _label_names(sources: Sequence[Scores]) -> dict[str, str]:
    found: dict[str, str] = {}
    said_by: dict[str, str] = {}
    for source in sources:
        for label, name in source.label_names.items():
            if found.setdefault(label, name) != name:
                raise SegflowError(
                    "only scores of the same labels can be compared",
                    found=f"label {label} is '{found[label]}' in {said_by[label]} and '{name}' in {source.table.name}",
                )
            said_by.setdefault(label, source.table.name)
    return found


def grouped(contenders: Sequence[Contender]) -> list[str]:
    """A remark about each setting whose runs were found to differ by their seed alone."""
    return [
        f"{one.name}: {len(one.trainings)} runs that differ by their seed: {', '.join(t.name for t in one.trainings)}."
        for one in contenders
        if len(one.trainings) > 1
    ]
