"""Averaging probabilities of several prediction folders."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
from most_likely import labels_from_probabilities

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels, key_text
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.stored_probabilities import StreamedDecision
from segflow.storage.json_files import write_json

PLAIN = Labels({"background": 0, "a": 1, "b": 4})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
SHAPE = (4, 6, 5)
SPACING_XYZ = (0.7, 1.5, 3.0)


def _probabilities(seed: int, labels: Labels) -> np.ndarray:
    values = np.random.default_rng(seed).random((labels.num_outputs, *SHAPE)).astype(np.float32)
    return values if labels.has_regions else values / values.sum(0)


def _write(file: Path, array: np.ndarray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def _member(folder: Path, cases: dict[str, np.ndarray], labels: Labels = PLAIN) -> Path:
    keys = labels.regions if labels.has_regions else labels.all_labels
    names = {f"{k:04d}": [labels.name_of(key), key_text(key)] for k, key in enumerate(keys)}
    write_json(folder / "probabilities" / "outputs.json", names)
    for case_id, probabilities in cases.items():
        _write(folder / f"{case_id}.nii.gz", labels_from_probabilities(probabilities, labels))
        for k, values in enumerate(probabilities):
            _write(folder / "probabilities" / f"{case_id}_{k:04d}.nii.gz", values)
    return folder


def _ensemble(members: list[Path], output: Path, labels: Labels = PLAIN, **settings: object):
    return ensemble_cases(
        members, output, labels, EnsembleSettings(**settings), file_ending=".nii.gz", reader="SimpleITKIO"
    )


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_outputs_that_pass_one_by_one_decide_as_all_together(labels: Labels) -> None:
    probabilities = np.round(_probabilities(0, labels), 1)  # rounded, so that there are ties
    decision = StreamedDecision(labels, SHAPE)
    for values in probabilities:
        decision.add(values)
    np.testing.assert_array_equal(decision.label_map, labels_from_probabilities(probabilities, labels))


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
def test_the_mean_of_all_members_decides(tmp_path: Path, labels: Labels, weights: list[float] | None) -> None:
    sets = [_probabilities(seed, labels) for seed in range(3)]
    members = [_member(tmp_path / str(k), {"x": values}, labels) for k, values in enumerate(sets)]
    report = _ensemble(members, tmp_path / "out", labels, weights=weights)
    assert report.done == ("x",)
    mean = np.average(sets, axis=0, weights=weights)
    written = _read(tmp_path / "out" / "x.nii.gz")
    np.testing.assert_array_equal(written, labels_from_probabilities(mean, labels))
    assert not all(np.array_equal(written, labels_from_probabilities(values, labels)) for values in sets)
    assert sitk.ReadImage(str(tmp_path / "out" / "x.nii.gz")).GetSpacing() == pytest.approx(SPACING_XYZ)


def test_an_ensemble_of_one_is_its_member(tmp_path: Path) -> None:
    member = _member(tmp_path / "m", {"x": _probabilities(1, PLAIN)})
    _ensemble([member], tmp_path / "out")
    np.testing.assert_array_equal(_read(tmp_path / "out" / "x.nii.gz"), _read(member / "x.nii.gz"))


def test_predictions_of_a_run_can_be_averaged_as_they_are(tmp_path: Path) -> None:
    source = tmp_path / "images"
    _write(source / "x_0000.nii.gz", np.random.default_rng(0).normal(0, 1, (14, 22, 20)).astype(np.float32))
    members = []
    for seed in range(2):
        run = tiny_models.make_run(tmp_path / str(seed), "3d_fullres")
        settings = PredictSettings(device="cpu", probabilities=True, mirroring=bool(seed))
        predict_cases(run, source, tmp_path / f"pred_{seed}", settings)
        members.append(tmp_path / f"pred_{seed}")
    labels = tiny_models.record().dataset.labels
    assert _ensemble(members, tmp_path / "out", labels).done == ("x",)
    for name in ("dataset.json", "plans.json"):
        assert (tmp_path / "out" / name).read_text() == (members[0] / name).read_text()


def test_a_case_that_a_member_lacks_fails_and_the_others_are_done(tmp_path: Path) -> None:
    both = {"x": _probabilities(1, PLAIN), "y": _probabilities(2, PLAIN)}
    members = [_member(tmp_path / "a", both), _member(tmp_path / "b", {"y": both["y"]})]
    report = _ensemble(members, tmp_path / "out")
    assert report.done == ("y",)
    assert str(members[1]) in report.failed["x"]


def test_what_is_not_averaged_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = {"x": _probabilities(1, PLAIN), "z": _probabilities(2, PLAIN)}
    members = [_member(tmp_path / name, cases) for name in "ab"]
    for member in members:
        for file in (member / "probabilities").glob("z_*"):
            file.rename(file.with_name(file.name.upper()))
    assert _ensemble(members, tmp_path / "out").done == ("x",)
    assert f"{members[0] / 'probabilities'}: 3 files are passed over. Other endings than .nii.gz: 3 (Z_0000.NII.GZ" in (
        caplog.text
    )
    assert f"{members[0]}: 1 label map has no probabilities and is not averaged: z. Predict with" in caplog.text


def test_members_of_different_shape_are_named(tmp_path: Path) -> None:
    values = _probabilities(1, PLAIN)
    members = [_member(tmp_path / "a", {"x": values}), _member(tmp_path / "b", {"x": values[:, 1:]})]
    assert "shape" in _ensemble(members, tmp_path / "out").failed["x"]


def test_what_is_done_is_skipped_but_never_mixed_with_other_members(tmp_path: Path) -> None:
    cases = {"x": _probabilities(1, PLAIN)}
    a, b, c = (_member(tmp_path / name, cases) for name in "abc")
    _ensemble([a, b], tmp_path / "out")
    assert _ensemble([a, b], tmp_path / "out").skipped == ("x",)
    with pytest.raises(SegflowError, match="another ensemble"):
        _ensemble([a, c], tmp_path / "out")
    assert _ensemble([a, c], tmp_path / "out", resume=False).done == ("x",)


def test_folders_without_fitting_probabilities_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    with pytest.raises(SegflowError, match=r"inference\.probabilities=true"):
        _ensemble([tmp_path / "bare"], tmp_path / "out")
    member = _member(tmp_path / "a", {"x": _probabilities(1, PLAIN)})
    with pytest.raises(SegflowError, match="other labels"):
        _ensemble([member], tmp_path / "out", Labels({"background": 0, "a": 1, "b": 2}))
    with pytest.raises(SegflowError, match="one weight per member"):
        _ensemble([member], tmp_path / "out", weights=[1.0, 2.0])


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, math.inf], [1.0, math.nan]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(SegflowError, match="weights"):
        EnsembleSettings(weights=weights)
