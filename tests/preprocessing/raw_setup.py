"""A raw dataset of three small cases, its plans, and a way to preprocess it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from segflow.core.plans import Plans
from segflow.preprocessing.preprocess_dataset import preprocess_dataset
from segflow.preprocessing.preprocess_report import PreprocessReport
from segflow.preprocessing.preprocess_settings import PreprocessSettings

HERE = PreprocessSettings(processes=0)
ALL = ("2d", "fine", "coarse", "cascade")


def write_case(folder: Path, case_id: str, seed: int, shape: tuple[int, int, int] = (9, 12, 10)) -> None:
    random = np.random.default_rng(seed)
    for kind, array in (
        ("imagesTr", random.uniform(1, 100, size=shape).astype(np.float32)),
        ("labelsTr", random.integers(0, 3, size=shape).astype(np.uint8)),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.5, 2.0))
        (folder / kind).mkdir(parents=True, exist_ok=True)
        name = f"{case_id}_0000.nii.gz" if kind == "imagesTr" else f"{case_id}.nii.gz"
        sitk.WriteImage(image, str(folder / kind / name))


def describe(folder: Path, cases: int, labels: dict[str, int] | None = None, *, ending: str = ".nii.gz") -> None:
    content = {
        "channel_names": {"0": "MR"},
        "labels": labels or {"background": 0, "one": 1, "two": 2},
        "numTraining": cases,
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(content))


class Setup:
    """A small dataset, its plans, and a way to preprocess it."""

    def __init__(self, folder: Path, plans: Plans, make_configuration: Callable[..., dict[str, Any]]) -> None:
        self.raw, self.out = folder / "Dataset900_Test", folder / "preprocessed"
        self.plans, self.make_configuration = plans, make_configuration
        for number in range(3):
            write_case(self.raw, f"case_{number}", number)
        describe(self.raw, 3)

    def run(self, settings: PreprocessSettings = HERE, **options: Any) -> PreprocessReport:
        return preprocess_dataset(self.raw, self.plans, options.pop("names", ALL), self.out, settings, **options)

    def change(self, name: str, **keys: Any) -> None:
        configurations = {**self.plans.configurations, name: {**self.plans.configurations[name], **keys}}
        self.plans = replace(self.plans, configurations=configurations)

    def times(self, identifier: str) -> dict[str, int]:
        files = (self.out / identifier).glob("[!.]*")  # the index is made anew while its cases are recent
        return {path.name: path.stat().st_mtime_ns for path in files}
