"""Cases whose files stay where they are, and the raw dataset that lists them (recipe 1.3, key ``dataset``)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.dataset import LABEL_ENDING
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.names import why_unsafe
from segflow.core.wording import counted, some
from segflow.exchange.raw_layout import refuse_taken
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.case_names import image_ending
from segflow.storage.image_formats.contract import ImageFormat, ImageIO
from segflow.storage.images import choose_reader, readable_endings, reader_of
from segflow.storage.json_files import write_json
from segflow.storage.label_values import label_values
from segflow.storage.whole_folder import folder_written_whole

STAGE = "convert"
LABEL = "label"
"""Role of the label maps, beside those of the channels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListedCase:
    """One case of a list.

    Attributes:
        case_id: Its name.
        images: Files of its channels, in their order.
        label: Its label map.
        group: Cases of one group, such as a patient's, stay on one side of every split; None for a case by itself.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path
    group: str | None = None


@dataclass(frozen=True, slots=True)
class CaseList:
    """Cases, from wherever they were listed.

    Attributes:
        source: Name of the list, for messages.
        files: What each file of a case holds: the name of a channel, mostly.
        cases: Sorted by name.
        channels: Names of all channels, where files hold several; empty names them after their file.
        names: Value of a label → its name, as far as the source gives them.
    """

    source: str
    files: tuple[str, ...]
    cases: tuple[ListedCase, ...]
    channels: tuple[str, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewDataset:
    """Number, name and labels of a dataset to write.

    Attributes:
        folder: Folder of the raw datasets.
        number: Its number.
        name: Its name, without the number.
        labels: As in dataset.json; None reads all label maps and names their values.
        regions_class_order: As in dataset.json, for labels with regions.
    """

    folder: Path
    number: int
    name: str
    labels: Mapping[str, Any] | None = None
    regions_class_order: Sequence[int] | None = None


def matched(
    source: str,
    found: Mapping[str, Mapping[str, Sequence[Path]]],
    expected: Callable[[str, str], str],
    groups: Mapping[str, str],
    *,
    skip_incomplete: bool = False,
    advice: str | None = None,
) -> CaseList:
    """A list of cases from the files that were found for each channel and for the label maps.

    Args:
        source: Name of the list, for messages.
        found: Channel, in order, or `LABEL` → case → its files.
        expected: Role and case → what was looked for, for messages.
        groups: Case → its group.
        skip_incomplete: Leave out cases that lack a channel or the label map, instead of refusing them.
        advice: How to choose other files, for messages.

    Raises:
        SegflowError: A case lacks a file or has several, cannot be named so, or there is no complete case. All problems
            are listed together.
    """
    cases, problems, incomplete = [], [], []
    for case_id in sorted({case_id for files in found.values() for case_id in files}):
        files = {role: list(of_role.get(case_id, ())) for role, of_role in found.items()}
        several = {role: some([str(file) for file in of_role]) for role, of_role in files.items() if len(of_role) > 1}
        problems += [f"case '{case_id}': several files for {role}: {names}" for role, names in several.items()]
        lacking = [role for role, of_role in files.items() if not of_role]
        if lacking:
            wanted = "; ".join(f"no file for {role}; expected {expected(role, case_id)}" for role in lacking)
            incomplete.append((case_id, f"case '{case_id}': {wanted}"))
        elif reason := why_unsafe(case_id):
            problems.append(f"'{case_id}' cannot be the name of a case: it {reason}")
        elif not several:
            images = tuple(files[role][0] for role in found if role != LABEL)
            cases.append(ListedCase(case_id, images, files[LABEL][0], groups.get(case_id)))
    if skip_incomplete and cases:
        if incomplete:
            left_out = some([case_id for case_id, _ in incomplete])
            log.warning("%s left out, for lack of files: %s", counted(len(incomplete), "case"), left_out)
    else:
        problems += [text for _, text in incomplete]
    if problems:
        complete = f"{counted(len(cases), 'case')} complete" + (
            f", such as {some([c.case_id for c in cases], 3)}" * any(cases)
        )
        skipping = "incomplete=skip leaves out cases that lack files." if incomplete and cases else None
        fix = " ".join(filter(None, (skipping, advice))) or None
        raise CaseErrors(f"{source} cannot be used; {complete}", problems, fix)
    return CaseList(source, tuple(role for role in found if role != LABEL), tuple(cases))


def write_listed(listed: CaseList, new: NewDataset, progress: Progress = silent) -> Path:
    """Write a raw dataset that lists files, which are neither copied nor renamed.

    Args:
        listed: The cases.
        new: The dataset.
        progress: Called after each label map that is read.

    Returns:
        The new folder, which holds only a dataset.json. Values of labels other than 0, 1, 2, … stay as they are; they
        are mapped while label maps are read.

    Raises:
        SegflowError: Files have several endings that no reader knows together, a label map cannot be read, labels
            cannot be used, or the number is taken.
    """
    target = refuse_taken(new.folder, f"Dataset{new.number:03d}_{new.name}")
    ending, label_ending = _endings(listed)
    reader = reader_of((case.images[0] for case in listed.cases if _ending(case.images[0]) == ending), ending)
    labels = dict(new.labels) if new.labels is not None else _found_labels(listed, reader, progress)
    Labels.from_json(labels, new.regions_class_order)  # refuses what cannot be used
    content: dict[str, Any] = {
        "channel_names": {str(number): channel for number, channel in enumerate(_channels(listed, reader))},
        "labels": labels,
        "numTraining": len(listed.cases),
        "file_ending": ending,
        **({LABEL_ENDING: label_ending} if label_ending != ending else {}),
        "dataset": {case.case_id: _entry(case) for case in listed.cases},
        "converted_by": "segflow",
    }
    if new.regions_class_order is not None:
        content["regions_class_order"] = list(new.regions_class_order)
    with folder_written_whole(target) as partial:
        write_json(partial / "dataset.json", content)
    return target


def _entry(case: ListedCase) -> dict[str, Any]:
    files = {"images": [str(file) for file in case.images], "label": str(case.label)}
    return files if case.group is None else {**files, "group": case.group}


def _channels(listed: CaseList, reader: ImageIO) -> tuple[str, ...]:
    """The names of all channels. A file of several, such as a colour picture, gives ``name_0``, ``name_1``, …."""
    for case in listed.cases:
        try:
            counts = [reader.read_header(file).channels for file in case.images]
        except SegflowError:
            continue  # planning and the doctor report what is wrong with a case
        if listed.channels:
            if len(listed.channels) != sum(counts):
                raise SegflowError(
                    f"{listed.source}: the images have another number of channels than names",
                    case=case.case_id,
                    found=f"{sum(counts)} channels",
                    expected=", ".join(listed.channels),
                    fix="Name them in order: channels=[…]",
                )
            return listed.channels
        numbered = [
            [name] if count == 1 else [f"{name}_{k}" for k in range(count)]
            for name, count in zip(listed.files, counts, strict=True)
        ]
        return tuple(name for names in numbered for name in names)
    return listed.channels or listed.files


def _endings(listed: CaseList) -> tuple[str, str]:
    """The endings of images and of label maps. Images may have several, if one reader knows them all."""
    images = Counter(_ending(file) for case in listed.cases for file in case.images)
    labels = [ending for ending, _ in Counter(_ending(case.label) for case in listed.cases).most_common()]
    if len({ending.lower() for ending in labels}) > 1:
        raise SegflowError(
            f"{listed.source}: label maps with mixed file endings",
            found=" ".join(sorted(labels)),
            expected="one for all",
        )
    for ending, _ in images.most_common():
        example = next(file for case in listed.cases for file in case.images if _ending(file) == ending)
        try:
            reader = choose_reader(ending, example)
        except SegflowError as error:
            raise error.changed(problem=f"{listed.source}: {example}: {error.problem}") from error
        if {known.lower() for known in images} <= {*readable_endings(reader, ending)}:
            _check_label_ending(listed, reader, ending, labels[0])
            return ending, labels[0]
    raise SegflowError(
        f"{listed.source}: images with mixed file endings",
        found=" ".join(sorted(images)),
        expected="endings that one reader knows",
        fix="Convert some of them.",
    )


def _check_label_ending(listed: CaseList, reader: ImageIO, ending: str, label_ending: str) -> None:
    """Refuse label maps of an ending that the images' reader and its companion for labels do not know."""
    if not isinstance(reader, ImageFormat):
        return
    by = reader.for_labels(listed.cases[0].label)
    if label_ending.lower() not in readable_endings(by, by.endings[0] if by.endings else label_ending):
        raise SegflowError(
            f"{listed.source}: label maps of this ending cannot belong to images of {ending}",
            found=label_ending,
            expected=" ".join(dict.fromkeys((*reader.endings, *by.endings))),
            fix="Convert the label maps.",
        )


def _ending(file: Path) -> str:
    return image_ending(file.name) or file.suffix


def _found_labels(listed: CaseList, reader: ImageIO, progress: Progress) -> dict[str, int]:
    values: set[int] = set()
    problems = []
    for done, case in enumerate(listed.cases, start=1):
        try:
            values.update(label_values(reader.read_label(case.label)[0]))
        except SegflowError as error:
            problems.append(str(error.of_case(case.case_id)))
        progress(ProgressEvent(STAGE, case.case_id, done, len(listed.cases)))
    if problems:
        raise CaseErrors("label maps cannot be used", problems)
    return {"background": 0, **{listed.names.get(value, f"label_{value}"): value for value in sorted(values - {0})}}
