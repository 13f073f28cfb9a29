"""Datasets like well-known ones, made up, so that a machine without a network or data can be measured: plans and cases.

Shapes, spacings, channels and numbers of labels are those of the real ones, so that the plans are too. What the images
show means nothing.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from segflow.core.dataset import DatasetDescription
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.plans import Plans
from segflow.core.split_cases import SplitSettings, make_splits
from segflow.core.splits import splits_to_json
from segflow.planning.planner import make_plans
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.json_files import read_json, write_json

READER = "SimpleITKIO"
CASES = 6


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of dataset.

    Attributes:
        number: Of the dataset.
        shape: Voxels of a case along z, y, x.
        spacing: mm along z, y, x.
        channel: Name of the channel, which chooses the normalisation.
        labels: Foreground labels.
        planned_cases: Cases that it is planned for; nnU-Net takes smaller batches of small datasets.
    """

    number: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    channel: str
    labels: int
    planned_cases: int

    @property
    def name(self) -> str:
        """The dataset's folder."""
        return f"Dataset{self.number}_Subject"

    def smaller(self) -> Subject:
        """One that a CPU trains in seconds."""
        return replace(self, shape=tuple(max(16, n // 10) for n in self.shape), labels=min(self.labels, 3))  # type: ignore[arg-type]

    def description(self) -> DatasetDescription:
        """The content of dataset.json."""
        labels = {"background": 0, **{f"label_{number}": number for number in range(1, self.labels + 1)}}
        content = {
            "channel_names": {"0": self.channel},
            "labels": labels,
            "numTraining": self.planned_cases,
            "file_ending": ".nii.gz",
        }
        return DatasetDescription.from_json(self.name, content)

    def plans(self, settings: PlannerSettings) -> Plans:
        """What the planner makes of it."""
        return make_plans(self._fingerprint(), self.description(), settings, reader=READER)

    def write(self, raw_root: Path, *, cases: int = CASES) -> Path:
        """Write some cases in raw layout, unless they are there.

        Returns:
            The dataset's folder.
        """
        folder = raw_root / self.name
        if (folder / "dataset.json").is_file():
            return folder
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(min(cases, len(os.sched_getaffinity(0))), get_context("spawn")) as pool:
            list(pool.map(partial(self._write_case, folder), range(cases)))
        write_json(folder / "dataset.json", {**self.description().to_json(), "numTraining": cases})
        return folder

    def _write_case(self, folder: Path, number: int) -> None:
        image, label = self._case(number)
        for array, file in ((image, f"imagesTr/c{number}_0000.nii.gz"), (label, f"labelsTr/c{number}.nii.gz")):
            volume = sitk.GetImageFromArray(array)
            volume.SetSpacing(self.spacing[::-1])
            sitk.WriteImage(volume, str(folder / file), useCompression=True, compressionLevel=1)

    def write_plans(self, folder: Path, raw: Path, settings: PlannerSettings) -> Path:
        """Write plans, fingerprint and splits of the cases into a preprocessed dataset's folder."""
        case_ids = sorted(file.name.removesuffix(".nii.gz") for file in (raw / "labelsTr").iterdir())
        contents: dict[str, Any] = {
            "dataset.json": read_json(raw / "dataset.json"),
            "nnUNetPlans.json": self.plans(settings).to_json(),
            "dataset_fingerprint.json": self._fingerprint().to_json(),
            "splits_final.json": splits_to_json(make_splits(case_ids, SplitSettings())),
        }
        for name, content in contents.items():
            write_json(folder / name, content)
        return folder

    def _fingerprint(self) -> Fingerprint:
        of_ct = ChannelIntensities(
            max=3000.0, mean=80.0, median=90.0, min=-1000.0, percentile_00_5=-900.0, percentile_99_5=900.0, std=200.0
        )
        return Fingerprint(
            spacings=(self.spacing,) * self.planned_cases,
            shapes_cropped=(self.shape,) * self.planned_cases,
            intensities=(of_ct,),
            median_relative_size=1.0,
        )

    def _case(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image int16 and label uint8 (Z, Y, X): boxes of labels with noise, a brightness for each."""
        generator = np.random.default_rng([self.number, number])
        parts = math.ceil((self.labels + 1) ** (1 / 3))  # along each axis: enough boxes for every label
        z, y, x = np.ix_(*(np.arange(n) * parts // n for n in self.shape))
        label = (((z * parts + y) * parts + x) % (self.labels + 1)).astype(np.uint8)
        brightness = generator.uniform(-200, 600, self.labels + 1).astype(np.float32)
        image = brightness[label]
        for plane in image:
            plane += generator.normal(0, 40, plane.shape)
        return image.astype(np.int16), label


SUBJECTS = {
    "hippocampus": Subject(951, (36, 50, 35), (1.0, 1.0, 1.0), "MRI", 2, 208),
    "acdc": Subject(952, (10, 256, 216), (10.0, 1.56, 1.56), "cineMRI", 3, 160),
    "ct": Subject(953, (300, 512, 512), (1.5, 0.77, 0.77), "CT", 2, 131),
    "ct_117": Subject(954, (300, 400, 400), (1.5, 1.5, 1.5), "CT", 117, 1000),
}
