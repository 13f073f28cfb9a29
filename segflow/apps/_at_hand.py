"""Files on the disk that a next command can name: test images, references, folds, runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.apps import _datasets
from segflow.apps._records import DatasetSettings, PathSettings
from segflow.core.errors import SegflowError
from segflow.storage.find_folds import find_folds
from segflow.storage.json_files import read_json
from segflow.storage.runs import Run

if TYPE_CHECKING:
    from segflow.storage.prepared_dataset import PreparedDataset

IMAGES = {"imagesTs": "labelsTs", "imagesTr": "labelsTr", "imagesVal": "labelsVal"}
"""Folder of images → the folder of their references beside it."""


def references_of(images: Path) -> Path | None:
    """The folder of references beside a folder of images, if it holds any."""
    folder = images.parent / IMAGES.get(images.name, "-")
    return folder if _holds_files(folder) else None


def model_dataset(run: Path) -> str:
    """Name of the dataset that a run was trained on."""
    return find_folds(run)[0].read_record().dataset.name


def has_own_normalizations(run: Path) -> bool:
    """Whether prediction with a run needs a user's own normalisation."""
    return bool(find_folds(run)[0].read_record().plans.own_normalizations)


def test_images(dataset: DatasetSettings, paths: PathSettings) -> Path | None:
    """The test images of a dataset, if they exist."""
    return images_of(_datasets.present_raw_folder(dataset, paths))


def images_of(raw: Path | None) -> Path | None:
    return raw / "imagesTs" if raw is not None and _holds_files(raw / "imagesTs") else None


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(not child.name.startswith(".") for child in folder.iterdir())


def folds_of(dataset: PreparedDataset) -> list[int]:
    """Numbers of the folds that a planned dataset was divided into."""
    content: Any = read_json(dataset.splits_file) if dataset.splits_file.is_file() else []
    return list(range(len(content))) if isinstance(content, list) else []


def run_of(model: Path) -> Run | None:
    """The run of a path; None for models of other kinds."""
    try:
        return Run.of(find_folds(model)[0].path)
    except SegflowError:
        return None


def references_behind(prediction: Path) -> Path | None:
    """The references beside the images that label maps were predicted from."""
    file = prediction / "predict.json"
    content: Any = read_json(file) if file.is_file() else {}
    source = content.get("input") if isinstance(content, Mapping) else None
    return references_of(Path(source)) if isinstance(source, str) else None
