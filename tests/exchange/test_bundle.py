"""A model as one file: it predicts as the run that it was made of, and a changed file is refused."""

from __future__ import annotations

import json
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle
from segflow.exchange.import_model import import_bundle
from segflow.inference.predictor import Predictor
from segflow.models.bundle_file import is_bundle, read_bundle

SPACING = (2.0, 1.0, 1.0)


def image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 20, 18)).astype(np.float32)


@pytest.mark.parametrize("name", ["2d", "3d_fullres", "3d_cascade_fullres"])
def test_bundle_predicts_as_its_run_wherever_it_is_taken(tmp_path: Path, name: str) -> None:
    tiny_models.make_run(tmp_path / "home", "3d_lowres", (0, 1))
    run = tiny_models.make_run(tmp_path / "home", name, (0, 1))
    bundle = export_bundle(run, tmp_path / "model.segflow")
    expected = Predictor.load(run, device="cpu").predict(image(), SPACING)
    (tmp_path / "home").rename(tmp_path / "gone")
    predictor = Predictor.load(bundle, device="cpu")
    assert predictor.folds == ("0", "1")
    assert np.array_equal(predictor.predict(image(), SPACING), expected)
    imported = import_bundle(bundle, tmp_path / "elsewhere")
    assert len(imported) == (2 if name == "3d_cascade_fullres" else 1)
    assert np.array_equal(Predictor.load(imported[0], device="cpu").predict(image(), SPACING), expected)


def test_a_model_of_nnunet_as_a_bundle_is_summed_as_before(tmp_path: Path) -> None:
    model = tiny_models.make_nnunet_model(tmp_path / "theirs", folds=(0, 1))
    bundle = export_bundle(model, tmp_path / "model.segflow")
    again = export_bundle(bundle, tmp_path / "again.segflow")
    one, *others = (Predictor.load(path, device="cpu") for path in (model, bundle, again))
    assert one.settings.sums == "float16"
    for other in others:
        assert other.settings == one.settings
        assert np.array_equal(other.predict(image(), SPACING), one.predict(image(), SPACING))


def test_an_import_that_finds_no_space_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    tiny_models.make_run(tmp_path / "home", "3d_lowres", (0,))
    run = tiny_models.make_run(tmp_path / "home", "3d_cascade_fullres", (0,))
    bundle = export_bundle(run, tmp_path / "model.segflow")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bundle.stat().st_size // 8, hard))
        with pytest.raises(
            SegflowError, match=r"cannot write .*imported/fold_0/checkpoints/final\.ckpt: File too large"
        ):
            import_bundle(bundle, tmp_path / "elsewhere")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert len(import_bundle(bundle, tmp_path / "elsewhere")) == 2


def test_folds_and_configurations_are_chosen(tmp_path: Path) -> None:
    runs = [tiny_models.make_run(tmp_path, name, (0, 2)) for name in ("2d", "3d_fullres")]
    bundle = export_bundle(runs, tmp_path / "model.segflow")
    assert [fold.record.fold for fold in read_bundle(bundle, 2, "2d")] == [2]
    with pytest.raises(SegflowError, match=r"several models.*2d, 3d_fullres"):
        Predictor.load(bundle)
    with pytest.raises(SegflowError, match="no model '3d_lowres'"):
        read_bundle(bundle, configuration="3d_lowres")
    with pytest.raises(SegflowError, match=r"no weights of fold 1.*found 0, 2"):
        read_bundle(bundle, 1, "2d")
    assert Predictor.load(bundle, configuration="2d", device="cpu").plan.name == "2d"


def test_bundle_tells_nothing_of_the_training_machine_and_its_cases(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, val_cases=("patient_007",))
    file = run / "fold_0" / "run.json"
    record = json.loads(file.read_text())
    entry = {"images": ["patient_008.nii.gz"], "label": "patient_008.nii.gz", "group": "patient_009"}
    lists = {"training": [{"image": "patient_008.nii.gz"}], "test": ["patient_008"], "dataset": {"patient_008": entry}}
    record["dataset"] |= {**lists, "reference": "a paper"}
    file.write_text(json.dumps(record))
    bundle = export_bundle(run, tmp_path / "model.segflow", facts={"licence": "CC0"})
    with zipfile.ZipFile(bundle) as archive:
        manifest = archive.read("bundle.json").decode()
    assert "patient_0" not in manifest
    assert read_bundle(bundle)[0].record.dataset.raw["reference"] == "a paper"
    assert str(tmp_path) not in manifest
    assert json.loads(manifest)["facts"]["licence"] == "CC0"


def changed(bundle: Path, target: Path, name: str, content: bytes) -> Path:
    """The same bundle with one file replaced."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, content if entry == name else old.read(entry))
    return target


def test_changed_and_damaged_bundles_are_refused(tmp_path: Path) -> None:
    bundle = export_bundle(tiny_models.make_run(tmp_path), tmp_path / "model.segflow")
    weights = changed(bundle, tmp_path / "weights", "3d_fullres/fold_0.safetensors", b"other weights")
    with pytest.raises(SegflowError, match="not what was written"):
        read_bundle(weights)
    for content in (b"", b"[]", b'{"format": 99}', b'{"format": 1}', b'{"format": 1, "models": {"2d": 3}}'):
        with pytest.raises(SegflowError, match="table"):
            read_bundle(changed(bundle, tmp_path / "table", "bundle.json", content))
    (tmp_path / "short").write_bytes(bundle.read_bytes()[:-200])
    assert not is_bundle(tmp_path / "short")
    with pytest.raises(SegflowError, match="short is not a model, or is cut off"):
        Predictor.load(tmp_path / "short")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path)
    bundle = export_bundle(run, tmp_path / "model.segflow")
    with pytest.raises(SegflowError, match="exists already"):
        export_bundle(run, bundle)
    import_bundle(bundle, tmp_path / "other")
    with pytest.raises(SegflowError, match="already"):
        import_bundle(bundle, tmp_path / "other")


def test_bundle_of_a_cascade_without_its_previous_stage_is_not_made(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, "3d_cascade_fullres")
    with pytest.raises(SegflowError, match="needs the model of '3d_lowres'"):
        export_bundle(run, tmp_path / "model.segflow")
    assert not (tmp_path / "model.segflow").exists()
