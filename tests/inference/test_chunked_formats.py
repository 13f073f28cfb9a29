"""OME-Zarr and blosc2 datasets go the whole way, and give what the same dataset in NIfTI gives."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from segflow.core.geometry import Geometry
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.exchange.export_model import export_nnunet_model
from segflow.inference.find_cases import find_cases
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.preprocessing.check_arrays import check_files
from segflow.preprocessing.preprocess_dataset import preprocess_dataset
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.case_files import find_training_cases
from segflow.storage.images import reader_by_name
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.raw_dataset import check_dataset, read_description

READERS = {".nii.gz": "NibabelIO", ".ome.zarr": "OMEZarrIO", ".b2nd": "Blosc2IO"}
PREDICT = PredictSettings(device="cpu", mirroring=False)
SHAPE = (12, 20, 18)


def make_dataset(folder: Path, ending: str) -> Path:
    reader, geometry = reader_by_name(READERS[ending]), Geometry((2.0, 1.0, 1.0))
    for number in range(5):
        rng = np.random.default_rng(number)
        label = np.zeros(SHAPE, np.uint8)
        label[3:8, 4:12, 5:14] = 1
        label[4:6, 6:9, 7:10] = 2
        image = (rng.normal(50, 10, SHAPE) + 40 * label).astype(np.float32)
        reader.write_map(image, geometry, folder / "imagesTr" / f"case_{number}_0000{ending}")
        reader.write_label(label, geometry, folder / "labelsTr" / f"case_{number}{ending}")
    (folder / "dataset.json").write_text(json.dumps({**tiny_models.dataset_json(ending=ending), "numTraining": 5}))
    return folder


def go_the_whole_way(folder: Path, ending: str) -> dict[str, object]:
    """What each step gives, without names of formats."""
    raw, name = make_dataset(folder / "Dataset900_Test", ending), READERS[ending]
    reader, description = reader_by_name(name), read_description(raw)
    assert not check_dataset(raw, description, reader)
    planned = plan_dataset(raw, folder / "prepared", PlannerSettings(base_features=4), options=PlanOptions(processes=0))
    assert planned.plans.reader == ("SimpleITKIO" if ending == ".nii.gz" else name)
    arguments = (raw, planned.plans, ["3d_fullres"], folder / "prepared")
    assert len(preprocess_dataset(*arguments, PreprocessSettings(processes=0)).done) == 5
    assert len(preprocess_dataset(*arguments, PreprocessSettings(processes=0)).skipped) == 5
    cases, prepared = find_training_cases(raw, description), PreparedDataset(folder / "prepared")
    store = prepared.arrays(planned.plans.configuration("3d_fullres"))
    references = {case.case_id: prepared.references / f"{case.case_id}{ending}" for case in cases}
    check_files(store, cases, references, "…")
    run = tiny_models.make_run(folder, ending=ending, reader=name)
    assert len(find_cases(raw / "imagesTr" / f"case_0_0000{ending}", reader.endings, 1)) == 1
    out = folder / "out"
    assert len(predict_cases(run, raw / "imagesTr", out, PREDICT).done) == 5
    assert len(predict_cases(run, raw / "imagesTr", out, PREDICT).skipped) == 5
    before = {file.name: file.stat().st_ino for file in out.iterdir()}
    assert len(predict_cases(run, raw / "imagesTr", out, replace(PREDICT, resume=False)).done) == 5
    assert {file.name for file in out.iterdir()} == set(before)
    scores = evaluate_cases(
        out, raw / "labelsTr", description.labels, EvaluateSettings(processes=0), file_ending=ending, reader=name
    )
    fingerprint = planned.fingerprint.to_json()
    assert fingerprint["training_images"].pop("orientations") == ({"LPS": 5} if ending == ".nii.gz" else {})
    return {
        "fingerprint": fingerprint,
        "image": store.open("case_3").read_image().tolist(),
        "label": store.open("case_3").read_label().tolist(),
        "predicted": reader.read_label(out / f"case_2{ending}")[0].tolist(),
        "scores": scores.foreground_mean,
    }


def test_every_format_gives_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {ending: go_the_whole_way(tmp_path / ending[1:], ending) for ending in READERS}
    for ending in (".ome.zarr", ".b2nd"):
        assert found[ending] == found[".nii.gz"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        export_nnunet_model(tmp_path / "b2nd" / tiny_models.DATASET / "nnUNetPlans/3d_fullres/default", tmp_path / "nn")
    assert "nnU-Net has no reader 'Blosc2IO'" in caplog.text
