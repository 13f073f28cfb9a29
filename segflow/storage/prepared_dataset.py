"""The folder that planning and preprocessing make for a dataset, and the places of the files in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.plans import Plans
from segflow.core.training_images import TrainingImages
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.file_names import DESCRIPTION_FILE, FINGERPRINT_FILE, GROUPS_FILE, REFERENCES_FOLDER, SPLITS_FILE
from segflow.storage.json_files import read_json, read_json_as
from segflow.storage.links import within

if TYPE_CHECKING:
    from segflow.storage.preprocessed_store import PreprocessedStore


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """The folder ``<preprocessed>/<dataset>``, with nnU-Net's file names.

    Nothing is made or read unless a method says so.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def description_file(self) -> Path:
        """The copy of the raw dataset's dataset.json."""
        return self.path / DESCRIPTION_FILE

    @property
    def splits_file(self) -> Path:
        """The folds."""
        return self.path / SPLITS_FILE

    @property
    def groups_file(self) -> Path:
        """Case id → group, beside splits made of groups. Splits are checked against it whenever they are read."""
        return self.path / GROUPS_FILE

    @property
    def references(self) -> Path:
        """The folder of the reference label maps."""
        return self.path / REFERENCES_FOLDER

    def plans_file(self, name: str) -> Path:
        """The file of the plans of this name."""
        return self.path / f"{name}.json"

    def plans_page(self, name: str) -> Path:
        """The page beside the plans of this name that explains them; for people alone."""
        return self.path / f"{name}.md"

    def read_description(self, fix: str | None = None) -> DatasetDescription:
        """Read dataset.json.

        Args:
            fix: Advice if it is missing or cannot be used.

        Raises:
            SegflowError: It is missing, or its content cannot be used.
        """
        return read_dataset_json(self.description_file, self.path.name, fix)

    def read_plans(self, name: str, fix: str | None = None) -> Plans:
        """Read the plans of this name.

        Args:
            name: Name of the plans, such as ``nnUNetPlans``.
            fix: Advice if they are missing or cannot be used.

        Raises:
            SegflowError: They are missing, or their content cannot be used.
        """
        return read_json_as(self.plans_file(name), Plans.from_json, fix)

    def training_images(self) -> TrainingImages | None:
        """What the fingerprint tells of the images; None if there is none, or it does not say, as one of nnU-Net."""
        try:
            return read_json_as(self.path / FINGERPRINT_FILE, Fingerprint.from_json).images
        except SegflowError:
            return None

    def all_plans(self) -> Iterator[tuple[str, Plans]]:
        """Name and content of all plans, sorted by name. Other files are left out."""
        for file in sorted(self.path.glob("*.json")):
            try:
                content = read_json(file)
                if isinstance(content, dict) and "configurations" in content:
                    yield file.stem, Plans.from_json(content)
            except SegflowError:
                continue

    def arrays(self, plan: ConfigurationPlan) -> PreprocessedStore:
        """The preprocessed cases of a configuration."""
        from segflow.storage.preprocessed_store import PreprocessedStore  # slow, and not needed to read plans

        return PreprocessedStore(self.path / plan.data_identifier)

    def arrays_to_write(self, plan: ConfigurationPlan) -> PreprocessedStore:
        """Like `arrays`, for writing.

        Raises:
            SegflowError: Their folder is a link that leads elsewhere.
        """
        within(self.path, plan.data_identifier)
        return self.arrays(plan)

    def references_to_write(self) -> Path:
        """Like `references`, for writing.

        Raises:
            SegflowError: The folder is a link that leads elsewhere.
        """
        return within(self.path, REFERENCES_FOLDER)
