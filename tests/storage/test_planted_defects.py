"""Every kind of defect that is planted in real cases is found in its case, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from planted import DEFECTS, Cases, plant
from scipy.ndimage import gaussian_filter

from segflow.core.case import CaseFiles
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.core.split_cases import values_by_pattern
from segflow.core.splits import Split
from segflow.storage.case_check import check_case
from segflow.storage.case_features import CaseFeatures, centres_of, picture_of
from segflow.storage.case_files import discover
from segflow.storage.case_likeness import alike_problems
from segflow.storage.case_outliers import outlier_problems
from segflow.storage.dataset_check import check_dataset
from segflow.storage.images import reader_by_name, reader_of
from segflow.storage.label_sides import sided_pairs
from segflow.storage.label_values import ValueRoles
from segflow.storage.patients import patients_by_name, patients_in_several_cases
from segflow.storage.raw_dataset import Problem, read_description

REVERSED = {"background": [255, 7], "lesion": 0, "ignore": 9}


@pytest.fixture(scope="module")
def clean(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(test_data / "Dataset004_Hippocampus", tmp_path_factory.mktemp("planted") / "Dataset004_Two", 100)


def problems_of(folder: Path) -> list[Problem]:
    return check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO"))


def test_planted_defects(clean: Cases) -> None:
    assert problems_of(clean.folder) == [], "nothing is wrong before"
    places = plant(clean, seed=20261126)
    problems = problems_of(clean.folder)
    missed = []
    for kind, (_, where, text) in DEFECTS.items():
        case = places[kind][0] if where == "case" else None
        if not any(problem.case == case and text in problem.message for problem in problems):
            missed.append((kind, case, [p.message for p in problems if p.case == case]))
    assert not missed
    harmed = {name for pair in places.values() for name in pair} | {"p07_visit0", "p07_visit1"}
    assert [p for p in problems if p.case is not None and p.case not in harmed] == []
    assert len(DEFECTS) >= 25
    assert all(problem.fix for problem in problems)


@pytest.mark.parametrize("name", ["Dataset004_Hippocampus", "Dataset027_ACDC", "Dataset123_Nuclei"])
def test_untouched_datasets_raise_no_alarm(test_data: Path, name: str) -> None:
    folder = test_data / name
    description = read_description(folder)
    first = [case.images[0] for case in discover(folder, description).cases]
    assert check_dataset(folder, description, reader_of(first, description.file_ending)) == []


@pytest.mark.parametrize(
    ("names", "several"),
    [
        (["patient002_frame01", "patient002_frame02", "patient005_frame01"], 2),
        (["sub-01_ses-01", "sub-01_ses-02", "sub-02_ses-01"], 2),
        (["P12", "P12_followup", "P13"], 2),
        (["017_left", "017_right", "018_left", "018_right"], 4),
        (["s1_1", "s1_2", "s2_1", "s2_2", "s3_1", "s4_1"], 0),
        (["s1_1", "s1_2", "s2_1", "s2_2", "s3_1", "s3_2"], 6),
        ([f"site{k}_{n:02d}" for k in range(4) for n in range(9)], 0),
        (["hippocampus_001", "hippocampus_003"], 0),
        (["BRATS_001", "BRATS_002"], 0),
        (["nuc_0402a81e75", "nuc_05040e2e95"], 0),
        (["sct_t1", "sct_t2"], 0),
        (["case_2019_0001", "case_2019_0002", "case_2020_0001"], 0),
    ],
)
def test_patients_by_name(names: list[str], several: int) -> None:
    found, pattern = patients_by_name(names)
    assert len(found) == several
    if found:
        groups = values_by_pattern(names, pattern)
        assert all(len({groups[c] for c in names if found.get(c) == who}) == 1 for who in set(found.values()))
        assert len(set(groups.values())) < len(names)


def test_splits_that_keep_patients_together_are_enough() -> None:
    names = ["p1_visit1", "p1_visit2", "p2_visit1", "p2_visit2"]
    apart = [Split(("p1_visit1", "p2_visit1"), ("p1_visit2", "p2_visit2"))]
    together = [Split(tuple(names[:2]), tuple(names[2:]))]
    (problem,) = patients_in_several_cases(names, {}, apart)
    assert "4 cases are of 2 patients by their names: p1_visit1 and p1_visit2" in problem.message
    assert "group_by=" in (problem.fix or "")
    assert patients_in_several_cases(names, {}, together) == []
    assert patients_in_several_cases(names, {}, None, {name: name[:2] for name in names}) == []
    assert patients_in_several_cases(names, {}, None, {name: name for name in names}) != []
    assert patients_in_several_cases(["a", "b", "c"], {"a": "X", "b": "X", "c": "Y"}, None) != []


def test_pictures_are_alike_whatever_the_scale_of_values_and_voxels() -> None:
    random = np.random.default_rng(0)
    one, other = (gaussian_filter(random.normal(size=(20, 30, 40)), 2).astype(np.float32) for _ in range(2))
    picture = picture_of(one).astype(np.float64)
    assert np.linalg.norm(picture) == pytest.approx(1, abs=1e-3)
    assert picture @ picture_of(np.exp(5 * one)) > 0.95
    assert picture @ picture_of(one.repeat(2, 0).repeat(2, 2)) > 0.95
    assert picture @ picture_of(other) < 0.5
    assert not picture_of(np.ones((5, 6, 7), np.float32)).any()
    assert picture_of(one[:1]).size == 1024


def test_an_image_or_label_map_of_every_small_shape_has_features() -> None:
    for shape in ((1, 1, 1), (1, 2, 3), (2, 1, 1), (3, 40, 2)):
        features = CaseFeatures("x")
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        geometry = Geometry((1.0, 1.0, 1.0), {"affine": np.eye(4).tolist()})
        features.add_channels(values[np.newaxis], geometry)
        features.add_label((values > 0).astype(np.int16), geometry, (1, 5))
        assert len(features.channels) == 1
        assert set(features.centres) <= {1}


def test_background_and_ignored_voxels_of_any_value_are_no_foreground() -> None:
    label = np.full((5, 6, 7), 255, np.int16)
    label[1, 1, 1], label[3, 3, 3], label[0, 5, 5], label[4, 5, 0] = 7, 9, 0, 0  # background, ignored, twice foreground
    label[4, 5, 1] = 9  # foreground beside what is ignored is a scribble
    geometry, roles = Geometry((1.0, 1.0, 1.0)), ValueRoles.of(Labels.from_json(REVERSED))
    assert roles == ValueRoles((0, 7, 9, 255), (255, 7), (9,))
    features = CaseFeatures("x")
    features.add_label(label, geometry, (), roles)
    assert features.islands == 1
    empty = CaseFeatures("y")
    empty.add_label(np.full((5, 6, 7), 7, np.int16), geometry, (), roles)
    assert empty.label is None


def test_a_label_map_of_background_alone_is_told_whatever_its_value(tmp_path: Path) -> None:
    image, affine = np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "a_0000.nii.gz")
    for value, message in ((0, None), (255, "holds background only"), (9, "holds background and what is ignored only")):
        nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), value, np.uint8), affine), tmp_path / "a.nii.gz")
        files = CaseFiles("a", (tmp_path / "a_0000.nii.gz",), tmp_path / "a.nii.gz")
        checked = check_case(files, reader_by_name("SimpleITKIO"), 1, ValueRoles.of(Labels.from_json(REVERSED)))
        assert checked.background_only == (message is not None)
        assert [message in problem.message for problem in checked.problems if message] == ([True] if message else [])


def test_centres_of_labels_lie_in_the_patient() -> None:
    label = np.zeros((4, 5, 6), np.int32)
    label[1, 2, 3:5], label[3, 0, 0] = 2, 2_000_000_000
    affine = np.array([[-2.0, 0, 0, 10], [0, 3.0, 0, 0], [0, 0, 1.0, -7], [0, 0, 0, 1]])
    geometry = Geometry((1.0, 3.0, 2.0), {"affine": affine.tolist()})
    found = centres_of(label[1:], (1, 0, 0), geometry, (1, 2))
    assert found == {2: (pytest.approx(3.0), pytest.approx(6.0), pytest.approx(-6.0))}


def test_sided_pairs_follow_from_names() -> None:
    names = ["background", "kidney_left", "kidney_right", "Lung-R", "Lung-L", "vertebrae_L5", "left_atrium", "Anterior"]
    labels = Labels.from_json({name: 10 * number for number, name in enumerate(names)})
    assert sorted((pair.axis, pair.low, pair.high) for pair in sided_pairs(labels)) == [(0, 10, 20), (0, 40, 30)]
    assert sided_pairs(labels)[0].reversed == "kidney_left lies to the patient's right of kidney_right"


def test_values_near_the_limit_of_floats_hide_no_other_case() -> None:
    random, geometry = np.random.default_rng(0), Geometry((1.0, 1.0, 1.0))
    cases = []
    for number in range(40):
        features = CaseFeatures(f"c{number:02d}")
        image = random.normal(100, 10, (1, 6, 7, 8)).astype(np.float32)
        if number == 3:
            image = np.where(image > 100, np.float32(3e38), np.float32(-3e38))  # their sums are infinite
        features.add_channels(image * (1000 if number == 5 else 1), geometry)
        cases.append(features)
    assert {problem.case for problem in outlier_problems(cases, ["MR"])} >= {"c05"}
    assert alike_problems(cases, {}) == []
