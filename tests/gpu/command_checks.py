"""``segflow train`` and ``segflow predict`` as users type them, on GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pretended_cuda import record

from segflow.apps.main import main

TINY = ["dataset=phantom", "planner.base_features=4", "planner.max_features_3d=16", "planner.plans_name=tiny"]
SMALL = "planner.overrides={3d_fullres: {patch_size: [16, 32, 32]}}"
RUN = Path("outputs/Dataset001_Phantom/tiny/3d_fullres/default/fold_0")
IMAGE = Path("data/raw/Dataset001_Phantom/imagesTs/phantom_016_0000.nii.gz")

LOADED = {"copy to the device in inference/predictor.py:_on_device"}
ORIGIN = {"copy to main memory in inference/origins.py:weights_digest"}
"""The stamps of predictions name the weights."""

OF_A_CASE = {
    "copy to the device in inference/planes.py:_where_it_fits",
    "item in inference/sums.py:_divided",
    "copy to main memory in preprocessing/restore.py:_largest_on_device",
}
"""Waits for a whole case: its image and the weights of a tile go there, a check of the logits and the labels return."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the phantom, planned, preprocessed and trained on a GPU with pictures and scores of volumes."""
    folder = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["plan", *TINY, SMALL])
        main(["preprocess", "plans=tiny", "configurations=3d_fullres"])
        short = ["trainer.max_epochs=2", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]
        often = ["training.picture_every=1", "training.volume_every=1", "training.volume_count=1"]
        with record() as gpu:
            main(["train", "fold=0", "plans=tiny", "training.compile=off", "inference.mirroring=false", *short, *often])
    assert (folder / RUN / "validation" / "summary.json").is_file()
    places = {place for *_, place in gpu.convolutions}
    assert {
        "training/step_time.py:_run",  # decides where batches are augmented
        "training/module.py:training_step",
        "training/module.py:validation_step",
        "training/patch_pictures.py:_logits",
        "inference/sliding_window.py:_logits",
        "backward or test",
    } == places
    assert {(dtype, device) for dtype, _, device, _ in gpu.convolutions} == {("float16", "cuda:0")}
    of_prediction = {wait for wait in gpu.waits if " inference/" in wait or " preprocessing/" in wait}
    assert of_prediction == LOADED | OF_A_CASE
    return folder


def predict(output: str, *arguments: str) -> np.ndarray:
    main(["predict", f"model={RUN}", f"input={IMAGE}", f"output={output}", "inference.mirroring=false", *arguments])
    return sitk.GetArrayFromImage(sitk.ReadImage(f"{output}/phantom_016.nii.gz"))


@pytest.mark.parametrize("device", ["auto", "cuda:1"])
def test_prediction_waits_for_whole_cases_only(job: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.chdir(job)
    expected = predict("of_cpu", "inference.device=cpu")
    with record() as gpu:
        found = predict(f"of_{device}".replace(":", "_"), f"inference.device={device}", "inference.batch_size=2")
    assert gpu.waits.keys() == LOADED | ORIGIN | OF_A_CASE
    assert all(gpu.waits[wait] == 1 for wait in OF_A_CASE)
    used = {(dtype, where) for dtype, _, where, _ in gpu.convolutions}
    assert used == {("float16", "cuda:1" if device == "cuda:1" else "cuda:0")}
    assert (found == expected).mean() > 0.99
