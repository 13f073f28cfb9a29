"""The decision rule of nnU-Net, case by case and against a computation that rewrites and re-scores everything."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey, Labels
from segflow.core.labels_present import LabelsPresent
from segflow.core.metrics import mean_of_defined
from segflow.core.postprocessing import PostprocessingChoice, PostprocessingStep
from segflow.evaluation.overlap import count_pairs
from segflow.postprocessing.apply_postprocessing import apply_postprocessing, read_choice
from segflow.postprocessing.choose_postprocessing import choose_postprocessing
from segflow.postprocessing.components import postprocess_label_map
from segflow.postprocessing.postprocess_settings import PostprocessSettings

TWO = Labels({"background": 0, "a": 1, "b": 2})
SHAPE = (4, 12, 12)


def _write(folder: Path, maps: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, label_map in enumerate(maps):
        image = sitk.GetImageFromArray(label_map.astype(np.uint8))
        image.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(image, str(folder / f"case_{k}.nii.gz"))
    return folder


def _choose(
    tmp_path: Path, pairs: list[tuple[np.ndarray, np.ndarray]], labels: Labels = TWO, **settings: object
) -> PostprocessingChoice:
    return choose_postprocessing(
        _write(tmp_path / "pred", [pred for _, pred in pairs]),
        _write(tmp_path / "ref", [ref for ref, _ in pairs]),
        labels,
        PostprocessSettings(processes=0, **settings),  # type: ignore[arg-type]
        file_ending=".nii.gz",
    )


def _organ() -> np.ndarray:
    label_map = np.zeros(SHAPE, np.int16)
    label_map[1:3, 1:5, 1:9] = 1
    label_map[1:3, 5:7, 1:9] = 2
    return label_map


def _keep(*labels: int) -> PostprocessingStep:
    return PostprocessingStep("keep_largest", labels)


def test_a_speck_away_from_the_organ_is_removed_with_the_foreground(tmp_path: Path) -> None:
    pred = _organ()
    pred[0, 11, 11] = 1
    choice = _choose(tmp_path, [(_organ(), pred)] * 2)
    assert choice.steps == (_keep(1, 2),)
    assert choice.after == {1: 1.0, 2: 1.0}
    assert choice.before[1] < 1
    assert choice.cases == 2


def test_the_foreground_step_is_refused_where_one_label_loses(tmp_path: Path) -> None:
    ref = _organ()
    ref[0, 11, 0] = 2  # a true part of b that lies apart
    pred = ref.copy()
    pred[0:2, 9:12, 9:12] = 1  # a large error of a that lies apart
    choice = _choose(tmp_path, [(ref, pred)])
    tried = choice.trials[0]
    assert tried.step == _keep(1, 2)
    assert sum(tried.after.values()) > sum(tried.before.values())
    assert not tried.accepted
    assert choice.steps == (_keep(1),)


def test_a_label_is_judged_by_itself_alone(tmp_path: Path) -> None:
    ref, pred = _organ(), _organ()
    pred[1, 2, 3] = 2  # within a, so that no component of the foreground goes
    choice = _choose(tmp_path, [(ref, pred)])
    assert choice.steps == (_keep(2),)
    assert choice.after[2] == 1


def test_no_change_is_no_gain(tmp_path: Path) -> None:
    choice = _choose(tmp_path, [(_organ(), _organ())])
    assert choice.steps == ()
    assert [trial.accepted for trial in choice.trials] == [False] * 3


def test_lesions_that_are_many_are_left_alone(tmp_path: Path) -> None:
    ref = np.zeros(SHAPE, np.int16)
    ref[1, 1:3, 1:3] = ref[2, 6:9, 6:9] = ref[0, 10, 1:4] = 1
    pred = ref.copy()
    pred[3, 0, 11] = 1
    assert _choose(tmp_path, [(ref, pred)], Labels({"background": 0, "lesion": 1})).steps == ()


def test_values_that_are_no_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _choose(tmp_path, [(_organ(), 255 * (_organ() > 0).astype(int))])
    assert "1 case: the prediction holds values that are no labels" in caplog.text
    assert "found 255 in" in caplog.text


def test_one_label_is_tried_once(tmp_path: Path) -> None:
    choice = _choose(tmp_path, [((_organ() > 0).astype(int),) * 2], Labels({"background": 0, "organ": 1}))
    assert [trial.step for trial in choice.trials] == [_keep(1)]


def test_a_label_that_no_case_holds_does_not_stop_the_others(tmp_path: Path) -> None:
    pred = _organ()
    pred[0, 11, 11] = 1
    labels = Labels({"background": 0, "a": 1, "b": 2, "rare": 3})
    choice = _choose(tmp_path, [(_organ(), pred)], labels)
    assert choice.steps == (_keep(1, 2, 3),)
    assert math.isnan(choice.before[3])


def test_losing_a_label_altogether_is_no_gain(tmp_path: Path) -> None:
    """A false label that vanishes has no Dice any more; nnU-Net's comparison with NaN is false."""
    pred = _organ()
    pred[0, 11, 11] = 3
    choice = _choose(tmp_path, [(_organ(), pred)], Labels({"background": 0, "a": 1, "b": 2, "c": 3}))
    assert choice.steps == ()


