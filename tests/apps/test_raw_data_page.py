"""``segflow report dataset=…``: the page about a raw dataset, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.apps import _edge, plan, report
from segflow.core.errors import SegflowError


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three cases."""
    folder = tmp_path / "raw" / "Dataset900_Small"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in "abc":
        label = np.zeros((8, 16, 16), np.uint8)
        label[2:6, 4:12, 4:12] = 1
        image = rng.normal(100, 20, label.shape).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"imagesTr/{case}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"labelsTr/{case}.nii.gz"))
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "organ": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _run(command: str, raw: Path, *arguments: str) -> None:
    folder = raw.parents[1]
    paths = [f"paths.{name}={folder / name}" for name in ("raw", "preprocessed", "outputs")]
    module = {"plan": plan, "report": report}[command]
    module.run(_edge.compose(command, *paths, f"dataset.path={raw}", "processes=0", *arguments))


def test_it_stands_with_the_outputs_and_takes_intensities_from_a_current_fingerprint(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = raw.parents[1] / "outputs" / raw.name / "raw_data.html"
    _run("report", raw)
    said = capsys.readouterr().out
    assert str(page) in said
    assert "segflow plan" in said
    assert "From the fingerprint" not in page.read_text(encoding="utf-8")
    _run("plan", raw)
    _run("report", raw)
    assert "From the fingerprint" in page.read_text(encoding="utf-8")
    (raw / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
    _run("report", raw)
    text = page.read_text(encoding="utf-8")
    assert "From the fingerprint" not in text
    assert "b_0000.nii.gz" in text


def test_a_page_of_others_is_not_replaced(raw: Path) -> None:
    page = raw.parents[1] / "mine.html"
    page.write_text("mine")
    with pytest.raises(SegflowError, match=r"mine\.html"):
        _run("report", raw, f"output={page}")
    assert page.read_text() == "mine"


def test_a_run_and_a_dataset_are_two_pages(raw: Path) -> None:
    with pytest.raises(SegflowError, match="two pages"):
        _run("report", raw, f"run={raw}")
