"""Labels from DICOM: which segmentations and contours belong to a series, and what they hold on its grid."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.wording import some
from segflow.storage.dicom.grid import Grid
from segflow.storage.dicom.name_map import NameMap, NameMapBuilder
from segflow.storage.dicom.object_file import items_of, object_file
from segflow.storage.dicom.rtstruct_read import add_structures, structure_labels
from segflow.storage.dicom.segmentation_read import NameOf, add_segmentation, segment_labels
from segflow.storage.dicom.series import DicomSeries

logger = logging.getLogger(__name__)

SEG, RTSTRUCT = KINDS = ("SEG", "RTSTRUCT")

Patterns = Mapping[str, str | Sequence[str]]
"""Name of a label → patterns of names in the files, such as ``{tumour: [GTV*, Lesion]}``."""


@dataclass(frozen=True, slots=True)
class LabelObject:
    """A DICOM file with segments or structures.

    Attributes:
        file: The file.
        kind: ``SEG`` or ``RTSTRUCT``.
        names: Its segments or structures, in their order.
        series_uids: Series of images that it refers to; empty if it names none.
        frames_of_reference: Coordinate systems of the patient that it refers to.
        patient_id: The patient.
    """

    file: Path
    kind: str
    names: tuple[str, ...]
    series_uids: frozenset[str]
    frames_of_reference: frozenset[str]
    patient_id: str


def read_label_object(file: Path) -> LabelObject:
    """What a DICOM-SEG or RTSTRUCT file holds and refers to, without its voxels.

    Raises:
        SegflowError: It cannot be read, or is of another kind. The error names the file.
    """
    with object_file(file) as dataset:
        kind = str(dataset.get("Modality", "")).upper()
        if kind not in KINDS:
            raise SegflowError("the file holds no labels", found=f"modality {kind}", expected=" or ".join(KINDS))
        frames = [str(dataset.get("FrameOfReferenceUID") or "")]
        if kind == SEG:
            labels = segment_labels(dataset)
            series = [str(item.SeriesInstanceUID) for item in items_of(dataset, "ReferencedSeriesSequence")]
        else:
            labels = structure_labels(dataset)
            references = items_of(dataset, "ReferencedFrameOfReferenceSequence")
            frames += [str(item.get("FrameOfReferenceUID") or "") for item in references]
            studies = [study for item in references for study in items_of(item, "RTReferencedStudySequence")]
            series = [
                str(item.SeriesInstanceUID)
                for study in studies
                for item in items_of(study, "RTReferencedSeriesSequence")
            ]
        return LabelObject(
            file,
            kind,
            tuple(dict.fromkeys(labels.values())),
            frozenset(series),
            frozenset(filter(None, frames)),
            str(dataset.get("PatientID") or ""),
        )


def objects_of(
    channels: Sequence[DicomSeries], objects: Iterable[LabelObject], known: Collection[str] = ()
) -> list[LabelObject]:
    """The objects that label a case.

    An object belongs to the case if it refers to one of its series. One that refers to no known series belongs to it
    if it has the same frame of reference and patient.

    Args:
        channels: The series of the case.
        objects: All objects.
        known: UIDs of all series.
    """
    uids = {series.series_uid for series in channels if series.series_uid}
    frames = {(series.patient_id, series.frame_of_reference) for series in channels if series.frame_of_reference}
    return [
        one
        for one in objects
        if one.series_uids & uids
        or (
            not one.series_uids.intersection(known)
            and any((one.patient_id, frame) in frames for frame in one.frames_of_reference)
        )
    ]


def check_reference(one: LabelObject, series: DicomSeries) -> None:
    """Refuse an object of another series.

    Raises:
        SegflowError: It refers to other images, or to none. The error names the file.
    """
    if series.series_uid in one.series_uids or series.frame_of_reference in one.frames_of_reference:
        return
    if not one.series_uids and not one.frames_of_reference:
        raise SegflowError(
            f"{one.file} refers to no images",
            expected="a referenced series or a frame of reference",
            fix="Export it again together with its images.",
        )
    raise SegflowError(
        f"{one.file} belongs to other images than {series.title}",
        found=f"series {some(sorted(one.series_uids)) or 'unknown'}, "
        f"frame of reference {some(sorted(one.frames_of_reference)) or 'unknown'}",
        expected=f"series {series.series_uid}, frame of reference {series.frame_of_reference or 'unknown'}",
    )


def read_labels(
    series: DicomSeries,
    geometry: Geometry,
    shape: tuple[int, int, int],
    objects: Iterable[LabelObject],
    names: Patterns | None = None,
) -> NameMap:
    """Read what objects label in a series. Segments of one name are united.

    Args:
        series: The series.
        geometry, shape: Its grid as it was read.
        objects: See `objects_of`.
        names: Names to take; see `Patterns`. Case, spaces, ``_`` and ``-`` do not matter. None takes all as they are.
            A name that no file has is told, and stays without a voxel.

    Raises:
        SegflowError: A file cannot be read, belongs to another series, has none of the names, or does not lie on the
            grid.
    """
    chosen = list(objects)
    name_of = chooser(names)
    found = [name for one in chosen for name in one.names]
    taken = {name_of(name) for name in found} - {None}
    missing = [name for name in names or () if name not in taken and name != "background"]
    if not taken:
        raise SegflowError(
            f"nothing labels {series.title}",
            found=f"segments {some(found)}" if found else "no DICOM-SEG and no RTSTRUCT",
            expected=some([_spoken(name, names) for name in missing]) if names and missing else "a segment",
        )
    if missing:
        told = some(list(dict.fromkeys(found)))
        logger.warning("%s has no segment '%s' (it has %s)", series.title, "', '".join(missing), told)
    _tell_united(series, chosen, name_of)
    builder = NameMapBuilder(shape)
    grid = Grid(shape, geometry, series.frame_of_reference)
    for one in chosen:
        check_reference(one, series)
        (add_segmentation if one.kind == SEG else add_structures)(one.file, grid, name_of, builder)
    return builder.build()


def _tell_united(series: DicomSeries, objects: Sequence[LabelObject], name_of: NameOf) -> None:
    """Say which names several files have, as those of several readers may."""
    for name in dict.fromkeys(name_of(name) for one in objects for name in one.names):
        files = [one.file.name for one in objects if name in map(name_of, one.names)]
        if name is not None and len(files) > 1:
            logger.warning("%s has '%s' in %d files, which are united: %s", series.title, name, len(files), some(files))


def chooser(names: Patterns | None) -> NameOf:
    """Name of a segment in a file → its name among ``names``, or None if none of their patterns fits.

    Raises:
        SegflowError: Later, when it is asked for a segment that fits two names.
    """
    if names is None:
        return lambda label: label
    patterns = {
        name: [_plain(one) for one in ([wanted] if isinstance(wanted, str) else wanted)]
        for name, wanted in names.items()
    }

    def name_of(label: str) -> str | None:
        fitting = [name for name, wanted in patterns.items() if any(fnmatchcase(_plain(label), one) for one in wanted)]
        if len(fitting) > 1:
            raise SegflowError(f"the segment '{label}' fits two names", found=some(fitting), expected="one")
        return fitting[0] if fitting else None

    return name_of


def _spoken(name: str, names: Patterns) -> str:
    """A name, with its patterns where they are others."""
    wanted = names[name]
    others = [one for one in ([wanted] if isinstance(wanted, str) else wanted) if _plain(one) != _plain(name)]
    return f"{name} ({some(others)})" if others else name


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