def test_ignored_voxels_decide_nothing(tmp_path: Path) -> None:
    ref, pred = _organ(), _organ()
    ref[0, 8:, 8:] = 3
    pred[0, 11, 11] = 1
    labels = Labels.from_json({"background": 0, "a": 1, "b": 2, "ignore": 3})
    assert _choose(tmp_path, [(ref, pred)], labels).steps == ()


def _naive(refs: list[np.ndarray], preds: list[np.ndarray], labels: Labels) -> list[PostprocessingStep]:
    """Recipe 13.4 by rewriting and re-scoring every map for every candidate."""
    keys = labels.foreground_keys

    def means(maps: list[np.ndarray]) -> dict[LabelKey, float]:
        pairs = [count_pairs(r, m) for r, m in zip(refs, maps, strict=True)]
        return {k: mean_of_defined([p.overlap(k, labels.ignore_label).dice for p in pairs]) for k in keys}

    steps: list[PostprocessingStep] = []
    best = preds
    candidates: list[tuple[LabelKey | None, PostprocessingStep]] = [(None, _keep(*labels.foreground_labels))]
    if len(keys) > 1:
        candidates += [(k, _keep(*((k,) if isinstance(k, int) else k))) for k in keys]
    for key, step in candidates:
        maps = [postprocess_label_map(m, [step], (2.0, 1.0, 1.0)) for m in best]
        old, new = means(best), means(maps)
        if key is None:
            better = np.mean(list(new.values())) > np.mean(list(old.values()))
            better &= not any(new[k] < old[k] for k in keys)
        else:
            better = new[key] > old[key]
        if better:
            steps.append(step)
            best = maps
    return steps


@pytest.mark.parametrize(
    "labels",
    [
        Labels({"background": 0, "a": 1, "b": 2, "c": 3}),
        Labels.from_json({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "c": 3}, [1, 2, 3]),
        Labels.from_json({"background": 0, "a": 1, "b": 2, "ignore": 3}),
    ],
)
def test_random_sets_agree_with_rewriting_everything(tmp_path: Path, labels: Labels) -> None:
    lengths = set()
    for seed in range(6):
        generator = np.random.default_rng(seed)
        refs, preds = [], []
        for _ in range(3):
            z, y, x = np.indices((8, 20, 18))
            distance = np.sqrt((2 * z - 8) ** 2 + (y - 9) ** 2 + (x - 8) ** 2)
            refs.append(np.digitize(-distance, [-7.5, -5.0, -2.5]).astype(np.int16))
            noise = ndimage.gaussian_filter(generator.normal(size=distance.shape), 1.5)
            pred = np.digitize(-distance + noise * 4, [-7.5, -5.0, -2.5]).astype(np.int16)
            for label in (1, 2, 3):
                if generator.random() < 0.5:
                    pred[generator.integers(0, 6) :, 17:19, generator.integers(0, 15) :][:2, :, :2] = label
            preds.append(pred)
        choice = _choose(tmp_path / str(seed), list(zip(refs, preds, strict=True)), labels)
        assert list(choice.steps) == _naive(refs, preds, labels)
        maps = [postprocess_label_map(p, choice.steps, (2.0, 1.0, 1.0)) for p in preds]
        for key in labels.foreground_keys:
            dice = [count_pairs(r, m).overlap(key, labels.ignore_label).dice for r, m in zip(refs, maps, strict=True)]
            assert choice.after[key] == pytest.approx(mean_of_defined(dice), nan_ok=True)
        lengths.add(len(choice.steps))
    assert len(lengths) > 1  # the sets are no use if all of them decide alike


