"""Conversion of public datasets from the layouts in which they are given away."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.wording import some
from segflow.exchange.decathlon import convert_decathlon
from segflow.exchange.file_patterns import find_by_patterns
from segflow.exchange.known_datasets import KnownDataset
from segflow.exchange.listed_cases import CaseList, ListedCase, NewDataset, write_listed
from segflow.exchange.raw_layout import refuse_taken
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.folder_files import files_within
from segflow.storage.images import check_same_space, reader_by_name, voxels_of
from segflow.storage.json_files import write_json
from segflow.storage.whole_folder import folder_written_whole

STAGE = "convert"
DEPTH = 3
"""Folders below the given one in which a dataset may lie."""
LITS_LABELS = {"background": 0, "liver": 1, "tumour": 2}
ACDC_LABELS = {"background": 0, "right_ventricle": 1, "myocardium": 2, "left_ventricle": 3}
AMOS_ORGANS = (
    *("spleen", "right_kidney", "left_kidney", "gall_bladder", "esophagus", "liver", "stomach", "aorta", "postcava"),
    *("pancreas", "right_adrenal_gland", "left_adrenal_gland", "duodenum", "bladder", "prostate_or_uterus"),
)
LAST_CT_OF_AMOS = 500
"""AMOS numbers its CT up to here, and its MR beyond."""
BYTES_PER_VOXEL = 6
"""Memory per voxel in bytes while masks are joined: the joined map, one mask as stored and as read."""

log = logging.getLogger(__name__)


def convert_known(known: KnownDataset, source: Path, target: Path, progress: Progress = silent) -> Path:
    """Make a raw dataset of a public one.

    Images are listed where they lie, except those of a decathlon task, which are copied. TotalSegmentator's masks are
    joined to one label map for each case.

    Args:
        known: The dataset.
        source: Its folder, or one above it.
        target: The new folder, ``DatasetNNN_Name``.
        progress: Called after each case.

    Raises:
        SegflowError: The folder does not hold this dataset, or some of its files cannot be used.
    """
    number = re.fullmatch(r"Dataset(\d+)_(.+)", target.name)
    if number is None:
        raise SegflowError("the dataset has no number", found=target.name, expected="dataset.name=DatasetNNN_Name")
    if known.layout == "decathlon":
        task = _found(source, lambda folder: (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir())
        return convert_decathlon(task, target.parent, name=target.name, progress=progress)
    if known.layout == "totalsegmentator":
        return _join_masks(known, source, target, progress)
    listed, labels = _LISTS[known.layout](source.resolve(), known.channel)
    return write_listed(listed, NewDataset(target.parent, int(number[1]), number[2], labels), progress)


def _lits(source: Path, channel: str) -> tuple[CaseList, Mapping[str, Any]]:
    """``volume-0.nii`` and ``segmentation-0.nii``, in one folder or several. Test volumes have no segmentation."""
    images, label = {channel: f"{source}/**/volume-{{case}}.nii*"}, f"{source}/**/segmentation-{{case}}.nii*"
    listed = find_by_patterns(images, label, skip_incomplete=True)
    cases = tuple(replace(case, case_id=f"lits_{case.case_id.zfill(3)}") for case in listed.cases)
    return replace(listed, cases=tuple(sorted(cases, key=lambda case: case.case_id))), LITS_LABELS


def _acdc(source: Path, channel: str) -> tuple[CaseList, Mapping[str, Any]]:
    """``training/patient001/patient001_frame01.nii.gz`` and ``…_gt.nii.gz``. Frames of a patient are one group."""
    training = _found(source, lambda folder: any(folder.glob("patient*/patient*_gt.nii.gz")))
    images = {channel: f"{training}/{{group}}/{{group}}_frame{{case}}.nii.gz"}
    return find_by_patterns(images, f"{training}/{{group}}/{{group}}_frame{{case}}_gt.nii.gz"), ACDC_LABELS


def _amos(source: Path, channel: str) -> tuple[CaseList, Mapping[str, Any]]:
    """``imagesTr/amos_0001.nii.gz`` and ``labelsTr/amos_0001.nii.gz``; only CT, as its numbers say."""
    folder = _found(source, lambda folder: any((folder / "imagesTr").glob("amos_*.nii.gz")))
    listed = find_by_patterns(
        {channel: f"{folder}/imagesTr/{{case}}.nii.gz"}, f"{folder}/labelsTr/{{case}}.nii.gz", skip_incomplete=True
    )
    cases = tuple(case for case in listed.cases if _number(case) <= LAST_CT_OF_AMOS)
    if not cases:
        raise SegflowError(f"{folder} holds no CT with a label map", found=some([c.case_id for c in listed.cases]))
    labels = {"background": 0, **{organ: value for value, organ in enumerate(AMOS_ORGANS, start=1)}}
    return replace(listed, cases=cases), labels


def _number(case: ListedCase) -> int:
    found = re.fullmatch(r"amos_(\d+)", case.case_id)
    return int(found[1]) if found else LAST_CT_OF_AMOS + 1


_LISTS: dict[str, Callable[[Path, str], tuple[CaseList, Mapping[str, Any]]]] = {
    "lits": _lits,
    "acdc": _acdc,
    "amos": _amos,
}


def _found(source: Path, is_it: Callable[[Path], bool]) -> Path:
    """The folder, or the first one below it, that holds a dataset. ACDC's ``training`` comes before ``testing``."""
    level = [source.resolve()]
    for _ in range(DEPTH + 1):
        for folder in sorted(level, key=lambda folder: (folder.name != "training", folder.name)):
            if is_it(folder):
                return folder
        level = [below for folder in level for below in folder.iterdir() if below.is_dir()]
    there = some(sorted(path.name for path in source.iterdir()))
    raise SegflowError(f"{source} does not hold this dataset", found=there or "nothing", fix="Check dataset.source.")


