"""Settings that several commands share. Each command's own record stands in its file and derives from these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from segflow.core.errors import SegflowError
from segflow.core.split_settings import SplitSettings
from segflow.storage.file_names import REFERENCES_FOLDER

SOURCES = ("raw", "phantom", "hippocampus")


@dataclass(kw_only=True, slots=True)
class PathSettings:
    """Where datasets and runs lie.

    Attributes:
        raw: Folder of raw datasets; by default ``$SEGFLOW_RAW``, ``$nnUNet_raw``, or ``data/raw``.
        preprocessed: Folder of plans and arrays; by default ``$SEGFLOW_PREPROCESSED``, ``$nnUNet_preprocessed``, or
            ``data/preprocessed``.
        outputs: Folder of runs; by default ``$SEGFLOW_OUTPUTS``, or ``outputs``.
    """

    raw: Path = field(default_factory=lambda: _place("data/raw", "SEGFLOW_RAW", "nnUNet_raw"))
    preprocessed: Path = field(
        default_factory=lambda: _place("data/preprocessed", "SEGFLOW_PREPROCESSED", "nnUNet_preprocessed")
    )
    outputs: Path = field(default_factory=lambda: _place("outputs", "SEGFLOW_OUTPUTS"))

    def references(self, dataset: str) -> Path:
        """Where the reference label maps of a planned dataset lie."""
        return self.preprocessed / dataset / REFERENCES_FOLDER


def _place(otherwise: str, *variables: str) -> Path:
    """The folder that the first variable which is set names. The home folder is written out, as in settings."""
    return Path(next((os.environ[name] for name in variables if name in os.environ), otherwise)).expanduser()


@dataclass(kw_only=True, slots=True)
class DatasetSettings:
    """Which dataset, and where it comes from.

    Attributes:
        name: Name of its folder in ``paths.raw``, or its number.
        path: Folder of a raw dataset; where it is given it wins over name and source.
        source: ``raw``: a folder of ``paths.raw``; ``phantom``: made where it is missing; ``hippocampus``: downloaded.
    """

    name: str = ""
    path: Path | None = None
    source: str = "raw"

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise SegflowError("unknown dataset.source", found=self.source, expected=list(SOURCES))
        if not self.name and not self.path:
            raise SegflowError("which dataset?", fix="Name it: dataset=Dataset042_Liver, dataset=42, or its folder.")


@dataclass(kw_only=True, slots=True)
class FoldSettings(SplitSettings):
    """Which fold, and how the cases are divided.

    Attributes:
        index: Number of the fold, or ``all``: every case trains and validates. `segflow run` takes a list too.
    """

    index: int | str | list[int] = 0


@dataclass(kw_only=True, slots=True)
class ConfigurationSettings:
    """Which of the planned configurations, and what replaces its values.

    Attributes:
        name: ``2d``, ``3d_fullres``, …; `segflow run` takes ``auto`` or a list of names too.
        batch_size: Samples of a training step; null keeps the plan's value.
        patch_size: Voxels of a training patch along the plan's axes; null keeps the plan's value.
    """

    name: str | list[str] = "3d_fullres"
    batch_size: int | None = None
    patch_size: list[int] | None = None


@dataclass(kw_only=True)
class Command:
    """What every command has.

    Attributes:
        paths: Where datasets and runs lie.
        verbose: Whether every step is logged.
    """

    SECTION: ClassVar[str] = ""
    """The section whose settings may be given without its name, as in ``segflow predict part=0/4``."""
    PLACES: ClassVar[Sequence[str]] = ()
    """Settings that say where results go: jobs of a sweep that agree in all of them would share them."""

    paths: PathSettings = field(default_factory=PathSettings)
    verbose: bool = False


@dataclass(kw_only=True)
class DatasetCommand(Command):
    """What every command has that works on a dataset.

    Attributes:
        dataset: Which dataset.
    """

    dataset: DatasetSettings


def needed(value: Any, name: str, use: str) -> Any:
    """A setting that a command cannot do without.

    Raises:
        SegflowError: It was not given.
    """
    if value in (None, "", []):
        raise SegflowError(f"{name}= is missing", fix=use)
    return value
