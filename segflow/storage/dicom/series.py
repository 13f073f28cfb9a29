"""Series of DICOM images: the record of one, and the search for them in a folder.

Vectors and positions are DICOM's: x, y, z of the patient in mm, LPS+.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.names import shortened
from segflow.storage.image_formats.placement import ItkPlacement

UID_END = 12
"""Characters of a UID that messages show, from its end."""
DECIMALS = 9
"""Decimals of the distance of slices, so that the error of a subtraction does not show."""


@dataclass(frozen=True, slots=True)
class DicomSlice:
    """One slice of a series: a file, or a frame of one.

    Attributes:
        file: The file.
        frame: Index of the frame in the file, from 0.
        position: Centre of the first voxel, x, y, z in mm; None if the file does not say it.
        orientation: Direction of a row (along which columns count), then of a column; None if the file does not say it.
        pixel_spacing: Distance of rows, then of columns, in mm; None if the file does not say it.
        rows, columns: Voxels along y and x.
        slope, intercept: Stored value → value.
        instance_uid: SOPInstanceUID of the file.
        instance_class: SOPClassUID of the file.
        instance_number: Number within the series, for messages only.
        traits: What may tell acquisitions of the same place apart, such as ``AcquisitionNumber``: name → text.
    """

    file: Path
    frame: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    pixel_spacing: tuple[float, float] | None
    rows: int
    columns: int
    slope: float = 1.0
    intercept: float = 0.0
    instance_uid: str = ""
    instance_class: str = ""
    instance_number: int | None = None
    traits: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name for messages."""
        return self.file.name if self.frame == 0 else f"{self.file.name} (frame {self.frame + 1})"


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """A series of images. It may have defects, which `check_series` finds.

    Attributes:
        slices: Sorted by position along the normal of most slices, with which z grows; slices without a place
            come last.
        patient_id, study_uid, series_uid, frame_of_reference: Ids of DICOM; empty where the files have none.
        description, study_description: Texts of whoever made the images.
        study_date: ``YYYYMMDD``, or empty.
        modality: Such as ``CT`` or ``MR``.
        image_type: Such as ``ORIGINAL, PRIMARY, LOCALIZER``.
        samples: Numbers per pixel; 3 for colour.
        photometric: Meaning of these, such as ``MONOCHROME2``.
    """

    slices: tuple[DicomSlice, ...]
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference: str = ""
    description: str = ""
    study_description: str = ""
    study_date: str = ""
    modality: str = ""
    image_type: tuple[str, ...] = ()
    samples: int = 1
    photometric: str = "MONOCHROME2"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of the slices, each once."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    @property
    def folder(self) -> Path:
        """The folder of the first file."""
        return self.slices[0].file.parent

    @property
    def title(self) -> str:
        """Name for messages: description or modality, and the end of the UID or the folder."""
        where = f"…{self.series_uid[-UID_END:]}" if self.series_uid else str(self.folder)
        return f"series {shortened(self.description or self.modality or 'without description')} ({where})"

    @property
    def normal(self) -> np.ndarray:
        """float64 (3,): direction in which slices follow each other, x, y, z of the patient. Only with a place."""
        return normal_of(self.slices[0])

    @property
    def offsets(self) -> np.ndarray:
        """float64 (slices,): places of the slices along the normal in mm, growing."""
        offsets: np.ndarray = np.array([one.position for one in self.slices], dtype=np.float64) @ self.normal
        return offsets

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        return len(self.slices), self.slices[0].rows, self.slices[0].columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances along z, y, x in mm, that along z between the positions of slices; 0 for a single slice."""
        row, column = self.slices[0].pixel_spacing or (0.0, 0.0)
        offsets = self.offsets
        return round(float(offsets[-1] - offsets[0]) / max(1, len(offsets) - 1), DECIMALS), row, column

    @property
    def geometry(self) -> Geometry:
        """Placement of the volume (z, y, x), for a series without defects."""
        first, (z, y, x) = self.slices[0], self.spacing
        axes = (first.orientation or ())[:3], (first.orientation or ())[3:], self.normal
        direction = np.array(axes, dtype=np.float64).T
        return ItkPlacement((x, y, z), first.position or (), tuple(direction.ravel().tolist())).to_geometry()


@dataclass(frozen=True, slots=True)
class DicomObject:
    """A DICOM file that is no image of its own, such as a segmentation or a set of contours.

    Attributes:
        file: The file.
        modality: Such as ``SEG`` or ``RTSTRUCT``.
        instance_class: SOPClassUID.
        patient_id, study_uid, series_uid, frame_of_reference, description: See `DicomSeries`.
    """

    file: Path
    modality: str
    instance_class: str
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_of_reference: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class DicomTree:
    """The DICOM files below a folder.

    Attributes:
        series: Series of images, by patient, study date, study and description.
        objects: Other DICOM objects, by file.
        damaged: File → why it cannot be read.
        others: Number of files that are not DICOM.
    """

    series: tuple[DicomSeries, ...]
    objects: tuple[DicomObject, ...]
    damaged: Mapping[Path, SegflowError]
    others: int


def normal_of(one: DicomSlice) -> np.ndarray:
    """float64 (3,): the normal of a slice with an orientation."""
    axes = np.array(one.orientation, dtype=np.float64)
    normal: np.ndarray = np.cross(axes[:3], axes[3:])
    return normal


def find_series(folder: Path) -> list[DicomSeries]:
    """The series of images below a folder; see `read_tree`."""
    return list(read_tree(folder).series)


def read_tree(source: Path | Iterable[Path], seen: Callable[[int], None] = lambda _: None) -> DicomTree:
    """Find all DICOM files below a folder by their content; names and endings do not matter.

    Hidden files, DICOMDIR and links to folders are passed over.

    Args:
        source: The folder, or files.
        seen: Called with the number of files that were looked at, after each.

    Raises:
        SegflowError: There is no such folder, or pydicom is not installed although there are DICOM files.
    """
    from segflow.storage.dicom.file_header import DIRECTORY, is_dicom, need_pydicom, read_header

    grouped: dict[tuple[str, ...], list[DicomSeries]] = defaultdict(list)
    objects: list[DicomObject] = []
    damaged: dict[Path, SegflowError] = {}
    others = 0
    for number, file in enumerate(_files_below(source) if isinstance(source, Path) else source, start=1):
        seen(number)
        if not is_dicom(file):
            others += 1
            continue
        need_pydicom(file)
        try:
            found = read_header(file)
        except SegflowError as error:
            damaged[file] = error
            continue
        if isinstance(found, DicomSeries):
            grouped[_key(found)].append(found)
        elif found.instance_class != DIRECTORY:
            objects.append(found)
    series = sorted(map(_together, grouped.values()), key=_order)
    return DicomTree(tuple(series), tuple(sorted(objects, key=lambda one: one.file)), damaged, others)


def holds_dicom(folder: Path, most: int = 200, *, without: tuple[str, ...] = ()) -> bool:
    """Whether there is DICOM below a folder, by the first files that are looked at, at most ``most``.

    Args:
        folder: The folder.
        most: Number of files to look at.
        without: Endings in lower case of files that need no look.
    """
    from segflow.storage.dicom.file_header import is_dicom

    files = (file for file in _files_below(folder) if not (without and file.name.lower().endswith(without)))
    return any(is_dicom(file) for file, _ in zip(files, range(most), strict=False))


def _files_below(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise SegflowError(f"there is no folder {folder}", fix="Check the path.")
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and (path := Path(place, name)).is_file():
                yield path


def _key(series: DicomSeries) -> tuple[str, ...]:
    """What the files of one series have in common. Files whose UIDs were removed are told apart by folder."""
    place = () if series.series_uid else (str(series.folder), series.description, series.frame_of_reference)
    return series.patient_id, series.study_uid, series.series_uid, series.modality, *place


def _order(series: DicomSeries) -> tuple[str, ...]:
    return (
        series.patient_id,
        series.study_date,
        series.study_uid,
        series.description,
        series.series_uid,
        str(series.slices[0].file),
    )


def _together(parts: list[DicomSeries]) -> DicomSeries:
    """One series from those of its files, with its slices sorted. What differs between files is the most frequent."""
    slices = [one for part in parts for one in part.slices]
    orientation = Counter(one.orientation for one in slices if one.orientation is not None)
    if orientation:
        first = next(one for one in slices if one.orientation == orientation.most_common(1)[0][0])
        normal = normal_of(first)
        slices.sort(key=lambda one: (one.orientation is None or one.position is None, _offset(one, normal)))
    common: dict[str, object] = {
        name: Counter(getattr(part, name) for part in parts).most_common(1)[0][0]
        for name in DicomSeries.__dataclass_fields__
        if name not in ("slices", "image_type", "samples")
    }
    localizers = [part.image_type for part in parts if "LOCALIZER" in part.image_type]
    image_type = (localizers or [parts[0].image_type])[0]
    samples = max(part.samples for part in parts)
    return DicomSeries(tuple(slices), image_type=image_type, samples=samples, **common)  # type: ignore[arg-type]


def _offset(one: DicomSlice, normal: np.ndarray) -> float:
    return 0.0 if one.position is None else float(np.asarray(one.position) @ normal)
