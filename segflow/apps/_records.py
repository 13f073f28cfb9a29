"""Settings that several commands share. The record of each command is in its file and derives from these."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from segflow.apps._parts import Part
from segflow.core.errors import SegflowError
from segflow.core.split_settings import SplitSettings
from segflow.exchange.known_datasets import KNOWN
from segflow.execution.machine import memory_limited
from segflow.storage.file_names import REFERENCES_FOLDER

if TYPE_CHECKING:
    from segflow.storage.dicom.choose_series import SeriesChoice

Settings = TypeVar("Settings", bound="Command")
Result = TypeVar("Result")

SOURCES = ("raw", "phantom", "download")


@dataclass(kw_only=True, slots=True)
class PathSettings:
    """Folders of datasets and runs.

    Attributes:
        raw: Folder of raw datasets; by default ``$SEGFLOW_RAW``, ``$nnUNet_raw``, or ``data/raw``.
        preprocessed: Folder of plans and arrays; by default ``$SEGFLOW_PREPROCESSED``, ``$nnUNet_preprocessed``, or
            ``data/preprocessed``.
        outputs: Folder of runs; by default ``$SEGFLOW_OUTPUTS``, or ``outputs``.
        scratch: Folder on a disk of each machine, such as ``${oc.env:TMPDIR}``, to which a training copies the arrays
            of its fold before it begins; by default ``$SEGFLOW_SCRATCH``, or null: arrays are read where they are. Jobs
            share the copies, and none is deleted.
    """

    raw: Path = field(default_factory=lambda: _place("data/raw", "SEGFLOW_RAW", "nnUNet_raw"))
    preprocessed: Path = field(
        default_factory=lambda: _place("data/preprocessed", "SEGFLOW_PREPROCESSED", "nnUNet_preprocessed")
    )
    outputs: Path = field(default_factory=lambda: _place("outputs", "SEGFLOW_OUTPUTS"))
    scratch: Path | None = field(
        default_factory=lambda: _place("", "SEGFLOW_SCRATCH") if os.environ.get("SEGFLOW_SCRATCH") else None
    )

    def references(self, dataset: str) -> Path:
        """Folder of the reference label maps of a planned dataset."""
        return self.preprocessed / dataset / REFERENCES_FOLDER


def _place(otherwise: str, *variables: str) -> Path:
    """The folder in the first of the variables that is set, with the home folder expanded, as in settings."""
    return Path(next((os.environ[name] for name in variables if name in os.environ), otherwise)).expanduser()


@dataclass(kw_only=True, slots=True)
class DatasetSettings:
    """The dataset.

    Attributes:
        name: Name of its folder in ``paths.raw``, or its number.
        path: Folder of a raw dataset. It takes precedence over name and source.
        source: ``raw`` is a folder in ``paths.raw``. If that is missing, ``phantom`` is made and ``download`` gets a
            known dataset. A path names a known dataset that was got already: its folder or archive.
        known: Name of a public dataset that segflow knows, such as ``msd_liver``: where it is, and how it is converted.
    """

    name: str = ""
    path: Path | None = None
    source: str = "raw"
    known: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES and not self.source_path:
            raise SegflowError("unknown dataset.source", found=self.source, expected=f"{', '.join(SOURCES)}, or a path")
        if self.known is not None and self.known not in KNOWN:
            raise SegflowError("unknown dataset.known", found=self.known, expected=list(KNOWN))
        if self.source == "download" and self.known is None:
            raise SegflowError("dataset.source=download needs a known dataset", expected=list(KNOWN))
        if not self.name and not self.path:
            raise SegflowError("which dataset?", fix="Name it: dataset=Dataset042_Liver, dataset=42, or its folder.")

    @property
    def source_path(self) -> Path | None:
        """The source, if it is a path."""
        path = Path(self.source).expanduser()
        return path if self.source not in SOURCES and ("/" in self.source or path.exists()) else None


@dataclass(kw_only=True, slots=True)
class FoldSettings(SplitSettings):
    """The fold, and how cases are divided.

    Attributes:
        index: Number of the fold, or ``all``, in which all cases train and validate. `segflow run` also takes a list.
    """

    index: int | str | list[int] = 0


@dataclass(kw_only=True, slots=True)
class ConfigurationSettings:
    """A planned configuration, and values that replace the planned ones.

    Attributes:
        name: Name such as ``2d`` or ``3d_fullres``. `segflow run` also takes ``auto`` or a list of names.
        batch_size: Samples of a training step; null keeps the plan's value.
        patch_size: Voxels of a training patch along the plan's axes; null keeps the plan's value.
    """

    name: str | list[str] = "3d_fullres"
    batch_size: int | None = None
    patch_size: list[int] | None = None


@dataclass(kw_only=True)
class Command:
    """Settings of every command.

    Attributes:
        paths: Folders of datasets and runs.
        reader: A reader of images of your own, for a file format that has none here: ``{_target_: …}``.
        max_memory_gb: Memory in GB that the command and the processes that it starts may take together, Python and
            libraries included. What needs more is refused before it starts, with the number; null takes
            ``$SEGFLOW_MAX_MEMORY_GB``, or the memory of the machine or container. Each job of a launcher has it alone.
        verbose: Log every step.
    """

    SECTION: ClassVar[str] = ""
    """The section whose settings may be given without its name, as in ``segflow predict part=0/4``."""
    PLACES: ClassVar[Sequence[str]] = ()
    """Settings for the place of results. Jobs of a sweep with equal values would share a place."""

    paths: PathSettings = field(default_factory=PathSettings)
    reader: Part | None = None
    max_memory_gb: float | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        """Nothing to check; ``run`` has the checks of several commands, which call each other."""


def within_memory(run: Callable[[Settings], Result]) -> Callable[[Settings], Result]:
    """Make a command keep ``max_memory_gb`` while it runs."""

    @wraps(run)
    def limited(settings: Settings) -> Result:
        with memory_limited(settings.max_memory_gb):
            return run(settings)

    return limited


@dataclass(kw_only=True)
class DatasetCommand(Command):
    """Settings of every command that works on a dataset.

    Attributes:
        dataset: The dataset.
    """

    dataset: DatasetSettings


@dataclass(kw_only=True)
class Sharded:
    """Settings of commands whose cases several jobs can share.

    Attributes:
        shards: Number of jobs that share the cases. With ``hydra/launcher=slurm|ray|joblib|gpus`` they are jobs of that
            launcher, else processes on this machine, one after another. 1 without a launcher works in this process.
    """

    shards: int = 1

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise SegflowError("shards must be at least 1", found=self.shards)


@dataclass(kw_only=True)
class ReadsDicom:
    """Settings of commands that read DICOM.

    Attributes:
        series: Which series of DICOM are the channels: ``{T1: '*t1*', FLAIR: [FLAIR, '*dark*fluid*']}``, patterns that
            are compared with description, modality, series UID and folder, the first that fits counts; one pattern for
            a single channel; or a CSV with a column ``patient`` or ``study`` and one with a pattern for each channel.
        resample: Bring DICOM to an even grid that has missing slices, uneven gaps or a tilted gantry, and channels to
            the grid of the first; false refuses them.
    """

    series: dict[str, str | list[str]] | str | None = None
    resample: bool = False

    @property
    def series_choice(self) -> SeriesChoice:
        """The settings, for those who read DICOM."""
        from segflow.storage.dicom.choose_series import SeriesChoice  # slow: numpy

        return SeriesChoice(self.series or None, self.resample)


def needed(value: Any, name: str, use: str) -> Any:
    """The value of a required setting.

    Raises:
        SegflowError: It was not given.
    """
    if value in (None, "", []):
        raise SegflowError(f"{name}= is missing", fix=use)
    return value
