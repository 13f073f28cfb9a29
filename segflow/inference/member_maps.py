"""Folders of label maps from any program, as members of an ensemble: their files, readers and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.label_rules import LARGEST_LABEL
from segflow.evaluation.label_maps import slabs_of
from segflow.evaluation.label_pairs import label_files, work_on_maps
from segflow.execution.jobs import Job
from segflow.execution.progress import Progress
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.image_formats.contract import ImageIO
from segflow.storage.images import reader_of, voxels_of
from segflow.storage.listing import list_folder
from segflow.storage.open_volumes import open_label_source
from segflow.storage.readers import known_endings

MOST_FOUND = 1000
"""Distinct values up to which folders without a dataset.json are taken for label maps."""
NAME_LABELS = "Name the labels: labels=DATASET_JSON"


@dataclass(frozen=True, slots=True)
class MemberMaps:
    """The label maps of one member.

    Attributes:
        folder: The folder.
        file_ending: Ending of its label maps, with its dot.
        files: Case → file.
        reader: Their reader.
    """

    folder: Path
    file_ending: str
    files: dict[str, Path]
    reader: ImageIO

    @classmethod
    def of(cls, folder: Path, description: DatasetDescription | None) -> MemberMaps:
        """Find the label maps of a folder.

        Args:
            folder: The folder.
            description: The dataset.json that names the labels. Its ending and reader are taken if the folder has such
                files; a folder with files of one other ending has that.

        Raises:
            SegflowError: The folder is missing, holds no label map, or holds files of several endings.
        """
        ending = _ending_in(folder, description)
        files = label_files(folder, ending)
        reader = description.reader if description is not None and ending == description.label_ending else None
        return cls(folder, ending, files, reader_of(files.values(), ending, reader))


def check_members(folders: Sequence[Path], output: Path) -> None:
    """Refuse members that cannot vote.

    Raises:
        SegflowError: There is only one, one is named twice, or one is the output.
    """
    if len(folders) < 2:
        raise SegflowError("label maps of at least two members are needed", found=[str(f) for f in folders])
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            fix = "Name it once. With method=majority, weights= give a member more votes."
            raise SegflowError("a member is named twice", found=str(folders[number]), fix=fix)
    if output.resolve() in resolved:
        raise SegflowError("the output is a member", found=str(output), fix="Choose another output folder.")


def description_of(folders: Sequence[Path], given: Path | None) -> DatasetDescription | None:
    """The dataset.json that names the labels: the given one, else the one beside the members' label maps.

    Args:
        folders: The members.
        given: A dataset.json, or its folder.

    Returns:
        None if no member has one.

    Raises:
        SegflowError: The given one is missing, or members have different labels.
    """
    if given is not None:
        file = given / DESCRIPTION_FILE if given.is_dir() else given
        return read_dataset_json(file, file.parent.name, "labels= takes a dataset.json, or its folder.")
    found = {f: read_dataset_json(f, f.parent.name) for f in (x / DESCRIPTION_FILE for x in folders) if f.is_file()}
    if not found:
        return None
    (first, description), *others = found.items()
    for file, other in others:
        if _meaning(other) != _meaning(description):
            raise SegflowError(
                f"the labels in {file} and {first} differ",
                found=_meaning(other),
                expected=_meaning(description),
                fix=f"{NAME_LABELS}, if one of them is right for all members.",
            )
    return description


def description_by_values(
    members: Sequence[MemberMaps], processes: int | None, progress: Progress
) -> DatasetDescription:
    """A dataset.json for label maps that have none: each value that occurs is a label, and 0 is the background.

    A file that cannot be read is passed over, since its case will tell so.

    Raises:
        SegflowError: There are more values than label maps have.
    """
    files = [(member.files[case_id], member.reader) for member in members for case_id in member.files]
    voxels = [voxels_of(*pair) for pair in files]
    jobs = [Job(str(pair[0]), pair, 8 * count) for pair, count in zip(files, voxels, strict=True)]
    found: set[int] = set()
    for values in work_on_maps(values_in, jobs, voxels, processes, "labels", progress).values.values():
        found |= {value for value in values if 0 <= value <= LARGEST_LABEL}
        if len(found) > MOST_FOUND:
            raise SegflowError(
                "the members hold more values than label maps have",
                found=f"more than {MOST_FOUND}, such as {sorted(found)[1:4]}",
                fix=f"Are they images? If they are label maps: {NAME_LABELS}",
            )
    names = {"background": 0} | {f"label_{value}": value for value in sorted(found - {0})}
    content: dict[str, Any] = {"channel_names": {"0": "unknown"}, "labels": names, "numTraining": 0}
    return DatasetDescription.from_json("ensemble", content | {"file_ending": members[0].file_ending})


def values_in(file: Path, reader: ImageIO) -> list[int]:
    """All values of a label map, ascending."""
    opened = open_label_source(file, reader)
    if opened is None:
        return [int(value) for value in np.unique(reader.read_label(file)[0])]
    found: set[int] = set()
    with opened as source:
        for box in slabs_of(Box.whole(source.shape)):
            found.update(np.unique(source.read(box)).tolist())
    return sorted(found)


def _meaning(description: DatasetDescription) -> dict[str, Any]:
    labels = description.labels
    order = labels.regions_class_order
    return labels.to_json() | ({} if order is None else {"regions_class_order": [labels.value_of(n) for n in order]})


def _ending_in(folder: Path, description: DatasetDescription | None) -> str:
    """The ending of a folder's label maps."""
    listing = list_folder(folder)
    if description is not None and any(name.endswith(description.label_ending) for name in listing.files):
        return description.label_ending
    known = sorted(known_endings(), key=len, reverse=True)
    endings = {next((e for e in known if name.lower().endswith(e)), None): name for name in listing.files}
    found = {name[-len(ending) :] for ending, name in endings.items() if ending is not None}
    if len(found) != 1:
        raise SegflowError(
            f"{folder} holds {'files of several endings' if found else 'no label maps'}",
            found=sorted(found) or listing.summary(),
            expected=f"label maps of one ending, such as {description.label_ending if description else '.nii.gz'}",
            fix=f"{NAME_LABELS} (its file_ending chooses)." if found else None,
        )
    return found.pop()
