"""Every shipped option and every row of the table of nnU-Net's classes trains for a batch: composing is not running.

Settings that do not meet are tried together, as many as one training takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.apps import _edge, plan, preprocess, train

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
TRAINED = ("loss", "optimizer", "schedule", "network", "sampling", "augmentation", "trainer", "inference", "experiment")
# Transformers have sizes that depend on each other, and refuse toy widths and patches: tests/network trains small ones.
# Other sizes of MedNeXt differ by numbers only. A blend without terms is what others are made of.
ELSEWHERE = re.compile(r"(primus_\w|swin_unetr|mednext_[bml]|mednext_\w_k5|blend)$")
PLANNERS = sorted(file.stem for file in (CONF / "planner").glob("*.yaml") if not ELSEWHERE.match(file.stem))
FOLDS = sorted(file.stem for file in (CONF / "fold").glob("*.yaml"))
NEEDS = {"logger=wandb": "wandb", "logger=mlflow": "mlflow", "optimizer=adan": "adan_pytorch"}
TINY = (
    "planner.base_features=4",
    "planner.max_features_3d=8",
    "planner.max_features_2d=8",
    "planner.force_lowres=true",
)
SHORT = (
    "training.num_workers=0", "training.compile=off", "training.picture_every=0",
    "trainer.limit_train_batches=1",
)  # fmt: skip
CASES = 5


def options() -> list[tuple[str, ...]]:
    """What is to be tried: options of every group, and rows of the table."""
    page = (ROOT / "docs" / "coming_from_nnunet.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `nnUNet_?Trainer\w*`[^|]*\| `([^`]+)` \|$", page, flags=re.MULTILINE)
    assert len(rows) > 30
    single = [
        f"{group}={file.stem}"
        for group in (*TRAINED, "logger")
        for file in sorted((CONF / group).glob("*.yaml"))
        if not ELSEWHERE.match(file.stem)
    ]
    installed = [option for option in single if option not in NEEDS or find_spec(NEEDS[option])]
    return list(dict.fromkeys([*(tuple(row.split()) for row in rows), *((option,) for option in installed)]))


def packed() -> Iterator[tuple[str, ...]]:
    """The same, together where they set different groups."""
    waiting = options()
    while waiting:
        taken: list[str] = []
        for settings in list(waiting):
            groups = {re.split(r"[.=]", text)[0] for text in taken}
            if not groups & {re.split(r"[.=]", text)[0] for text in settings} and not _meet(taken, settings):
                taken += settings
                waiting.remove(settings)
        yield tuple(taken)


def _meet(taken: list[str], settings: tuple[str, ...]) -> bool:
    """Whether one would hide the other: a preset sets more than its group, and a benchmark ends without a model."""
    together = [*taken, *settings]
    starts = {text.split("=")[0] for text in together}
    return len(together) > 1 and ("experiment" in starts or ("trainer=benchmark" in together and "inference" in starts))


PACKED = list(packed())


composed = cache(_edge.compose)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A tiny dataset, planned and preprocessed for all configurations; the overrides that name it."""
    root = tmp_path_factory.mktemp("options")
    raw = root / "raw" / "Dataset001_Tiny"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for number in range(CASES):
        generator = np.random.default_rng(number)
        label = np.zeros((20, 22, 24), np.uint8)
        label[5:14, 6:16, 7:17] = 1
        label[8:11, 9:13, 10:14] = 2
        image = (label * 50 + generator.normal(0, 10, label.shape)).astype(np.float32)
        for array, place in ((image, f"imagesTr/case_{number}_0000"), (label, f"labelsTr/case_{number}")):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(raw / f"{place}.nii.gz"))
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "outer": 1, "inner": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    named = ("dataset=raw", f"dataset.path={raw}")
    named += tuple(f"paths.{name}={root / name}" for name in ("raw", "preprocessed", "outputs"))
    plan.plan(composed("plan", *named, *TINY, "planner.force_lowres=true", "processes=0"))
    preprocess.preprocess(composed("preprocess", *named, "preprocessing.processes=0"))
    return named


def trained(places: tuple[str, ...], *overrides: str) -> Path:
    run = f"run_name={re.sub(r'[^a-z0-9]+', '-', '-'.join(overrides))[:100]}"
    batches = () if "trainer=benchmark" in overrides else ("trainer.limit_val_batches=1",)
    warms_up = {"schedule=poly_warmup", "experiment=fine_tune"} & set(overrides)
    epochs = ("trainer.max_epochs=2", "schedule.warmup_epochs=1") if warms_up else ("trainer.max_epochs=1",)
    result = train.train(composed("train", *places, run, *overrides, *SHORT, *epochs, *batches)).result
    assert result.finished
    assert result.epochs == len(epochs)
    return result.folder


@pytest.mark.parametrize(
    ("settings", "configuration"),
    [*((settings, "3d_fullres") for settings in PACKED), *((settings, "2d") for settings in PACKED[::2])],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_and_rows_of_the_class_table_train(
    settings: tuple[str, ...], configuration: str, places: tuple[str, ...]
) -> None:
    preset = () if "experiment=fine_tune" not in settings else (f"training.initial_weights={source(places)}",)
    # Prediction is tried once for each way of inference.
    validates = configuration == "3d_fullres" and any(text.startswith("inference=") for text in settings)
    trained(places, f"configuration={configuration}", *preset, *settings, f"validation={str(validates).lower()}")


@cache
def source(places: tuple[str, ...]) -> Path:
    """A trained fold to start from."""
    return trained(places, "validation=false")


def test_every_fold_and_a_cascade_train(places: tuple[str, ...]) -> None:
    quick = ("inference=quick", "run_name=folds", "logger=none", "trainer.limit_val_batches=1", "trainer.max_epochs=1")
    for name in FOLDS:
        fold = f"fold='{name}'" if name.isdigit() else f"fold={name}"
        stage = "configuration=3d_lowres" if name.isdigit() else "configuration=3d_fullres"
        train.train(composed("train", *places, *SHORT, *quick, stage, fold))
    trained = train.train(composed("train", *places, *SHORT, *quick, "configuration=3d_cascade_fullres"))
    assert trained.result.finished
    assert trained.summary is not None
    assert trained.value == trained.summary.score


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_every_planner_plans_trains(planner: str, places: tuple[str, ...]) -> None:
    name = f"plans={planner}Plans"
    planned = composed(
        "plan", *places, f"planner={planner}", *TINY[:3], f"planner.plans_name={planner}Plans", "processes=0"
    )
    plan.plan(planned)
    preprocess.preprocess(
        composed("preprocess", *places, name, "configurations=[3d_fullres]", "preprocessing.processes=0")
    )
    trained(places, name, "validation=false", "logger=none")
