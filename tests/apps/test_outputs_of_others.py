"""Commands that write single files replace none of others, and their own as often as they are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.apps import _datasets, _edge, evaluate, postprocess, report
from segflow.apps._records import PathSettings
from segflow.core.errors import SegflowError


def config(command: str, **values: Any) -> Any:
    return _edge.compose(command, *(f"{key}={value}" for key, value in values.items()))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Folders of label maps, ``pred`` and ``ref``, and what their values mean."""
    for folder, shift in (("pred", 0), ("ref", 1)):
        (tmp_path / folder).mkdir()
        for case in ("a", "b"):
            label = np.zeros((6, 8, 8), np.uint8)
            label[1:4, 2 + shift : 5, 2:6] = 1
            sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / folder / f"{case}.nii.gz"))
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    return tmp_path


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv"])
def test_evaluate_leaves_scores_of_others_alone(maps: Path, name: str) -> None:
    (maps / "pred" / name).write_text("mine")
    given = {"prediction": maps / "pred", "reference": maps / "ref"}
    with pytest.raises(SegflowError, match=rf"did not write.*{name}"):
        evaluate.run(config("evaluate", **given))
    assert (maps / "pred" / name).read_text() == "mine"
    for _ in range(2):
        evaluate.run(config("evaluate", **given, output=maps / "scores"))
    assert (maps / "scores" / "summary.json").is_file()


def test_postprocess_leaves_a_choice_of_others_alone(maps: Path) -> None:
    choice = maps / "pred" / "postprocessing.json"
    choice.write_text('{"steps": []}')
    given = {"action": "choose", "prediction": maps / "pred", "reference": maps / "ref"}
    with pytest.raises(SegflowError, match=r"did not write.*postprocessing\.json"):
        postprocess.run(config("postprocess", **given))
    assert choice.read_text() == '{"steps": []}'
    for _ in range(2):
        postprocess.run(config("postprocess", **given, output=maps / "steps"))
    apply = {"action": "apply", "choice": maps / "steps" / "postprocessing.json", "prediction": maps / "pred"}
    with pytest.raises(SegflowError, match="replace an input"):
        postprocess.run(config("postprocess", **apply, output=maps / "pred"))


def test_report_leaves_a_page_of_others_alone(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("mine")
    with pytest.raises(SegflowError, match=r"did not write.*report\.html"):
        report.run(config("report", run=tmp_path / "run", output=page))
    assert page.read_text() == "mine"


def test_a_raw_dataset_is_no_place_for_its_own_plans(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset001_X"
    raw.mkdir()
    paths = PathSettings(raw=tmp_path, preprocessed=tmp_path, outputs=tmp_path / "outputs")
    with pytest.raises(SegflowError, match=r"within the raw dataset.*paths\.preprocessed"):
        _datasets.preprocessed_folder(raw, paths)