def test_the_best_minimum_size_is_taken_if_it_helps(tmp_path: Path) -> None:
    ref = np.zeros(SHAPE, np.int16)
    ref[1, 1:4, 1:4] = ref[1, 6:9, 5:9] = 1  # 18 and 24 mm³
    pred = ref.copy()
    pred[3, 0, 5:8] = 1  # 6 mm³, false
    choice = _choose(tmp_path, [(ref, pred)], Labels({"background": 0, "lesion": 1}), min_volumes_mm3=[50.0, 2.0, 10.0])
    assert choice.steps == (PostprocessingStep("remove_small", (1,), min_volume_mm3=10.0),)
    assert [t.accepted for t in choice.trials[1:]] == [False, True, False]


@pytest.mark.parametrize("regions", [False, True])
def test_holes_are_filled_if_it_helps(tmp_path: Path, regions: bool) -> None:
    ref = np.zeros((5, 9, 9), np.int16)
    ref[1:4, 2:7, 2:7] = 2
    pred = ref.copy()
    pred[2, 4, 4] = 0
    plain = Labels({"background": 0, "a": 1, "b": 2})
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "b": 2}, [1, 2]) if regions else plain
    choice = _choose(tmp_path, [(ref, pred)], labels, fill_holes=True)
    wanted = PostprocessingStep("fill_holes", (1, 2), fill_with=1) if regions else None
    own = PostprocessingStep("fill_holes", (2,), fill_with=2)
    assert choice.steps == ((wanted,) if wanted else (own,))


def test_a_step_that_costs_one_case_too_much_can_be_refused(tmp_path: Path) -> None:
    whole = _organ()
    gain = _organ()
    gain[0:2, 9:12, 9:12] = 1
    apart = _organ()
    apart[:, :, 5] = 0  # the true organ falls apart in this case
    pairs = [(whole, gain)] * 3 + [(apart, apart)]
    assert _choose(tmp_path / "1", pairs).steps
    guarded = _choose(tmp_path / "2", pairs, max_case_loss=0.05)
    assert guarded.steps == ()


def test_the_file_is_plain_json_and_comes_back(tmp_path: Path) -> None:
    pred = _organ()
    pred[0, 11, 11] = 1
    refs, preds = _write(tmp_path / "ref", [_organ()]), _write(tmp_path / "pred", [pred])
    settings = PostprocessSettings(processes=0, min_volumes_mm3=[3.0], fill_holes=True)
    choice = choose_postprocessing(preds, refs, TWO, settings, file_ending=".nii.gz", output=tmp_path)
    assert read_choice(tmp_path / "postprocessing.json") == choice
    content = json.loads((tmp_path / "postprocessing.json").read_text())
    assert content["steps"] == [{"kind": "keep_largest", "labels": [1, 2]}]


def test_what_was_chosen_is_what_applying_gives(tmp_path: Path) -> None:
    pred = _organ()
    pred[0, 11, 11] = 1
    choice = _choose(tmp_path, [(_organ(), pred), (_organ(), _organ())])
    report = apply_postprocessing(tmp_path / "pred", choice, tmp_path / "out", file_ending=".nii.gz")
    assert report.done == ("case_0", "case_1")
    for case_id in report.done:
        image = sitk.ReadImage(str(tmp_path / "out" / f"{case_id}.nii.gz"))
        assert image.GetSpacing() == (1.0, 1.0, 2.0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), _organ())


def test_a_file_that_cannot_be_read_does_not_stop_applying(tmp_path: Path) -> None:
    folder = _write(tmp_path / "pred", [_organ()])
    (folder / "broken.nii.gz").write_bytes(b"x")
    report = apply_postprocessing(folder, PostprocessingChoice((), {}, {}), tmp_path / "out", file_ending=".nii.gz")
    assert report.done == ("case_0",)
    assert "broken" in report.failed["broken"]
    assert [f.name for f in (tmp_path / "out").glob("[!.]*")] == ["case_0.nii.gz"]


def test_choosing_needs_every_case(tmp_path: Path) -> None:
    refs, preds = _write(tmp_path / "ref", [_organ()] * 2), _write(tmp_path / "pred", [_organ()] * 3)
    with pytest.raises(SegflowError, match="case_2"):
        choose_postprocessing(preds, refs, TWO, file_ending=".nii.gz")
    (preds / "case_2.nii.gz").write_bytes(b"x")
    _write(tmp_path / "ref", [_organ()] * 3)
    with pytest.raises(SegflowError, match="case_2"):
        choose_postprocessing(preds, refs, TWO, file_ending=".nii.gz")


