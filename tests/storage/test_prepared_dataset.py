"""The folder of plans and arrays says where everything in it lies, under nnU-Net's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.core.plans import Plans
from segflow.storage.prepared_dataset import PreparedDataset

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "plans" / "001" / "plans_default.json"


def test_files_have_the_names_of_nnunet(tmp_path: Path) -> None:
    prepared = PreparedDataset(tmp_path)
    assert prepared.description_file.name == "dataset.json"
    assert prepared.splits_file.name == "splits_final.json"
    assert prepared.references.name == "gt_segmentations"
    assert prepared.plans_file("nnUNetPlans").name == "nnUNetPlans.json"


def test_plans_are_told_from_other_files(tmp_path: Path) -> None:
    prepared = PreparedDataset(tmp_path)
    content = GOLDEN.read_text(encoding="utf-8")
    texts = {"b": content, "a": content, "dataset": '{"labels": {}}', "broken": "{", "c": '{"configurations": 1}'}
    for name, text in texts.items():
        prepared.plans_file(name).write_text(text, encoding="utf-8")
    plans = Plans.from_json(json.loads(content))
    assert list(prepared.all_plans()) == [("a", plans), ("b", plans)]
    assert prepared.read_plans("a") == plans
    with pytest.raises(SegflowError, match=r"none\.json.* Plan first"):
        prepared.read_plans("none", fix="Plan first.")


def test_arrays_may_lie_elsewhere_to_be_read_and_not_to_be_written(tmp_path: Path) -> None:
    prepared = PreparedDataset(tmp_path / "dataset")
    prepared.path.mkdir()
    plan = Plans.from_json(json.loads(GOLDEN.read_text(encoding="utf-8"))).configuration("3d_fullres")
    assert prepared.arrays(plan).folder == prepared.arrays_to_write(plan).folder == prepared.path / plan.data_identifier
    (prepared.path / plan.data_identifier).symlink_to(tmp_path)
    prepared.references.symlink_to(tmp_path)
    assert prepared.arrays(plan).folder == prepared.path / plan.data_identifier
    with pytest.raises(SegflowError, match="a link that leads out"):
        prepared.arrays_to_write(plan)
    with pytest.raises(SegflowError, match="a link that leads out"):
        prepared.references_to_write()
