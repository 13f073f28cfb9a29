"""A raw dataset from series of DICOM, with labels from DICOM-SEG, RTSTRUCT or files of label maps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.errors import CaseErrors, SegflowError
from segflow.exchange.dicom_labels import (
    CaseLabels,
    LabelChoice,
    Labelled,
    final_labels,
    labels_of_case,
    read_case_labels,
    write_case_labels,
)
from segflow.exchange.raw_layout import refuse_taken
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.channel_names import channel_name
from segflow.storage.dicom.choose_series import Chosen, DicomCase, SeriesChoice
from segflow.storage.dicom.label_objects import KINDS, LabelObject, read_label_object
from segflow.storage.dicom.name_map import painting_order
from segflow.storage.dicom.read_channels import read_channels
from segflow.storage.dicom.series import DicomSeries, DicomTree, read_tree
from segflow.storage.dicom.series_checks import defects
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.json_files import write_json
from segflow.storage.whole_folder import folder_written_whole

ENDING = ".nii.gz"
STAGE, FINDING = "convert", "find DICOM"
BYTES_PER_VOXEL = 24
"""Memory in bytes for each voxel of a channel: as read and rescaled, and the labels."""
UID_END = 8

COLUMNS = ("patient", "study", "series", "modality", "slices", "spacing [mm]", "used as")


@dataclass(frozen=True, slots=True)
class FoundDicom:
    """The DICOM files below a folder, and the objects among them that hold labels.

    Attributes:
        root: The folder.
        tree: The files.
        labels: DICOM-SEG and RTSTRUCT objects.
        damaged: Problems of files that cannot be read.
    """

    root: Path
    tree: DicomTree
    labels: tuple[LabelObject, ...]
    damaged: tuple[str, ...]

    def rows(self, chosen: Chosen | None = None) -> list[tuple[str, ...]]:
        """A table of what was found, with `COLUMNS`."""
        rows = [_row(one, chosen) for one in self.tree.series]
        dates = {one.study_uid: one.study_date for one in self.tree.series}
        for one in self.tree.objects:
            if one.modality in KINDS:
                study = dates.get(one.study_uid) or one.study_uid[-UID_END:]
                rows.append((one.patient_id, study, one.description, one.modality, "", "", "labels"))
        return rows


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of a conversion.

    Attributes:
        folder: The new dataset.
        cases: Ids of its training cases.
        unlabelled: Ids of its cases without labels, which are in ``imagesTs``.
        failed: Case → message, of those that are missing in it.
        damaged: Problems of files that cannot be read, whose slices or labels it lacks.
    """

    folder: Path
    cases: tuple[str, ...]
    unlabelled: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DicomDataset:
    """The dataset to make.

    Attributes:
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the new one.
        name: Its name.
        labels: Where labels come from.
        resample: See `read_channels`.
    """

    raw_root: Path
    dataset_id: int
    name: str
    labels: LabelChoice = field(default_factory=LabelChoice)
    resample: bool = False


def find_dicom(folder: Path, progress: Progress = silent) -> FoundDicom:
    """Find series and label objects below a folder.

    Raises:
        SegflowError: There is no series of images, or pydicom is not installed.
    """
    tree = read_tree(folder, lambda number: progress(ProgressEvent(FINDING, "", number, 0)))
    damaged = [str(error) for error in tree.damaged.values()]
    if not tree.series:
        raise SegflowError(f"there is no series of images below {folder}", found="; ".join(damaged) or None)
    labels = []
    for one in tree.objects:
        if one.modality in KINDS:
            try:
                labels.append(read_label_object(one.file))
            except SegflowError as error:
                damaged.append(str(error))
    return FoundDicom(folder, tree, tuple(labels), tuple(damaged))


def choose_cases(found: FoundDicom, choice: SeriesChoice) -> Chosen:
    """The cases of what was found.

    Raises:
        SegflowError: The choice cannot be used. A list of all problems if there is no case.
    """
    chosen = choice.choose(found.tree.series, found.root)
    if not chosen.cases:
        raise CaseErrors("no case was found", [str(error) for error in chosen.failed.values()])
    return chosen


def convert_dicom(
    found: FoundDicom, chosen: Chosen, new: DicomDataset, *, processes: int = 0, progress: Progress = silent
) -> Converted:
    """Make a raw dataset of NIfTI files. A case with a problem is left out, and the others are converted.

    Cases without labels become ``imagesTs``.

    Args:
        found: Result of `find_dicom`.
        chosen: Result of `choose_cases`.
        new: The dataset to make.
        processes: Worker processes; 0 converts in this one.
        progress: Called after each case.

    Raises:
        SegflowError: The number is taken, no case has labels, or all cases have problems. Nothing was written then.
    """
    target = refuse_taken(new.raw_root, f"Dataset{new.dataset_id:03d}_{new.name}")
    failed = {name: str(error) for name, error in chosen.failed.items()}
    known = {one.series_uid for one in found.tree.series}
    with folder_written_whole(target) as partial:
        for part in ("imagesTr", "labelsTr"):
            (partial / part).mkdir()
        jobs, labelled = [], {}
        for case in chosen.cases:
            try:
                labelled[case.case_id] = labels_of_case(case, found.labels, known, new.labels)
            except SegflowError as error:
                failed[case.case_id] = str(error.of_case(case.case_id))
                continue
            arguments = (case, labelled[case.case_id], new, partial)
            jobs.append(Job(case.case_id, arguments, BYTES_PER_VOXEL * max(_voxels(one) for one in case.channels)))
        if labelled and not any(labelled.values()):
            raise no_labels(found, new.labels)
        gathered = gather(run_jobs(convert_case, jobs, processes=processes), len(jobs), STAGE, progress)
        failed |= gathered.failed
        read: dict[str, CaseLabels] = {name: one for name, one in gathered.values.items() if one is not None}
        content = _finished(read, new, partial, failed)
        if not read:
            raise CaseErrors("no case could be converted", sorted(failed.values()), fix="Nothing was written.")
        cases = {case.case_id: case for case in chosen.cases if case.case_id in read}
        order = painting_order(content) if new.labels.labels is None else None
        write_json(partial / "dataset.json", _description(chosen.names, cases, content, order))
    unlabelled = tuple(sorted(name for name, one in gathered.values.items() if one is None))
    return Converted(target, tuple(sorted(cases)), unlabelled, failed, found.damaged)


