"""Series of DICOM as input of a prediction."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.run_record import RunRecord
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.inference.find_cases import Input
from segflow.storage.dicom.choose_series import Chosen, DicomCase, SeriesChoice
from segflow.storage.dicom.file_header import is_dicom
from segflow.storage.dicom.series import holds_dicom, read_tree
from segflow.storage.dicom.staged_cases import ENDING, stage_case, staged_files
from segflow.storage.folder_files import names_a_folder
from segflow.storage.images import readable_endings, reader_by_name
from segflow.storage.links import within
from segflow.storage.listing import list_folder

FOLDER = "dicom_images"
"""Folder below the predictions for the images that were predicted, as NIfTI."""
STAGE = "read DICOM"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DicomInput:
    """The cases of DICOM input. Their images are written as NIfTI before they are predicted.

    Attributes:
        chosen: The cases and their series.
        folder: Folder of the images.
        resample: See `read_channels`.
        damaged: File → message, of those that cannot be read, whose slices a series may lack.
    """

    chosen: Chosen
    folder: Path
    resample: bool
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[CaseFiles]:
        """The cases, by id. The files exist after `stage`."""
        return [self.files_of(case) for case in self.chosen.cases]

    def case(self, case_id: str) -> DicomCase:
        """A case with its series."""
        return next(case for case in self.chosen.cases if case.case_id == case_id)

    def files_of(self, case: DicomCase) -> CaseFiles:
        """The files of a case, which exist after `stage`."""
        return staged_files(case, self.folder)

    def stage(self, cases: Sequence[CaseFiles], progress: Progress = silent) -> dict[str, str]:
        """Write the images of some cases.

        Args:
            cases: Those to write.
            progress: Called after each.

        Returns:
            Case → message, of those that cannot be predicted, and of studies that are no cases; and `damaged`.
        """
        failed = {name: str(error) for name, error in self.chosen.failed.items()} | dict(self.damaged)
        wanted = {case.case_id for case in cases}
        ours = [case for case in self.chosen.cases if case.case_id in wanted]
        for done, case in enumerate(ours, start=1):
            try:
                stage_case(case, self.folder, resample=self.resample)
            except SegflowError as error:
                failed[case.case_id] = str(error.of_case(case.case_id))
            progress(ProgressEvent(STAGE, case.case_id, done, len(ours)))
        for message in failed.values():
            logger.error("%s", message)
        return failed


def dicom_input(source: Input, output: Path, record: RunRecord, choice: SeriesChoice) -> DicomInput | None:
    """The cases of a source that is DICOM; None if it is not.

    Args:
        source: A folder below which there are DICOM files, and which holds no image that the model's reader reads; or a
            DICOM file; or a list of them.
        output: Folder of the predictions. The images are written below it.
        record: Record of the model.
        choice: Which series are the channels.

    Raises:
        SegflowError: The source has no case, the choice does not suit the model, or the model's images are of another
            kind.
    """
    endings = readable_endings(reader_by_name(record.plans.reader), record.dataset.file_ending)
    files = _dicom_files(source, endings)
    if files is None:
        if choice.series or choice.resample:
            raise SegflowError("series= and resample= are for DICOM, and the input is not", found=source)
        return None
    if ENDING not in endings:
        trained = f"it was trained on {record.dataset.file_ending} images"
        raise SegflowError("the model cannot predict DICOM", found=trained)
    tree = read_tree(files)
    root = files if isinstance(files, Path) else Path(os.path.commonpath([file.parent for file in files]))
    damaged = {str(file): str(error) for file, error in tree.damaged.items()}
    chosen = choice.choose(tree.series, root, record.dataset.channels)
    if not chosen.cases:
        problems = [*map(str, chosen.failed.values()), *damaged.values()] or [f"there is no series of images in {root}"]
        raise CaseErrors("no series of DICOM can be predicted", problems)
    return DicomInput(chosen, within(output, FOLDER), choice.resample, damaged)


def _dicom_files(source: Input, endings: Sequence[str]) -> Path | list[Path] | None:
    """The folder or the files of a source that is DICOM; None if it is not."""
    listed = [source] if isinstance(source, (str, Path)) else source
    places = [Path(place).expanduser() for place in listed]
    if len(places) == 1 and places[0].is_dir() and not names_a_folder(places[0].name):
        taken = next((name for name in list_folder(places[0]).files if name.lower().endswith(tuple(endings))), None)
        if not holds_dicom(places[0], without=tuple(endings)):
            return None
        if taken is None:
            return places[0]
        logger.warning(
            "%s holds images such as %s, which are predicted, and DICOM, which is not: give its own folder to "
            "predict it",
            places[0],
            taken,
        )
    if all(place.is_file() and not place.name.lower().endswith(tuple(endings)) and is_dicom(place) for place in places):
        return places
    return None
