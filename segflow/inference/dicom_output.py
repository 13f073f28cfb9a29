"""DICOM-SEG beside the label maps of series of DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.inference.dicom_input import DicomInput
from segflow.inference.dicom_settings import DICOM_LABELMAP, DICOM_SEG, LABEL_MAPS, DicomOutputSettings
from segflow.storage.dicom.segment_codes import KEY, Segment, overlapping, segments_of
from segflow.storage.dicom.segmentation_write import MadeBy, check_can_refer, check_can_write, write_segmentation
from segflow.storage.image_formats.placement import same_placement
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.json_files import read_json
from segflow.storage.label_mapping import in_classes

FOLDER = "dicom_seg"
"""Folder below the label maps for the files of DICOM-SEG."""


class DicomOutput:
    """Writes DICOM-SEG for the cases of DICOM input.

    Args:
        dicom: The cases.
        record: The record of the model.
        segments: See `segments_of`.
        made_by: See `MadeBy`.
        labelmap: See `write_segmentation`.
    """

    def __init__(
        self, dicom: DicomInput, record: RunRecord, segments: tuple[Segment, ...], made_by: MadeBy, *, labelmap: bool
    ) -> None:
        self._dicom = dicom
        self._reader = in_classes(SimpleITKIO(), record.dataset.labels)
        self._segments = segments
        self._made_by = made_by
        self._labelmap = labelmap

    def file(self, folder: Path, case_id: str) -> Path:
        """The file of a case, for label maps in ``folder``."""
        return folder / FOLDER / f"{case_id}.dcm"

    def check(self, case_id: str) -> None:
        """Refuse a case before it is predicted if its series cannot be referred to.

        Raises:
            SegflowError: The series lacks UIDs, or was resampled while it was read. The error names the case.
        """
        case = self._dicom.case(case_id)
        series, image = case.channels[0], self._dicom.files_of(case).images[0]
        try:
            check_can_refer(series)
        except SegflowError as error:
            raise error.of_case(case_id) from error
        header = self._reader.read_header(image)
        same = header.shape == series.shape and np.allclose(header.geometry.spacing, series.spacing, rtol=1e-4)
        if not same or not same_placement(header.geometry, series.geometry):
            raise SegflowError(
                f"{series.title} was resampled while it was read, so no DICOM-SEG can refer to its slices",
                case=case_id,
                found=f"{header.shape} voxels of {header.geometry.spacing} mm",
                expected=f"{series.shape} voxels of {series.spacing} mm",
                fix=f"Leave out resample=true, or take output_format={LABEL_MAPS}.",
            )

    def write(self, folder: Path, case_id: str, label_file: Path) -> None:
        """Write a case from its label map.

        Args:
            folder: Folder of the label maps.
            case_id: Name of the case.
            label_file: Its label map, which is in that folder.

        Raises:
            SegflowError: The file cannot be written, or the series lacks what it refers to.
        """
        label, _ = self._reader.read_label(label_file)
        series, file = self._dicom.case(case_id).channels[0], self.file(folder, case_id)
        write_segmentation(label, self._segments, series, self._made_by, file, labelmap=self._labelmap)


def dicom_output(settings: DicomOutputSettings, dicom: DicomInput | None, record: RunRecord) -> DicomOutput | None:
    """The writer that the settings ask for; None if they ask for none.

    Raises:
        SegflowError: The input is no DICOM, a label has no code, or highdicom is not installed.
    """
    if settings.output_format == LABEL_MAPS:
        return None
    if dicom is None:
        raise SegflowError(
            f"output_format={settings.output_format} needs DICOM as input, to whose series it refers",
            found="images of another format",
            fix=f"Give the folder of the series, or leave it out for output_format={LABEL_MAPS}.",
        )
    check_can_write()
    codes: Any = record.dataset.raw.get(KEY)
    if settings.segment_codes is not None:
        own = read_json(settings.segment_codes)
        codes = {**codes, **own} if isinstance(codes, Mapping) and isinstance(own, Mapping) else own
    segments = segments_of(record.dataset.labels, codes)
    labelmap = settings.output_format == DICOM_LABELMAP
    if labelmap and overlapping(segments):
        raise SegflowError("LABELMAP cannot hold regions, which overlap", fix=f"Take output_format={DICOM_SEG}.")
    name, configuration = record.dataset.name, record.configuration
    description = settings.series_description or f"segflow {name} {configuration}"
    return DicomOutput(dicom, record, segments, MadeBy(name, version("segflow"), description), labelmap=labelmap)