def convert_case(case: DicomCase, labels: Labelled | None, new: DicomDataset, folder: Path) -> CaseLabels | None:
    """Write the images of a case, and its labels as they are before all cases are known; see `read_case_labels`.

    Raises:
        SegflowError: A series has defects, channels lie on different grids, or the labels do not fit. The error names
            the case.
    """
    images = folder / ("imagesTr" if labels else "imagesTs")
    images.mkdir(exist_ok=True)
    written = []
    result = None
    try:
        for number, (values, geometry) in enumerate(read_channels(case.channels, resample=new.resample)):
            written.append(images / channel_name(case.case_id, number, ENDING))
            SimpleITKIO().write_file(values, geometry, written[-1])
            if number == 0 and labels:
                written.append(_label_file(folder, case.case_id))
                label, result = read_case_labels(case, labels, values.shape, geometry, new.labels, new.resample)
                SimpleITKIO().write_file(label, geometry, written[-1])
    except SegflowError as error:
        for file in written:
            file.unlink(missing_ok=True)
        raise error.of_case(case.case_id) from error
    return result


def _finished(read: dict[str, CaseLabels], new: DicomDataset, folder: Path, failed: dict[str, str]) -> dict[str, Any]:
    """Give the labels of all cases their final values. Cases that cannot have them are taken out of ``read``."""
    content = final_labels(read.values(), new.labels)
    for name, one in list(read.items()):
        try:
            write_case_labels(one, content, _label_file(folder, name))
        except SegflowError as error:
            failed[name] = str(error.of_case(name))
            del read[name]
            for file in (_label_file(folder, name), *(folder / "imagesTr").glob(f"{name}_[0-9]*{ENDING}")):
                file.unlink(missing_ok=True)
    return content


def _description(
    names: Sequence[str], cases: Mapping[str, DicomCase], labels: Mapping[str, Any], order: list[int] | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": labels,
        **({} if order is None else {"regions_class_order": order}),
        "numTraining": len(cases),
        "file_ending": ENDING,
        "converted_by": "segflow",
    }
    patients = Counter(case.channels[0].patient_id for case in cases.values())
    if any(count > 1 and patient for patient, count in patients.items()):  # splits keep a patient's cases together
        content["dataset"] = {
            name: {
                "images": [f"imagesTr/{channel_name(name, k, ENDING)}" for k in range(len(names))],
                "label": f"labelsTr/{name}{ENDING}",
                "group": case.channels[0].patient_id or name,
            }
            for name, case in sorted(cases.items())
        }
    return content


def no_labels(found: FoundDicom, choice: LabelChoice) -> SegflowError:
    """The error for a tree in which no case has labels."""
    if choice.files is not None:
        return SegflowError(
            "no case has labels",
            found=f"no file as label={choice.files} names it",
            fix="{case} stands for the case, as the list of what was found names it.",
        )
    if found.damaged:
        return CaseErrors("no case has labels, and some files cannot be read", sorted(found.damaged))
    return SegflowError(
        "no case has labels",
        found=f"{len(found.labels)} DICOM-SEG or RTSTRUCT objects that belong to other series"
        if found.labels
        else "neither DICOM-SEG nor RTSTRUCT",
        fix="Name files of label maps: label=/data/labels/{case}.nii.gz. To predict, no conversion is needed: "
        "segflow predict input=DIR.",
    )


def _label_file(folder: Path, case_id: str) -> Path:
    return folder / "labelsTr" / f"{case_id}{ENDING}"


def _voxels(series: DicomSeries) -> int:
    return math.prod(series.shape)


def _row(series: DicomSeries, chosen: Chosen | None) -> tuple[str, ...]:
    spacing = " × ".join(f"{n:.4g}" for n in series.spacing) if _has_place(series) else ""
    return (
        series.patient_id,
        series.study_date or series.study_uid[-UID_END:],
        series.description,
        series.modality,
        str(len(series.slices)),
        spacing,
        "; ".join(_uses(series, chosen)),
    )


def _uses(series: DicomSeries, chosen: Chosen | None) -> Iterator[str]:
    use = chosen.use_of(series) if chosen is not None else None
    if use is not None:
        yield f"{use[1]} of {use[0]}"
    for problem in defects(series):
        yield problem.problem.removeprefix(f"{series.title} ")


def _has_place(series: DicomSeries) -> bool:
    return all(None not in (one.position, one.orientation, one.pixel_spacing) for one in series.slices)
