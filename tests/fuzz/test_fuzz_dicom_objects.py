"""Damaged and hostile segmentations, contours and slices of a series end in an error, whatever they hold."""

from __future__ import annotations

import contextlib
import io
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import dicom_files
import dicom_labels
import fuzzing
import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEG2000Lossless, RLELossless

from segflow.core.errors import SegflowError
from segflow.storage.dicom.choose_series import choose_by_table, choose_series
from segflow.storage.dicom.label_objects import read_label_object, read_labels
from segflow.storage.dicom.read_series import read_series
from segflow.storage.dicom.series import DicomSeries, DicomTree, find_series, read_tree

INPUTS = 750
SHAPE = (3, 9, 8)
SQUARE = np.array([(-9.5, 20.8, 102.5), (-8.5, 20.8, 102.5), (-8.5, 23.2, 102.5), (-9.5, 23.2, 102.5)])
TABLE = "patient,CT,label\nP1,Abdomen,\n"

NUMBERS = (
    *("0", "-1", "1", "2", "255", "65535", "1048576", "2147483647", "4294967295", "9" * 15, "1e308", "-1e308", "1e999"),
    *("nan", "inf", "1e-320", "", "x", "1.5", "1\\2", "1\\2\\3", "0\\0\\0", "1\\0\\0\\1\\0\\0", "nan\\0\\0", "\0", "٣"),
    *("1e308\\1e308\\1e308", "1e4\\0\\0", "1e12\\0\\102.5", "-10\\20\\100.001", "9\\" * 5000, "1e-9\\1e-9"),
    *("1.2.840.10008.1.2.4.90", "MONOCHROME1", "RGB", "CT"),
    *("FRACTIONAL", "LABELMAP", "BINARY", "SEG", "RTSTRUCT", "MR", "../../pipe", "/etc/passwd", "LOCALIZER", "POINT"),
)
INTEGERS = (0, 1, 2, 7, 8, 12, 16, 17, 32, 64, 255, 4096, 32767, 32768, 65535)
SYNTAXES = (b"1.2.840.10008.1.2.2\0", b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2\0\0\0", b"1.2.3\0" + b"\0" * 14)
ADDED = (0x00280008, 0x00280120, 0x00280121, 0x00281052, 0x00281053, 0x00200100, 0x52009230, 0x00080005)
"""Tags that the samples lack."""
LITTLE = b"1.2.840.10008.1.2.1\0"


@cache
def _whole() -> dict[str, bytes]:
    """The slices of a whole series, by file name."""
    with tempfile.TemporaryDirectory() as folder:
        dicom_files.write_series(Path(folder), dicom_files.volume(SHAPE), lambda k, made: _numbered(made, k))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def _numbered(made: Dataset, number: int) -> None:
    made.SOPInstanceUID = f"1.2.3.4.{number + 1}"


@cache
def samples() -> dict[str, bytes]:
    """Whole files of every kind by name; the name says what is read."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, content in _whole().items():
            (folder / name).write_bytes(content)
        series = _series()
        found["slice"] = (folder / "007").read_bytes()
        made = pydicom.dcmread(folder / "007")
        made.compress(RLELossless, generate_instance_uid=False)
        found["packed"] = _bytes(made)
        found["jpeg"] = _jpeg(folder / "007")
        found["frames"] = _frames(folder)
        frames = [(k, (-10.0, 20.0, 100 + 2.5 * z), np.eye(9, 8)) for z in (0, 2) for k in (1, 2)]
        for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
            found[f"{kind.lower()}.seg"] = _bytes(dicom_labels.segmentation(series, ["liver", "tumour"], frames, kind))
        contours = {"liver": [SQUARE], "spleen": [SQUARE - (0, 0, 2.5)]}
        found["contours"] = _bytes(dicom_labels.structures(series, contours))
    found["table.csv"] = TABLE.encode()
    return found


def _jpeg(file: Path) -> bytes:
    """A slice as JPEG 2000."""
    made = pydicom.dcmread(file)
    stream = io.BytesIO()
    Image.fromarray((np.arange(72).reshape(SHAPE[1:]) * 9).astype(np.uint16)).save(
        stream, "JPEG2000", no_jp2=True, irreversible=False, num_resolutions=1
    )
    made.PixelData, made.PixelRepresentation = encapsulate([stream.getvalue()]), 0
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return _bytes(made)


def _frames(folder: Path) -> bytes:
    """The series as one file of several frames."""
    slices = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda one: one.InstanceNumber)
    made = dicom_files.plain(0, ImagePositionPatient=None, SeriesInstanceUID="1.2.3.9", NumberOfFrames=len(slices))
    made.Rows, made.Columns = SHAPE[1:]
    made.PerFrameFunctionalGroupsSequence = [Dataset() for _ in slices]
    for group, one in zip(made.PerFrameFunctionalGroupsSequence, slices, strict=True):
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = one.ImagePositionPatient
    made.PixelData = b"".join(one.PixelData for one in slices)
    return _bytes(made)


def _bytes(made: Dataset) -> bytes:
    stream = io.BytesIO()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = "1.2", "1.2.3"
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def mutate(name: str, content: bytes, rng: np.random.Generator) -> bytes | None:
    """Put hostile values into the elements of a file, at any depth, and leave out, copy or exchange items."""
    if name == "table.csv":
        return None
    made = pydicom.dcmread(io.BytesIO(content))
    places = _places(made)
    chosen = rng.permutation(len(places))[: int(rng.choice([1, 1, 1, 2, 4]))]
    for place in sorted(chosen, reverse=True):  # items before what holds them
        _change(*places[place], rng)
    if rng.random() < 0.2:
        tag = ADDED[int(rng.integers(len(ADDED)))]
        kind = dictionary_VR(tag).split(" ")[0]
        _put(made, Tag(tag), kind, _hostile(kind, rng))
    try:
        result = _bytes(made)
    except Exception:  # what pydicom itself cannot write
        return None
    return result.replace(LITTLE, SYNTAXES[int(rng.integers(len(SYNTAXES)))], 1) if rng.random() < 0.05 else result


def _places(dataset: Dataset) -> list[tuple[Dataset, Any]]:
    """Data sets and tags of all elements, those of items too."""
    found: list[tuple[Dataset, Any]] = []
    for tag in list(dataset.keys()):
        found.append((dataset, tag))
        if dataset[tag].VR == "SQ":
            found += [place for item in dataset[tag].value for place in _places(item)]
    return found


def _change(owner: Dataset, tag: Any, rng: np.random.Generator) -> None:
    element = owner[tag]
    if rng.random() < 0.15:
        del owner[tag]
    elif element.VR == "SQ":
        items = list(element.value)
        kind = int(rng.integers(3))
        chosen = int(rng.integers(len(items))) if items else 0
        owner[tag].value = [items[:chosen], items + items[chosen:], items[::-1]][kind]
    elif tag == 0x7FE00010:
        value = bytes(element.value)
        cut = int(rng.integers(len(value) // 2 + 1)) * 2
        _put(owner, tag, element.VR, value[:cut] if rng.random() < 0.5 else value[cut:] + value[:cut])
    else:
        kind = element.VR if rng.random() < 0.85 else str(rng.choice(["LO", "DS", "IS", "US", "UL", "FD", "OB", "ZZ"]))
        _put(owner, tag, kind, _hostile(kind, rng))


def _hostile(kind: str, rng: np.random.Generator) -> bytes:
    if kind in ("US", "SS", "UL", "SL", "OB", "ZZ"):
        size = {"US": 2, "SS": 2, "UL": 4, "SL": 4}.get(kind, 1)
        value = int(rng.choice(INTEGERS)) % 256**size
        return value.to_bytes(size, "little") * int(rng.choice([1, 1, 1, 0, 2]))
    if kind == "FD":
        return np.array(rng.choice(fuzzing.REALS), "<f8").tobytes()
    text = NUMBERS[int(rng.integers(len(NUMBERS)))].encode()
    return text + b" " * (len(text) % 2)


def _put(owner: Dataset, tag: Any, kind: str, value: bytes) -> None:
    """An element of these very bytes, which pydicom would not accept as a value."""
    owner._dict[tag] = RawDataElement(tag, kind, len(value), value, 0, False, True)


def read(file: Path) -> None:
    """As convert and predict do: find what is below the folder, then read it."""
    folder = file.parent
    if file.name in ("contours", "table.csv") or file.suffix == ".seg":
        act = _read_table if file.suffix == ".csv" else _read_labels
        return _as(file, lambda: act(file, _series()))
    if file.name != "frames":
        _write_whole(folder, leave_out="007")
    tree = read_tree(folder)
    with contextlib.suppress(SegflowError):
        choose_series(tree.series, folder)
    return _as(file, lambda: _read_all(tree))


@cache
def _series() -> DicomSeries:
    """The whole series, whose files are not there any more."""
    with tempfile.TemporaryDirectory() as folder:
        _write_whole(Path(folder))
        return find_series(Path(folder))[0]


def _write_whole(folder: Path, leave_out: str = "") -> None:
    for name, content in _whole().items():
        if name != leave_out:
            (folder / name).write_bytes(content)


def _read_table(file: Path, series: DicomSeries) -> None:
    choose_by_table([series], file.parent, file)


def _read_labels(file: Path, series: DicomSeries) -> None:
    read_tree([file])
    read_labels(series, series.geometry, series.shape, [read_label_object(file)])


def _read_all(tree: DicomTree) -> None:
    problems = list(tree.damaged.values())
    for series in tree.series:
        for resample in (False, True):
            try:
                read_series(series, resample=resample)
            except SegflowError as error:
                problems.append(error)
    if problems:
        raise problems[0]


def _as(file: Path, act: Any) -> None:
    """Do it; of an error that names the series, say which file it was."""
    try:
        act()
    except SegflowError as error:
        raise SegflowError(f"{file.name}: {error}") from error


def test_damaged_segmentations_contours_and_slices_end_in_an_error(tmp_path: Path) -> None:
    failures = fuzzing.fuzz(__name__, tmp_path, fuzzing.count(INPUTS))
    assert not failures, f"{len(failures)} failures, such as\n" + "\n\n".join(failures[:5])
