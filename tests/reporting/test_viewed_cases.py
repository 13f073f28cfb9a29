"""What a page holds of cases."""

from __future__ import annotations

import base64
import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from segflow.core.labels import Labels
from segflow.reporting.viewed_cases import CT_WINDOWS, ViewedCase, pack_cases, ranked
from segflow.storage.images import reader_by_name

LABELS = Labels.from_json({"background": 0, "organ": 1, "lesion": 2, "ignore": 3})
NAN = float("nan")


def _case(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> ViewedCase:
    files = []
    for number, channel in enumerate(image):
        files.append(folder / f"{name}_{number:04d}.nii.gz")
        nib.save(nib.Nifti1Image(channel.T, np.diag([-1.0, -1, 2, 1])), files[-1])
    maps = {}
    for side in ("reference", "prediction"):
        (folder / side).mkdir(exist_ok=True)
        maps[side] = folder / side / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(label.astype(np.uint16).T, np.diag([-1.0, -1, 2, 1])), maps[side])
    return ViewedCase(name, tuple(files), maps)


def _packed(cases: Sequence[ViewedCase], channels: Sequence[str] = ("MR",), **options: Any) -> dict[str, Any]:
    return pack_cases(cases, LABELS, reader_by_name("NibabelIO"), channels, **options)


def _voxels(text: str) -> np.ndarray:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
    return np.asarray(image.dataobj).T


def _label(shape: tuple[int, ...] = (4, 20, 20)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[1:3, 5:9, 5:9] = 1
    return label


def test_values_and_labels_can_be_read_from_the_page(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(300, 50, size=(2, 4, 20, 20)).astype(np.float32)
    (case,) = _packed([_case(tmp_path, "a", image, _label())], ["T1", "T2"])["cases"]
    assert [channel["name"] for channel in case["channels"]] == ["T1", "T2"]
    assert case["size"] == [20, 20, 4]
    assert case["spacing"] == [1, 1, 2]
    for channel, values in zip(case["channels"], image, strict=True):
        inside = np.clip(values, *np.percentile(values, [0.1, 99.9]))
        assert np.abs(_voxels(channel["voxels"]) - inside).max() <= channel["step"] / 2 + 1e-3
    np.testing.assert_array_equal(_voxels(case["maps"]["prediction"]), _label())


def test_more_labels_than_a_byte_counts(tmp_path: Path) -> None:
    label = _label().astype(np.uint16) * 300
    (case,) = _packed([_case(tmp_path, "a", np.zeros((1, *label.shape), np.float32), label)])["cases"]
    assert case["wide"]
    np.testing.assert_array_equal(_voxels(case["maps"]["reference"]), label)


def test_the_window_of_a_ct_follows_what_is_labelled(tmp_path: Path) -> None:
    for inside, name in ((50, "soft tissue"), (-800, "lung"), (700, "bone")):
        image = np.where(_label() > 0, inside, -1000).astype(np.float32)[np.newaxis]
        image += np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
        (case,) = _packed([_case(tmp_path, "a", image, _label())], ["CT"])["cases"]
        assert case["channels"][0]["window"] == list(CT_WINDOWS[name])


def test_the_page_stays_small_and_names_the_others(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 20, 20)).astype(np.float32)
    cases = [_case(tmp_path, f"c{n:02d}", image, _label()) for n in range(12)]
    data = _packed(cases, most_characters=5 * 2500)
    held = [case["id"] for case in data["cases"]]
    assert 5 <= len(held) < 12
    assert data["missing"] == {str(tmp_path / "prediction"): [f"c{n:02d}" for n in range(len(held), 12)]}
    used = sum(len(c["voxels"]) for case in data["cases"] for c in case["channels"])
    assert used < 1.2 * 5 * 2500
    assert len(_packed(cases)["cases"]) == 12


def test_a_case_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    image = np.zeros((1, 4, 20, 20), np.float32)
    good, bad = (_case(tmp_path, name, image, _label()) for name in ("good", "bad"))
    bad.images[0].write_bytes(b"no image")
    found = _packed([bad, good])["cases"]
    assert [len(case["channels"]) for case in found] == [0, 1]
    assert "bad_0000.nii.gz" in found[0]["notes"][0]


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a_0000.png")
    case = ViewedCase("a", (tmp_path / "a_0000.png",), {})
    data = pack_cases([case], LABELS, reader_by_name("NaturalImage2DIO"), ["R", "G", "B"])
    (packed,) = data["cases"]
    assert packed["flat"]
    assert packed["color"]
    stored = np.stack([_voxels(channel["voxels"])[0] for channel in packed["channels"]], axis=-1)
    np.testing.assert_array_equal(stored, pixels)


def test_classes_of_regions_have_the_names_of_their_regions() -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
    found = pack_cases([], labels, reader_by_name("NibabelIO"), ["MR"])["labels"]
    assert [(number, name) for number, name, _ in found] == [(1, "whole"), (2, "core")]


def test_the_worst_the_median_and_the_best_come_first() -> None:
    scores = {f"c{n}": n / 10 for n in range(8)} | {"lost": NAN}
    groups = {case: f"fold {n % 2}" for n, case in enumerate(scores)}
    order = ranked(scores, groups)
    assert list(itertools.islice(order.items(), 5)) == [
        ("c0", "worst"), ("c4", "median"), ("c7", "best"), ("c1", "second worst"), ("c2", "third worst"),
    ]  # fmt: skip
    assert order["c5"] == "median of fold 1"
    assert sorted(order) == sorted(scores)
    assert list(order)[-1] == "lost"
    assert ranked({"a": 0.5}) == {"a": "worst"}
    assert ranked({"a": NAN}) == {"a": ""}
    assert ranked({}) == {}
