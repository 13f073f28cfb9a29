"""Series of DICOM images that tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def volume(shape: tuple[int, int, int] = (6, 5, 4), lowest: int = -1000) -> np.ndarray:
    """Whole numbers (Z, Y, X), all different."""
    return (np.arange(np.prod(shape)).reshape(shape) * 7 + lowest).astype(np.int16)


def plain(number: int, **elements: Any) -> Dataset:
    """Slice ``number`` of a CT with 0.5 × 0.8 mm pixels and a slice every 2.5 mm; SliceThickness says otherwise."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.Modality = CTImageStorage, "CT"
    made.PatientID, made.SeriesDescription = "P1", "Abdomen"
    made.StudyInstanceUID, made.SeriesInstanceUID = UID("1.2.3"), UID("1.2.3.4")
    made.FrameOfReferenceUID, made.StudyDate = UID("1.2.3.5"), "20240131"
    made.SOPInstanceUID, made.InstanceNumber = generate_uid(), number + 1
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.ImageOrientationPatient, made.ImagePositionPatient = list(AXIAL), [-10, 20, 100 + 2.5 * number]
    made.PixelSpacing, made.SliceThickness = [0.8, 0.5], 5
    for name, value in elements.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def save(made: Dataset, file: Path) -> Path:
    """Write a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.save_as(file, enforce_file_format=True)
    return file


def write_series(
    folder: Path, voxels: np.ndarray, change: Callable[[int, Dataset], Any] = lambda _k, _made: None, **elements: Any
) -> Path:
    """Write a series (Z, Y, X) whose file names do not follow the slices.

    Args:
        folder: Where to.
        voxels: Stored values.
        change: Called with each slice before it is written; false leaves the slice out.
        elements: Elements of all slices, instead of those of `plain`; None leaves one out.
    """
    for number, stored in enumerate(voxels):
        made = plain(number, **elements)
        made.Rows, made.Columns = stored.shape
        made.PixelData = stored.tobytes()
        if change(number, made) is not False:
            save(made, folder / f"{(number * 7) % 101:03d}")
    return folder
