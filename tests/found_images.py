"""The cases of a folder of images, by the same naming rules that the dataset's training images follow."""

from __future__ import annotations

from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.storage.case_names import group_by_name
from segflow.storage.listing import list_folder
from segflow.storage.problems import raise_errors


def find_images(folder: Path, file_ending: str, channels: int) -> list[CaseFiles]:
    """Sorted by id; what does not fit is raised."""
    cases, problems = group_by_name(list_folder(folder), file_ending, channels)
    raise_errors(f"the images in {folder} do not fit together", problems)
    return cases