def _join_masks(known: KnownDataset, source: Path, target: Path, progress: Progress) -> Path:
    """``s0000/ct.nii.gz`` and one mask for each class in ``s0000/segmentations``."""
    refuse_taken(target.parent, target.name)
    folder = _found(source, lambda folder: any(folder.glob("s*/segmentations")))
    subjects = sorted(place.parent for place in folder.glob("s*/segmentations") if _image(place.parent) is not None)
    classes = sorted({file.name.removesuffix(".nii.gz") for subject in subjects for file in _masks(subject)})
    if not classes:
        raise SegflowError(f"{folder} holds no masks", expected="s0000/segmentations/liver.nii.gz")
    values = {name: value for value, name in enumerate(classes, start=1)}
    reader = reader_by_name("SimpleITKIO")
    with folder_written_whole(target) as partial:
        (partial / "labelsTr").mkdir()
        jobs = []
        for subject in subjects:
            image = _image(subject)
            voxels = 0 if image is None else voxels_of(image, reader)
            place = partial / "labelsTr" / f"{subject.name}.nii.gz"
            jobs.append(Job(subject.name, (subject, values, place), BYTES_PER_VOXEL * voxels, f"{voxels:,} voxels"))
        joined = gather(run_jobs(join_masks, jobs, processes=0), len(jobs), STAGE, progress)
        joined.all_values("some masks could not be joined", fix="Nothing was written.")
        if overlaps := {case_id: count for case_id, count in joined.values.items() if count}:
            log.warning(
                "%d voxels lie in several masks, and have the class that is last in the alphabet: %s",
                sum(overlaps.values()),
                some(sorted(overlaps)),
            )
        content = {
            "channel_names": {"0": known.channel},
            "labels": {"background": 0, **values},
            "numTraining": len(subjects),
            "file_ending": ".nii.gz",
            "dataset": {
                subject.name: {"images": [str(_image(subject))], "label": f"labelsTr/{subject.name}.nii.gz"}
                for subject in subjects
            },
            "converted_by": "segflow",
        }
        write_json(partial / "dataset.json", content)
    return target


def _image(subject: Path) -> Path | None:
    return next((file for name in ("ct", "mri") if (file := subject / f"{name}.nii.gz").is_file()), None)


def _masks(subject: Path) -> Iterable[Path]:
    return (file for file in files_within(subject / "segmentations") if file.name.endswith(".nii.gz"))


def join_masks(subject: Path, values: Mapping[str, int], file: Path) -> int:
    """Write one label map of a subject's masks. Returns the number of voxels that several masks hold.

    Raises:
        SegflowError: There is no mask, or one cannot be read or lies on another grid than the image.
    """
    reader = reader_by_name("SimpleITKIO")
    image = _image(subject)
    if image is None:
        raise SegflowError("there is no image", case=subject.name)
    header = reader.read_header(image)
    label = np.zeros(header.shape, np.uint8 if max(values.values()) < 256 else np.uint16)
    overlap = 0
    for mask in _masks(subject):
        inside, geometry = reader.read_label(mask)
        try:
            check_same_space(header.shape, inside.shape, header.geometry, geometry)
        except SegflowError as error:
            raise SegflowError(f"{mask.name}: {error}", case=subject.name) from error
        taken = inside > 0
        overlap += int(np.count_nonzero(label[taken]))
        label[taken] = values[mask.name.removesuffix(".nii.gz")]
    reader.write_label(label, header.geometry, file)
    return overlap