def test_choosing_on_a_part_of_the_cases_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    refs, preds = _write(tmp_path / "ref", [_organ()] * 3), _write(tmp_path / "pred", [_organ()] * 2)
    choose_postprocessing(preds, refs, TWO, file_ending=".nii.gz")
    assert "2 of 3 cases" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "steps"),
        ([], "steps"),
        ({"steps": [{"kind": "os.system", "labels": [1]}]}, "os.system"),
        ({"steps": [{"kind": "keep_largest"}]}, "labels"),
        ({"steps": [{"kind": "remove_small", "labels": [1]}]}, "min_volume_mm3"),
        ({"steps": [{"kind": "keep_largest", "labels": [0, 1]}]}, "foreground"),
        ({"steps": ["keep_largest"]}, "keep_largest"),
    ],
)
def test_a_file_written_by_hand_is_checked(tmp_path: Path, content: object, words: str) -> None:
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(SegflowError, match=words):
        read_choice(tmp_path / "postprocessing.json")


def test_a_missing_choice_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="segflow postprocess"):
        read_choice(tmp_path / "postprocessing.json")


@pytest.mark.parametrize("wrong", [{"min_volumes_mm3": [0.0]}, {"max_case_loss": -0.1}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(SegflowError, match=next(iter(wrong))):
        PostprocessSettings(**wrong)


def test_applying_replaces_neither_its_input_nor_anything_that_segflow_did_not_write(tmp_path: Path) -> None:
    folder, out = _write(tmp_path / "pred", [_organ()]), _write(tmp_path / "out", [_organ()])
    nothing = PostprocessingChoice((), {}, {})
    before = {file: file.read_bytes() for file in (*folder.glob("*.nii.gz"), *out.glob("*.nii.gz"))}
    with pytest.raises(SegflowError, match="replace an input"):
        apply_postprocessing(folder, nothing, folder, file_ending=".nii.gz")
    with pytest.raises(SegflowError, match=r"did not write.*case_0\.nii\.gz"):
        apply_postprocessing(folder, nothing, out, file_ending=".nii.gz")
    assert before == {file: file.read_bytes() for file in before}


def test_what_other_steps_made_is_made_anew_and_never_mixed(tmp_path: Path) -> None:
    pred = _organ()
    pred[0, 11, 11] = 1
    folder, out = _write(tmp_path / "pred", [pred, pred]), tmp_path / "out"
    nothing = PostprocessingChoice((), {}, {})
    largest = PostprocessingChoice((PostprocessingStep("keep_largest", (1,)),), {}, {})
    apply_postprocessing(folder, nothing, out, file_ending=".nii.gz")
    (folder / "case_1.nii.gz").write_bytes(b"no image")
    assert apply_postprocessing(folder, largest, out, file_ending=".nii.gz").failed.keys() == {"case_1"}
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / "case_0.nii.gz"))), _organ())
    assert not (out / "case_1.nii.gz").exists()  # it was made by other steps from another file
    (folder / "case_1.nii.gz").rename(folder / "other.nii.gz")
    (folder / "case_0.nii.gz").unlink()
    _write(tmp_path / "fresh", [_organ()])
    (tmp_path / "fresh" / "case_0.nii.gz").rename(folder / "other.nii.gz")
    with pytest.raises(SegflowError, match="another choice of steps"):
        apply_postprocessing(folder, nothing, out, file_ending=".nii.gz")
    assert apply_postprocessing(folder, largest, out, file_ending=".nii.gz").done == ("other",)


def test_steps_name_classes_and_files_keep_their_own_values(tmp_path: Path) -> None:
    labels = Labels.from_json({"background": 0, "a": [90, 91], "b": 255})
    values, pred = np.array([0, 90, 255]), _organ()
    pred[0, 11, 11] = 1
    choice = _choose(tmp_path, [(np.where(_organ() == 1, 91, values[_organ()]), values[pred])] * 2, labels)
    assert choice.steps == (_keep(1, 2),)
    assert choice.after == {1: 1.0, 2: 1.0}
    apply_postprocessing(tmp_path / "pred", choice, tmp_path / "out", file_ending=".nii.gz", labels=labels)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case_0.nii.gz")))
    np.testing.assert_array_equal(written, values[_organ()])


def test_a_label_is_judged_by_the_cases_in_which_it_was_drawn(tmp_path: Path) -> None:
    island = _organ()
    island[0, 11, 11] = 1  # a second component, which is right in the first case and wrong in the second
    pairs = [(island, island), (_organ(), island)]
    assert not _choose(tmp_path / "whole", pairs).steps
    partial = replace(TWO, present=LabelsPresent({"case_0": frozenset({2})}))
    assert _choose(tmp_path / "partial", pairs, partial).steps
