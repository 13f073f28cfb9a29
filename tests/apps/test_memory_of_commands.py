"""``max_memory_gb`` in each command: a case that does not fit is refused with the number, and the others are done.

The large case holds zeros only, so that its files are small. It is refused by its header, and never read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.apps import _commands, _edge
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
from segflow.exchange.decathlon import convert_decathlon
from segflow.execution.machine import GB, held_bytes, memory_limited
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.maps import output_names
from segflow.postprocessing.apply_postprocessing import apply_postprocessing
from segflow.storage.dataset_check import check_dataset
from segflow.storage.raw_dataset import read_description
from segflow.storage.readers import reader_by_name

SMALL, LARGE = (6, 7, 8), (180, 256, 256)
DESCRIPTION = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
NUMBER = (
    r"needs \d\S* GB of memory; found .*; expected at most \d\S* GB, which max_memory_gb leaves\. Raise max_memory_gb"
)


def _limit() -> float:
    """GB that leave 60 MiB, of which the large case needs more in every command."""
    return (held_bytes() + 60 * 2**20) / GB


def _write(file: Path, shape: tuple[int, ...], dtype: type = np.uint8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros(shape, dtype)
    array[(slice(1, 3),) * len(shape)] = 1
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(file), True)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "Dataset001_X"
    for name, shape in (("small", SMALL), ("large", LARGE)):
        _write(folder / "imagesTr" / f"{name}_0000.nii.gz", shape)
        _write(folder / "labelsTr" / f"{name}.nii.gz", shape)
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return folder


def test_doctor(raw: Path) -> None:
    with memory_limited(_limit()):
        problems = check_dataset(raw, read_description(raw), reader_by_name("SimpleITKIO"))
    [refused] = [problem for problem in problems if "needs" in problem.message]
    assert refused.case == "large"
    assert refused.severity == "error"
    with pytest.raises(SegflowError, match=f"case 'large': this case {NUMBER}"):
        raise SegflowError(refused.message)


def test_postprocess(raw: Path, tmp_path: Path) -> None:
    choice = PostprocessingChoice((PostprocessingStep("keep_largest", (1,)),), {}, {})
    with memory_limited(_limit()):
        report = apply_postprocessing(raw / "labelsTr", choice, tmp_path, file_ending=".nii.gz", processes=0)
    assert report.done == ("small",)
    with pytest.raises(SegflowError, match=f"case 'large': this case {NUMBER}"):
        raise SegflowError(report.failed["large"])


def test_ensemble(raw: Path, tmp_path: Path) -> None:
    members, labels = [tmp_path / "a", tmp_path / "b"], Labels.from_json(DESCRIPTION["labels"])
    for member in members:
        member.mkdir()
        for name in ("small", "large"):
            (member / f"{name}.nii.gz").symlink_to(raw / "labelsTr" / f"{name}.nii.gz")
            _write(member / "probabilities" / f"{name}_0000.nii.gz", SMALL, np.float32)
            _write(member / "probabilities" / f"{name}_0001.nii.gz", SMALL, np.float32)
        (member / "probabilities" / "outputs.json").write_text(json.dumps(output_names(labels)))
    with memory_limited(_limit()):
        report = ensemble_cases(members, tmp_path / "out", labels, file_ending=".nii.gz", reader="SimpleITKIO")
    assert report.done == ("small",)
    with pytest.raises(SegflowError, match=f"case 'large': this case {NUMBER}"):
        raise SegflowError(report.failed["large"])


def test_convert(tmp_path: Path) -> None:
    task = tmp_path / "Task01_X"
    for name, shape in (("small", SMALL), ("large", LARGE)):
        _write(task / "imagesTr" / f"{name}.nii.gz", (4, *shape))
        _write(task / "labelsTr" / f"{name}.nii.gz", shape)
    channels = {str(n): f"MR{n}" for n in range(4)}
    old = {"name": "X", "modality": channels, "labels": {"0": "background", "1": "liver"}, "training": []}
    (task / "dataset.json").write_text(json.dumps(old))
    with (
        memory_limited(_limit()),
        pytest.raises(CaseErrors, match=r"imagesTr/large\.nii\.gz': this case needs \d\S* GB"),
    ):
        convert_decathlon(task, tmp_path / "raw")
    assert not list((tmp_path / "raw").glob("Dataset*"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.01", r"max_memory_gb=0\.01 is too little for any work; found \d\S* GB that Python and its libraries take"),
        ("0", r"max_memory_gb is not a size of memory; found 0\.0; expected a number of GB above 0"),
        ("-3", "max_memory_gb is not a size of memory; found -3"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "doctor", "predict", "train", "report"])
def test_a_limit_that_no_work_fits_is_one_message(command: str, value: str, message: str) -> None:
    settings = _edge.compose(command, f"max_memory_gb={value}")
    with pytest.raises(SegflowError, match=message):
        _commands.job_of(command)(settings)


def test_a_command_keeps_the_limit_from_its_command_line(raw: Path, tmp_path: Path) -> None:
    settings = _edge.compose(
        "evaluate",
        f"prediction={raw / 'labelsTr'}",
        f"reference={raw / 'labelsTr'}",
        f"output={tmp_path}",
        f"max_memory_gb={(held_bytes() + 30 * 2**20) / GB}",
        "evaluation.processes=0",
    )
    _commands.job_of("evaluate")(settings)  # the large case is scored slab by slab
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2
