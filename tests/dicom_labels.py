"""DICOM objects with labels that tests write: segmentations and contours."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import files
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import pack_bits
from pydicom.uid import UID, ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid

from segflow.core.labels import Labels
from segflow.storage.dicom.label_objects import LabelObject, read_label_object, read_labels
from segflow.storage.dicom.name_map import NameMap
from segflow.storage.dicom.series import DicomSeries

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def labels_in(series: DicomSeries, *label_files: Path, names: Mapping[str, str | list[str]] | None = None) -> NameMap:
    """What files label in a series."""
    objects: list[LabelObject] = [read_label_object(file) for file in label_files]
    return read_labels(series, series.geometry, series.shape, objects, names)


def regions(**entries: int | list[int]) -> Labels:
    """A label definition."""
    order = [1] * len(entries) if any(isinstance(value, list) for value in entries.values()) else None
    return Labels.from_json({"background": 0, **entries}, order)


def dcmqi_maps(file: Path, folder: Path) -> list[sitk.Image]:
    """The label maps that dcmqi reads from a DICOM-SEG: one, or several where segments overlap."""
    program = next(
        one for one in files("dcmqi") or () if one.name.startswith("segimage2itkimage") and "bin" in str(one)
    )
    folder.mkdir()
    options = ["--inputDICOM", file, "--outputDirectory", folder, "--outputType", "nrrd", "--mergeSegments"]
    subprocess.run([program.locate(), *options], check=True, capture_output=True, timeout=60)
    return [sitk.ReadImage(str(one)) for one in sorted(folder.glob("*.nrrd"))]


def on_series(image: sitk.Image, series: DicomSeries) -> np.ndarray:
    """A label map on the series' grid, by the positions of its voxels in the patient; 0 where it has none."""
    header, voxels = series.geometry.header, sitk.GetArrayFromImage(image)
    z, y, x = np.indices(voxels.shape)
    own = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    mm = np.stack([x, y, z], axis=-1) @ own.T + image.GetOrigin()
    axes = np.reshape(header["direction"], (3, 3)) * header["spacing"]
    at = (mm - header["origin"]) @ np.linalg.inv(axes).T
    assert np.abs(at - np.round(at)).max() < 0.01
    i, j, k = np.moveaxis(np.round(at).astype(int), -1, 0)
    placed = np.zeros(series.shape, voxels.dtype)
    placed[k, j, i] = voxels
    return placed


def _object(series: DicomSeries, modality: str, instance_class: UID) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID, made.Modality = instance_class, generate_uid(), modality
    made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID = series.patient_id, series.study_uid, generate_uid()
    made.FrameOfReferenceUID = series.frame_of_reference
    return made


def _item(**elements: object) -> Dataset:
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def segmentation(
    series: DicomSeries,
    names: Sequence[str],
    frames: Sequence[tuple[int, tuple[float, float, float], np.ndarray]],
    kind: str = "BINARY",
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.5),
) -> Dataset:
    """A DICOM-SEG.

    Args:
        series: The series that it refers to.
        names: Its segments.
        frames: Number of the segment, position of the first pixel, and pixels (rows, columns) of each frame.
        kind: BINARY, FRACTIONAL or LABELMAP.
        orientation, spacing: Of all frames.
    """
    made = _object(series, "SEG", SegmentationStorage)
    made.SegmentationType, made.NumberOfFrames = kind, len(frames)
    made.Rows, made.Columns = frames[0][2].shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 1 if kind == "BINARY" else 8
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.MaximumFractionalValue = 200
    made.ReferencedSeriesSequence = [_item(SeriesInstanceUID=series.series_uid)]
    made.SegmentSequence = [_item(SegmentNumber=k, SegmentLabel=name) for k, name in enumerate(names, 1)]
    made.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=list(orientation))],
            PixelMeasuresSequence=[_item(PixelSpacing=list(spacing))],
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=list(position))],
            SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=number)],
        )
        for number, position, _ in frames
    ]
    pixels = np.stack([values for _, _, values in frames]).astype(np.uint8)
    made.PixelData = pack_bits(pixels.ravel()) if bits == 1 else pixels.tobytes() + b"\0" * (pixels.size % 2)
    return made


def structures(
    series: DicomSeries, contours: Mapping[str, Sequence[np.ndarray]], kind: str = "CLOSED_PLANAR"
) -> Dataset:
    """An RTSTRUCT.

    Args:
        series: The series that it refers to.
        contours: Structure → contours, each (N, 3) in mm.
        kind: Type of all contours.
    """
    made = _object(series, "RTSTRUCT", RTStructureSetStorage)
    referenced = _item(RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series.series_uid)])
    made.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=series.frame_of_reference, RTReferencedStudySequence=[referenced])
    ]
    made.StructureSetROISequence = [
        _item(ROINumber=k, ROIName=name, ReferencedFrameOfReferenceUID=series.frame_of_reference)
        for k, name in enumerate(contours, 1)
    ]
    made.ROIContourSequence = [
        _item(
            ReferencedROINumber=k,
            ContourSequence=[
                _item(
                    ContourGeometricType=kind,
                    NumberOfContourPoints=len(points),
                    ContourData=[f"{value:.8g}" for value in np.ravel(points)],
                )
                for points in each
            ],
        )
        for k, each in enumerate(contours.values(), 1)
    ]
    return made
