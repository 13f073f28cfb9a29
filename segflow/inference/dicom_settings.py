"""Settings of label maps as DICOM-SEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segflow.core.errors import SegflowError

LABEL_MAPS, DICOM_SEG, DICOM_LABELMAP = FORMATS = ("label_maps", "dicom_seg", "dicom_labelmap")


@dataclass(kw_only=True)
class DicomOutputSettings:
    """Label maps as DICOM-SEG.

    Attributes:
        output_format: ``label_maps`` in the format of the training images; ``dicom_seg`` for DICOM-SEG too, in the
            folder ``dicom_seg``, if the input is DICOM; ``dicom_labelmap`` for its newer type LABELMAP, which few
            programs read yet.
        segment_codes: JSON file that says what each label is in DICOM's terms, as dataset.json's ``segment_codes``
            does; null takes that, and a table of common organs for other labels.
        series_description: Description of the new series; null names the dataset and the configuration.
    """

    output_format: str = LABEL_MAPS
    segment_codes: Path | None = None
    series_description: str | None = None

    def __post_init__(self) -> None:
        if self.output_format not in FORMATS:
            raise SegflowError("output_format is unknown", found=self.output_format, expected=" | ".join(FORMATS))
