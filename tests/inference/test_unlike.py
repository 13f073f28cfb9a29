"""Images that are unlike a model's training images: what is told, what is refused, and which are turned."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
from inference_images import make_image

from segflow.core.errors import SegflowError
from segflow.core.image_look import look_at
from segflow.core.training_images import SAMPLE, ImageFacts, TrainingImages, image_quantiles, sample_step
from segflow.core.voxels import ArraySource
from segflow.exchange.export_model import export_bundle
from segflow.exchange.import_model import import_bundle
from segflow.inference.image_objects import image_object
from segflow.inference.planes import Room
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.inference.unlike import differences, differences_from_plans
from segflow.models.open_model import open_model
from segflow.storage.case_files import find_training_cases
from segflow.storage.folds import Fold
from segflow.storage.image_formats.placement import orientation
from segflow.storage.images import read_case, reader_of
from segflow.storage.raw_dataset import read_description

OWN = "PLI"
"""Orientation of `make_image`: that of the training images here."""
CODES = ("PLI", "RAS", "LPS", "SAR")


def facts(image: sitk.Image) -> ImageFacts:
    case = image_object(image).case
    return ImageFacts(
        case.image.shape[1:], case.geometry.spacing, orientation(case.geometry), image_quantiles(case.image)
    )


def make_run(folder: Path, images: Sequence[sitk.Image] | None = None, **options: Any) -> Path:
    """A run whose record tells of training images like those to predict, or of given ones."""
    run = tiny_models.make_run(folder, **options)
    seen = TrainingImages.of([facts(image) for image in images or [make_image(seed) for seed in range(5)]])
    for fold in run.glob("fold_*"):
        Fold(fold).write_record(replace(Fold(fold).read_record(), images=seen))
    return run


def write(folder: Path, images: dict[str, sitk.Image], ending: str = ".nii.gz") -> Path:
    folder.mkdir()
    for name, image in images.items():
        sitk.WriteImage(image, str(folder / f"{name}_0000{ending}"))
    return folder


def settings(**options: Any) -> PredictSettings:
    return PredictSettings(device="cpu", **{"batch_size": 1, "mirroring": False, **options})


def voxels(file: Path, code: str | None = None) -> np.ndarray:
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image if code is None else sitk.DICOMOrient(image, _itk_name(code)))


def _itk_name(code: str) -> str:
    """SimpleITK names the directions that axes come from before version 2.5's convention: it is found by trying."""
    image = sitk.DICOMOrient(make_image(), code)
    if facts(image).orientation == code:
        return code
    return "".join({"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}[letter] for letter in code)


def in_orientation(image: sitk.Image, code: str) -> sitk.Image:
    return sitk.DICOMOrient(image, _itk_name(code))


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("slabs", [False, True])
def test_images_of_another_orientation_are_turned_and_their_maps_come_back(
    tmp_path: Path, ending: str, slabs: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path, ending=ending)
    images = write(tmp_path / "images", {code: in_orientation(make_image(), code) for code in CODES}, ending)
    if slabs:
        monkeypatch.setattr(Room, "of_machine", classmethod(lambda cls, scratch=None: cls(1, 1, scratch)))
    output = tmp_path / "output"
    for _ in range(2):  # the second time all are done
        report = predict_cases(run, images, output, settings(probabilities=True, entropy=True))
        assert report.ok, report.failed
    assert report.skipped == tuple(sorted(CODES))
    expected = voxels(output / f"PLI{ending}")
    assert len(np.unique(expected)) > 1
    for code in CODES:
        for name in (f"{code}{ending}", f"probabilities/{code}_0001.nii.gz", f"entropy/{code}.nii.gz"):
            given = sitk.ReadImage(str(images / f"{code}_0000{ending}"))
            found = sitk.ReadImage(str(output / name))
            assert found.GetSize() == given.GetSize()
            np.testing.assert_allclose(found.GetDirection(), given.GetDirection(), atol=1e-6)
            np.testing.assert_allclose(found.GetOrigin(), given.GetOrigin(), atol=1e-4)
            assert np.array_equal(voxels(output / name, OWN), voxels(output / name.replace(code, OWN))), name
    told = [record.message for record in caplog.records if "are turned to PLI" in record.message]
    assert sorted(line.split()[3] for line in told[: len(CODES) - 1]) == sorted(set(CODES) - {OWN})


def test_images_of_the_trainings_orientation_stay_as_they_are(tmp_path: Path) -> None:
    images = write(tmp_path / "images", {"a": make_image(1)})
    known, unknown = make_run(tmp_path / "known"), tiny_models.make_run(tmp_path / "unknown")
    for run, name in ((known, "x"), (unknown, "y")):
        assert predict_cases(run, images, tmp_path / name, settings()).ok
    assert (tmp_path / "x" / "a.nii.gz").read_bytes() == (tmp_path / "y" / "a.nii.gz").read_bytes()


def test_nothing_is_turned_if_the_user_says_so(tmp_path: Path) -> None:
    images = write(tmp_path / "images", {"a": in_orientation(make_image(), "RAS")})
    known, unknown = make_run(tmp_path / "known"), tiny_models.make_run(tmp_path / "unknown")
    for run, name in ((known, "x"), (unknown, "y")):
        assert predict_cases(run, images, tmp_path / name, settings(on_unlike="ignore")).ok
    assert np.array_equal(voxels(tmp_path / "x" / "a.nii.gz"), voxels(tmp_path / "y" / "a.nii.gz"))
    report = predict_cases(known, images, tmp_path / "z", settings())
    assert report.ok
    assert not np.array_equal(voxels(tmp_path / "x" / "a.nii.gz"), voxels(tmp_path / "z" / "a.nii.gz"))
    with pytest.raises(SegflowError, match="turned"):  # the folder's label maps are those of images as they are
        predict_cases(known, images, tmp_path / "x", settings())


def test_both_stages_of_a_cascade_are_turned_alike(tmp_path: Path) -> None:
    make_run(tmp_path, name="3d_lowres")
    run = make_run(tmp_path, name="3d_cascade_fullres")
    images = write(tmp_path / "images", {code: in_orientation(make_image(), code) for code in CODES})
    report = predict_cases(run, images, tmp_path / "output", settings())
    assert report.ok, report.failed
    for code in CODES:
        found, expected = (voxels(tmp_path / "output" / f"{name}.nii.gz", OWN) for name in (code, OWN))
        assert np.array_equal(found, expected)


def test_an_image_from_python_is_turned_too(tmp_path: Path) -> None:
    predictor = Predictor.load(make_run(tmp_path), device="cpu", settings=settings().window)
    expected = sitk.GetArrayFromImage(predictor.predict(make_image()))
    for code in CODES:
        found = predictor.predict(in_orientation(make_image(), code))
        assert np.array_equal(sitk.GetArrayFromImage(in_orientation(found, OWN)), expected)


@pytest.mark.parametrize(
    ("orientations", "cases", "expected"),
    [
        ({"RAS": 10}, 10, {"RAS": None, "LPS": "RAS"}),
        ({"RAS": 9, "LPS": 1}, 10, {"RAS": None, "LPS": None, "LAS": "RAS"}),
        ({"RAS": 4}, 10, {"LPS": None}),  # six are oblique, or do not say it
        ({}, 10, {"LPS": None}),
    ],
)
def test_the_orientation_to_turn_to(orientations: dict[str, int], cases: int, expected: dict[str, str | None]) -> None:
    images = TrainingImages.of([facts(make_image())])
    images = replace(images, orientations=orientations, cases=cases)
    assert {code: images.turn_to(code) for code in expected} == expected


def ct(seed: int = 0, shape: tuple[int, int, int] = (14, 22, 20)) -> np.ndarray:
    """Hounsfield units of a body in air."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    body = np.hypot((y - shape[1] / 2) / shape[1], (x - shape[2] / 2) / shape[2]) < 0.35
    bone = body & (z % 7 == 0) & (x % 5 == 0)
    return np.where(bone, 700, np.where(body, 40, -1000)).astype(np.float32) + random.normal(0, 20, shape)


def scan(array: np.ndarray, spacing: float = 1.0) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((spacing, spacing, 2 * spacing))
    return image


MISTAKES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, str]] = {
    "offset": (lambda hu: hu + 1024, 1, r"values of channel 0 \(MR0\) are unlike.*Subtract 1024\."),
    "unit": (lambda hu: hu * 1000, 1, r"they spread too far.*Divide by 1000\."),
    "unit below": (lambda hu: hu / 1000, 1, r"they spread too little.*Multiply by 1000\."),
    "modality": (lambda hu: np.abs(hu + 1000) % 300, 1, r"Is it of another modality, or in another unit\?"),
    "spacing": (lambda hu: hu, 0.1, r"spacing is 10 times beyond.*found \(0\.2, 0\.1, 0\.1\) mm.*millimetres\?"),
}


@pytest.mark.parametrize("which", MISTAKES)
def test_mistakes_are_told_with_numbers_and_refused_if_asked_for(
    tmp_path: Path, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, spacing, told = MISTAKES[which]
    run = make_run(tmp_path, [scan(ct(seed)) for seed in range(3)])
    images = write(tmp_path / "images", {"good": scan(ct(7)), "odd": scan(change(ct(8)), spacing)})
    report = predict_cases(run, images, tmp_path / "refused", settings(on_unlike="refuse"))
    assert report.done == ("good",)
    assert list(report.failed) == ["odd"]
    assert "on_unlike=warn" in report.failed["odd"]
    caplog.clear()
    assert predict_cases(run, images, tmp_path / "ignored", settings(on_unlike="ignore")).ok
    assert not [record for record in caplog.records if "unlike" in record.message or "spacing" in record.message]
    assert predict_cases(run, images, tmp_path / "warned", settings()).ok
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "odd" in lines[0]
    assert re.search(told, lines[0]), lines[0]


def channels(*scales: float, seed: int = 0) -> tuple[tuple[float, ...], ...]:
    random = np.random.default_rng(seed)
    return image_quantiles(np.stack([scale * random.gamma(2 + k, 1, (8, 20, 20)) for k, scale in enumerate(scales)]))


def image_of(quantiles: Sequence[tuple[float, ...]]) -> ImageFacts:
    return ImageFacts((8, 20, 20), (3.0, 1.0, 1.0), None, tuple(quantiles))


def test_channels_in_another_order_are_told_with_the_right_order() -> None:
    names = ("T2", "ADC", "DWI")
    training = TrainingImages.of([image_of(channels(300, 1000, 10, seed=seed)) for seed in range(4)])
    good = channels(310, 1100, 11, seed=9)
    assert not differences(image_of(good), training, names, (0, 1, 2))
    (swapped,) = differences(image_of([good[1], good[0], good[2]]), training, names, (0, 1, 2))
    assert "channels 0 (T2) and 1 (ADC) look swapped" in str(swapped)
    assert "order: channel 1, channel 0, channel 2" in str(swapped)
    (rotated,) = differences(image_of([good[2], good[0], good[1]]), training, names, (0, 1, 2))
    assert "order: channel 1, channel 2, channel 0" in str(rotated)


def test_a_flat_model_compares_no_spacing_across_slices() -> None:
    training = TrainingImages.of([image_of(channels(10, seed=seed)) for seed in range(4)])
    thick = replace(image_of(channels(10)), spacing=(300.0, 1.0, 1.0))
    assert differences(thick, training, ("MR",), (0, 1, 2))
    assert not differences(thick, training, ("MR",), (1, 2))


def test_a_model_without_a_record_compares_ct_with_its_foreground(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (foreground,) = tiny_models.plans().intensities
    foreground = replace(foreground, min=-200.0, max=400.0, percentile_00_5=-50.0, percentile_99_5=180.0)
    for change, told in ((lambda hu: hu + 1024, "Subtract 1024"), (lambda hu: hu * 1000, "Divide by")):
        own = image_of(image_quantiles(change(ct())[None]))
        found = differences_from_plans(own, [foreground], ["CTNormalization"])
        assert [told in str(error) for error in found] == [True]
        assert not differences_from_plans(own, [foreground], ["ZScoreNormalization"])
    assert not differences_from_plans(image_of(image_quantiles(ct()[None])), [foreground], ["CTNormalization"])
    images = write(tmp_path / "images", {"a": make_image(1), "b": make_image(2)})
    with caplog.at_level(logging.INFO):
        assert predict_cases(tiny_models.make_run(tmp_path), images, tmp_path / "out", settings()).ok
    assert caplog.text.count("does not record its training images") == 1


def test_the_record_goes_with_the_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "outputs")
    own = Fold(run / "fold_0").read_record().images
    assert own is not None
    bundle = export_bundle(run, tmp_path / "model.segflow")
    imported = import_bundle(bundle, tmp_path / "imported")[0]
    for path in (run, bundle, imported):
        assert open_model(path).read()[0].record.images == own


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cases", 0),
        ("cases", "many"),
        ("percents", [1, 99]),
        ("orientations", {"RAX": 1}),
        ("orientations", {"RLS": 1}),
        ("orientations", None),
        ("spacing", [[1, 1, 1]]),
        ("spacing", [[0, 1, 1], [1, 1, 1]]),
        ("spread", [[1, 2], [1]]),
        ("spread", [[1], [400]]),
        ("spacing", [[1, 1, 1], [1, 1, None]]),
        ("quantiles", [[["a"]], [["b"]]]),
        ("position", [[[1, 2]], [[1, 2]]]),
        ("pairs", [[[1, 2, 3, 4]], [[1, 2, 3, 4]]]),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(key: str, value: Any) -> None:
    content = TrainingImages.of([facts(make_image())]).to_json()
    assert TrainingImages.from_json(content).to_json() == content
    with pytest.raises(SegflowError, match="record of the training images"):
        TrainingImages.from_json({**content, key: value})
    with pytest.raises(SegflowError, match="record of the training images"):
        TrainingImages.from_json({name: own for name, own in content.items() if name != key})


def test_constant_channels_and_records_of_them_are_compared_without_an_error() -> None:
    flat = image_of([(5.0,) * 7, *channels(10)])
    training = TrainingImages.of([flat, flat])
    assert TrainingImages.from_json(training.to_json()) == training
    assert not differences(flat, training, ("a", "b"), (0, 1, 2))
    lively = [image_of(channels(10, 10, seed=seed)) for seed in range(3)]
    differences(flat, TrainingImages.of(lively), ("a", "b"), (0, 1, 2))
    shifted = image_of(tuple(tuple(value - 5000 for value in own) for own in channels(10, 10)))
    (first, _) = differences(shifted, TrainingImages.of([*lively, flat]), ("a", "b"), (0, 1, 2))
    assert "values of channel 0 (a) are unlike" in str(first)


def test_the_sample_spreads_over_the_image_and_is_that_of_slabs() -> None:
    image = np.random.default_rng(0).gamma(2, 100, (2, 40, 128, 128)).astype(np.float32)
    step = sample_step(image.shape[1:])
    columns = np.arange(0, image[0].size, step) % 128
    assert set(columns) == set(range(128))
    assert SAMPLE / 2 < len(columns) <= SAMPLE
    assert look_at(ArraySource(image)).quantiles == image_quantiles(image)
    exact = np.percentile(image[0], [0.5, 50, 99.5])
    np.testing.assert_allclose(np.array(image_quantiles(image)[0])[[0, 3, 6]], exact, rtol=0.1)


@pytest.mark.parametrize(
    ("dataset", "count", "folds"),
    [("Dataset027_ACDC", 12, 4), ("Dataset143_ProstateX3ch", 2, 2), ("Dataset123_Nuclei", 40, 4)],
)
def test_held_out_images_of_real_datasets_are_like_the_others_and_spoilt_ones_are_not(
    test_data: Path, dataset: str, count: int, folds: int
) -> None:
    description = read_description(test_data / dataset)
    cases = find_training_cases(test_data / dataset, description)[:count]
    reader = reader_of((case.images[0] for case in cases), description.file_ending, description.reader)
    read = [read_case(case, reader, channels=len(description.channels)) for case in cases]
    seen = [
        ImageFacts(case.image.shape[1:], case.geometry.spacing, orientation(case.geometry), image_quantiles(case.image))
        for case in read
    ]
    axes = (1, 2)
    for k, (case, image) in enumerate(zip(read, seen, strict=True)):
        training = TrainingImages.of([other for n, other in enumerate(seen) if n % folds != k % folds])
        assert not differences(image, training, description.channels, axes), case.case_id
        assert image.orientation is None or training.turn_to(image.orientation) is None
        for changed in (case.image + 1024, case.image * 1000):
            spoilt = replace(image, quantiles=image_quantiles(changed))
            assert differences(spoilt, training, description.channels, axes), case.case_id
        wide = replace(image, spacing=tuple(10 * s for s in image.spacing))
        assert differences(wide, training, description.channels, axes), case.case_id
        if dataset == "Dataset143_ProstateX3ch":
            for order in ([1, 0, 2], [2, 1, 0], [0, 2, 1]):
                swapped = replace(image, quantiles=tuple(image.quantiles[c] for c in order))
                assert "look swapped" in str(differences(swapped, training, description.channels, axes)[0])
