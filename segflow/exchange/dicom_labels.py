"""The labels of cases that come from DICOM."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import LabelKey
from segflow.core.names import shortened
from segflow.storage.dicom.choose_series import DicomCase
from segflow.storage.dicom.even_grid import label_on_grid
from segflow.storage.dicom.file_header import is_dicom
from segflow.storage.dicom.label_objects import LabelObject, objects_of, read_label_object, read_labels
from segflow.storage.dicom.name_map import NameMap, Names, labels_with_overlap, labels_without_overlap
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.label_values import label_values
from segflow.storage.readers import choose_reader

CASE = "{case}"
OVERLAPS = ("refuse", "regions")
UNNAMED = ("background", "ignore")

Labelled = Path | tuple[LabelObject, ...]
"""What labels a case: a file of a label map, or DICOM objects."""


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """What a person says about labels.

    Attributes:
        files: Pattern of label maps, ``/data/labels/{case}.nii.gz``. None takes the DICOM objects of each case.
        labels: As in dataset.json. None takes those that are found.
        segments: Label → patterns of names of segments and structures. None takes the names of ``labels``, or all.
        overlaps: ``refuse`` segments that overlap, or let them become ``regions``.
        regions_class_order: As in dataset.json.
    """

    files: str | None = None
    labels: Mapping[str, Any] | None = None
    segments: Mapping[str, str | Sequence[str]] | None = None
    overlaps: str = OVERLAPS[0]

    def __post_init__(self) -> None:
        if self.overlaps not in OVERLAPS:
            raise SegflowError("unknown overlaps=", found=self.overlaps, expected=" | ".join(OVERLAPS))
        if self.files is not None and CASE not in self.files:
            raise SegflowError(
                "label= names one file for all cases", found=self.files, expected=f"/data/labels/{CASE}.nii.gz"
            )
        if self.segments and self.labels and (missing := set(self.segments) - set(self.labels)):
            raise SegflowError("segments= names labels that labels= lacks", found=", ".join(sorted(missing)))

    @property
    def wanted(self) -> Mapping[str, str | Sequence[str]] | None:
        """Label → patterns of segments, or None for all segments."""
        if self.segments:
            return self.segments
        return None if self.labels is None else {name: name for name in self.labels if name not in UNNAMED}


@dataclass(frozen=True, slots=True)
class CaseLabels:
    """What a case's labels are before all cases are known.

    Attributes:
        names: Names of segments; None if the labels come from a file, whose values they are.
        sets: For names, the set that each value of the written file stands for.
        values: For a file, its values.
    """

    names: tuple[str, ...] | None
    sets: tuple[Names, ...] = ()
    values: tuple[int, ...] = ()


def labels_of_case(
    case: DicomCase, objects: Iterable[LabelObject], known: Collection[str], choice: LabelChoice
) -> Labelled | None:
    """What labels a case; None if nothing does.

    Args:
        case: The case.
        objects: All objects that were found.
        known: UIDs of all series.
        choice: Where labels come from. The file that a table names comes before it.

    Raises:
        SegflowError: A file that a table names is missing, or cannot be read.
    """
    file = case.label
    if file is None and choice.files is not None:
        file = Path(choice.files.replace(CASE, case.case_id)).expanduser()
        if not file.exists():
            return None
    if file is None:
        return tuple(objects_of(case.channels, objects, known)) or None
    if not file.exists():
        raise SegflowError(f"there is no file {file}", fix="Correct the table.")
    return (read_label_object(file),) if is_dicom(file) else file


def read_case_labels(
    case: DicomCase,
    labels: Labelled,
    shape: Sequence[int],
    geometry: Geometry,
    choice: LabelChoice,
    resample: bool,
) -> tuple[np.ndarray, CaseLabels]:
    """The labels of a case on the grid of its first channel.

    Args:
        case: The case.
        labels: What labels it.
        shape: (z, y, x) of the first channel.
        geometry: Its geometry.
        choice: Which segments are labels.
        resample: Resample a label map of another grid.

    Returns:
        (Z, Y, X): the values of a file, or numbers of sets of segments; and what they mean.

    Raises:
        SegflowError: The labels cannot be read, or lie on another grid.
    """
    z, y, x = (int(n) for n in shape)
    if isinstance(labels, Path):
        reader = choose_reader("".join(labels.suffixes[-2:]) if labels.name.endswith(".gz") else labels.suffix, labels)
        stored, own = reader.read_label(labels)
        label = label_on_grid(stored, own, (z, y, x), geometry, resample=resample)
        return _smallest(label), CaseLabels(None, values=tuple(label_values(label)))
    found: NameMap = read_labels(case.channels[0], geometry, (z, y, x), labels, choice.wanted)
    return found.numbers, CaseLabels(found.names, found.sets)


def _smallest(label: np.ndarray) -> np.ndarray:
    """A label map (Z, Y, X) in the type in which it is written: bytes, where they suffice."""
    if label.size and label.min() < 0:
        raise SegflowError("the label map has negative values", found=int(label.min()), expected="0 or more")
    return label.astype(np.uint8 if not label.size or label.max() < 256 else np.uint16)


def final_labels(cases: Iterable[CaseLabels], choice: LabelChoice) -> dict[str, Any]:
    """The key ``labels`` of dataset.json.

    Args:
        cases: All cases.
        choice: The labels that are wanted, if they are.

    Raises:
        SegflowError: Files of label maps and DICOM objects are mixed, without labels that give each a value.
    """
    if choice.labels is not None:
        return {**({} if "background" in choice.labels else {"background": 0}), **choice.labels}
    found = list(cases)
    named = [one for one in found if one.names is not None]
    if named and len(named) < len(found):
        raise SegflowError(
            "some cases have files of label maps, and others have DICOM-SEG or RTSTRUCT",
            fix="Say which value of the files is which segment: 'labels={background: 0, liver: 1}'.",
        )
    if not named:
        values = sorted({value for one in found for value in one.values} - {0})
        return {"background": 0, **{f"label_{value}": value for value in values}}
    names = [name for one in named for name in one.names or ()]
    if choice.segments:
        names = [*(name for name in choice.segments if name in names), *names]
    entries: Mapping[str, LabelKey] = (
        labels_with_overlap(names, [one for case in named for one in case.sets])
        if choice.overlaps == "regions"
        else labels_without_overlap(names)
    )
    return {name: list(key) if isinstance(key, tuple) else key for name, key in entries.items()}


def write_case_labels(case: CaseLabels, labels: Mapping[str, Any], file: Path) -> None:
    """Give a label map that `read_case_labels` made its final values.

    Args:
        case: What its values mean now.
        labels: As in dataset.json.
        file: The label map, which is replaced.

    Raises:
        SegflowError: Segments overlap without a label that stands for both, or a file has values without a name.
    """
    keys = {name: tuple(key) if isinstance(key, (list, tuple)) else key for name, key in labels.items()}
    if case.names is None:
        known = {value for key in keys.values() for value in (key if isinstance(key, tuple) else (key,))}
        if unknown := sorted(set(case.values) - known - {0}):
            raise SegflowError("the label map has values without a name", found=unknown, expected=shortened(keys))
        return
    numbers, geometry = SimpleITKIO().read_file(file)
    final = NameMap(numbers[0].astype(np.uint16), case.sets, case.names).label_map(keys)
    SimpleITKIO().write_file(final, geometry, file)
