"""Damaged and hostile DICOM images end in an error with their name, whatever they hold."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import fuzzing
import numpy as np
import pydicom
import SimpleITK as sitk
from dicom_files import plain
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from segflow.core.errors import SegflowError
from segflow.storage.dicom.read_series import read_series, read_slices
from segflow.storage.dicom.series import DicomSeries, read_tree
from segflow.storage.dicom.series_checks import defects

INPUTS = 150
TEXTS = (
    *(text.encode() for text in fuzzing.NUMBERS),
    *(b"1\\2\\3", b"\\\\\\", b"nan\\inf\\0", b"0\\0\\0\\0\\0\\0", b"1e308\\1e308", b"\x00" * 6, b"RGB ", b"CT" * 70),
    *(b"1.2.840.10008.1.2.1.99", b"\xff\xfe\x00\xe0" * 3, b"../../pipe", b"ISO 2022 IR 87", b"\xe2\x28\xa1" * 9),
    *(value.to_bytes(8, "little", signed=True)[:size] for value in (0, -1, 2**31, 65535, 256) for size in (1, 2, 4, 8)),
)


def _bytes(made: Dataset) -> bytes:
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _image(**elements: object) -> Dataset:
    made = plain(0, SOPInstanceUID="1.2.3.4.5", **elements)
    voxels = np.arange(16 * 12).reshape(12, 16).astype(np.int16)
    made.Rows, made.Columns = voxels.shape
    made.PixelData = voxels.tobytes()
    return made


def _frames() -> Dataset:
    made = _image(ImagePositionPatient=None, PixelSpacing=None, NumberOfFrames=3)
    made.PixelData *= 3
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.8, 0.5]
    shared.PixelMeasuresSequence = Sequence([measures])
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    each = []
    for number in range(3):
        group, place, values = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 2.0 * number]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1 + number, -1024, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = Sequence([place]), Sequence([values])
        each.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(each)
    return made


@functools.cache
def samples() -> dict[str, bytes]:
    """Small whole files of every way to store voxels."""
    implicit, packed = _image(PixelPaddingValue=3), _image()
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    packed.compress(RLELossless, generate_instance_uid=False)
    found = {
        "explicit.dcm": _bytes(_image(RescaleSlope=0.5, RescaleIntercept=-3)),
        "implicit": _bytes(implicit),
        "frames.dcm": _bytes(_frames()),
        "rle.dcm": _bytes(packed),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("JPEG2000", "JPEG"):
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.SetCompressor(name)
            writer.UseCompressionOn()
            writer.SetFileName(f"{folder}/x.dcm")
            values = np.arange(16 * 12).reshape(1, 12, 16).astype(np.uint8 if name == "JPEG" else np.int16)
            writer.Execute(sitk.GetImageFromArray(values))
            found[f"{name}.dcm"] = Path(f"{folder}/x.dcm").read_bytes()
    return found


def mutate(name: str, content: bytes, rng: np.random.Generator) -> bytes | None:
    """One or two elements get hostile bytes for a value."""
    made = pydicom.dcmread(io.BytesIO(content))
    stream = io.BytesIO()
    try:
        for _ in range(int(rng.choice([1, 1, 2]))):
            _harm(made, rng)
        made.save_as(stream, enforce_file_format=False)
    except Exception:  # what cannot be written is damaged byte by byte instead
        return None
    return stream.getvalue()


def _harm(place: Dataset, rng: np.random.Generator) -> None:
    tags = list(place.keys())
    tag = tags[int(rng.integers(len(tags)))]
    if place[tag].VR == "SQ" and len(place[tag].value) and rng.random() < 0.8:
        return _harm(place[tag].value[int(rng.integers(len(place[tag].value)))], rng)
    place[tag] = DataElement(tag, "UN", TEXTS[int(rng.integers(len(TEXTS)))])
    return None


def read(file: Path) -> None:
    """As commands do, and also where checks would end it: header, defects, voxels, placement."""
    tree = read_tree(file.parent)
    for error in tree.damaged.values():
        raise error
    for series in tree.series:
        list(defects(series))
        read_slices(series)
        _as_volume(series)


def _as_volume(series: DicomSeries) -> None:
    """Two copies of a slice above each other are a volume, if it has a place."""
    first = series.slices[0]
    if len(series.slices) == 1 and first.position is not None and first.orientation is not None:
        above = tuple(p + float(n) for p, n in zip(first.position, series.normal, strict=True))
        series = replace(series, slices=(first, replace(first, position=above)))  # type: ignore[arg-type]
    with contextlib.suppress(SegflowError):  # which names the series
        read_series(series, resample=True)


def test_damaged_dicom_ends_in_an_error_with_its_name(tmp_path: Path) -> None:
    failures = fuzzing.fuzz(__name__, tmp_path, fuzzing.count(INPUTS))
    assert not failures, f"{len(failures)} failures, such as\n" + "\n\n".join(failures[:5])
