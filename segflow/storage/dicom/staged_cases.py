"""Cases of DICOM as NIfTI files, one for each channel. They are kept while their series stay the same."""

from __future__ import annotations

from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.storage.channel_names import channel_name
from segflow.storage.dicom.choose_series import DicomCase
from segflow.storage.dicom.read_channels import read_channels
from segflow.storage.file_stamps import Origin
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.stamps import StampedFolder

ENDING = ".nii.gz"
WAY = "dicom"
VERSION = 1  # raise it when the same series would give other voxels


def staged_files(case: DicomCase, folder: Path) -> CaseFiles:
    """The files that `stage_case` writes."""
    names = [channel_name(case.case_id, number, ENDING) for number in range(len(case.channels))]
    return CaseFiles(case.case_id, tuple(folder / name for name in names))


def stage_case(case: DicomCase, folder: Path, *, resample: bool) -> None:
    """Write the channels of a case, unless the files are there and made from the same series.

    Args:
        case: The case.
        folder: Where to. Files there that segflow did not write are never replaced.
        resample: See `read_channels`.

    Raises:
        SegflowError: A series has defects or cannot be read, the channels lie on different grids, or a file of another
            is in the way.
    """
    slices = [file for series in case.channels for file in series.files]
    settings = {"resample": resample, "channels": [len(series.files) for series in case.channels]}
    origin = Origin(WAY, VERSION, settings, {f"slice_{k}": file for k, file in enumerate(slices)})
    files = staged_files(case, folder).images
    stamped, name = StampedFolder(folder), files[0].name
    if stamped.why_stale(name, origin, files) is None:
        return
    stamped.refuse_foreign({name: files})
    inputs = origin.stamp_inputs()
    with stamped.written(name, origin, inputs) as place:
        for file, (values, geometry) in zip(files, read_channels(case.channels, resample=resample), strict=True):
            SimpleITKIO().write_file(values, geometry, place / file.name)
