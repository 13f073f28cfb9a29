"""The phantom: the same for everybody, whole or not there, and no threshold solves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from found_images import find_images

import segflow.storage.phantom as module
from segflow.core.errors import SegflowError
from segflow.execution.progress import ProgressEvent
from segflow.storage.images import choose_reader, read_case
from segflow.storage.phantom import LIVER, TUMOUR, make_phantom, phantom_case
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("raw") / "Dataset001_Phantom", cases=3, held_out=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_is_a_sound_raw_dataset(phantom: Path) -> None:
    description = read_description(phantom)
    reader = choose_reader(description.file_ending)
    assert description.channels == ("CT",)
    assert description.labels.name_of(TUMOUR) == "tumour"
    assert check_dataset(phantom, description, reader) == []
    assert len(find_training_cases(phantom, description)) == 3
    (held_out,) = find_images(phantom / "imagesTs", ".nii.gz", 1)
    label, geometry = reader.read_label(phantom / "labelsTs" / f"{held_out.case_id}.nii.gz")
    image, image_geometry = reader.read_image(held_out.images)
    assert label.shape == image.shape[1:]
    assert geometry == image_geometry


def test_what_is_read_is_what_was_drawn(phantom: Path) -> None:
    description = read_description(phantom)
    first = find_training_cases(phantom, description)[0]
    case = read_case(first, choose_reader(".nii.gz"))
    image, label, geometry = phantom_case(0)
    np.testing.assert_array_equal(case.image[0], image)
    np.testing.assert_array_equal(case.label, label)
    np.testing.assert_allclose(case.geometry.spacing, geometry.spacing)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_patients(phantom: Path, tmp_path: Path) -> None:
    again = make_phantom(tmp_path / "Dataset001_Phantom", cases=3, held_out=1)
    assert contents(again) == contents(phantom)
    image, _, _ = phantom_case(0, seed=1)
    assert image.shape != phantom_case(0)[0].shape or (image != phantom_case(0)[0]).any()


def test_making_it_again_does_nothing(phantom: Path) -> None:
    times = {file: file.stat().st_mtime_ns for file in phantom.rglob("*")}
    assert make_phantom(phantom, cases=3, held_out=1) == phantom
    assert {file: file.stat().st_mtime_ns for file in phantom.rglob("*")} == times


def test_another_folder_of_that_name_is_left_alone(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="is not the phantom"):
        make_phantom(phantom, cases=4, held_out=1)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SegflowError, match="is not the phantom"):
        make_phantom(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_phantom_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = module.phantom_case

    def interrupted(index: int, seed: int) -> object:
        if index == 1:
            raise KeyboardInterrupt
        return drawn(index, seed)

    monkeypatch.setattr(module, "phantom_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_phantom(tmp_path / "Dataset001_Phantom", cases=2)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    make_phantom(tmp_path / "Dataset001_Phantom", cases=1, held_out=1, progress=events.append)
    assert [(event.done, event.total) for event in events] == [(0, 2), (1, 2), (2, 2)]


def test_most_patients_have_tumours_and_all_have_a_liver() -> None:
    labels = [phantom_case(index)[1] for index in range(8)]
    assert all((label == LIVER).sum() > 2000 for label in labels)
    assert sum((label == TUMOUR).any() for label in labels) == 7


def test_no_window_of_intensities_finds_the_labels() -> None:
    """Muscle, stomach and blurred borders are as bright as a tumour, the spleen as the liver."""
    image, label, geometry = phantom_case(1)
    assert geometry.spacing == (3.0, 1.5, 1.5)
    for value, limit in ((LIVER, 0.9), (TUMOUR, 0.3)):
        target = label == value
        best = 0.0
        for low in range(-20, 140, 10):
            for high in range(low + 10, 200, 10):
                found = (image >= low) & (image < high)
                best = max(best, 2 * float((found & target).sum()) / float(found.sum() + target.sum()))
        assert best < limit


def test_an_organ_is_the_same_as_if_the_whole_grid_were_looked_at() -> None:
    body = module._Body(module._millimetres((40, 60, 62), (5.0, 1.5, 1.5)), np.random.default_rng(0))
    for centre, half_axes in (((0, 0, 0), (200, 43, 47)), ((-12, 22, 21), (15, 7, 6)), ((900, 0, 0), (3, 3, 3))):
        places = zip((body._z, body._y, body._x), centre, half_axes, strict=True)
        plain = sum(((place - c) / r) ** 2 for place, c, r in places) < 1
        np.testing.assert_array_equal(body._ellipsoid(centre, half_axes), plain)
        assert plain.any() == (centre[0] < 900)


def test_the_share_of_a_voxel_that_is_within_an_organ() -> None:
    fine = np.random.default_rng(0).random((8, 6, 10)) > 0.5
    expected = fine.reshape(4, 2, 3, 2, 5, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    np.testing.assert_array_equal(module._mean(fine, (4, 3, 5)), expected)
