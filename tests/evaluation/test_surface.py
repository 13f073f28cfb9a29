"""Surface distances: by hand, against a search over all pairs, and values of the published package."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from segflow.evaluation.surface import surface_distances
from segflow.evaluation.surface_area import cell_areas, cell_codes

SPACING = (3.0, 0.7, 1.1)
PACKAGE_3D = (4.455333882, 1.038414076, 0.799044494)
PACKAGE_2D = (7.962411695, 2.455303368, 0.460439540)


def _blob(seed: int, shape: tuple[int, ...], smooth: float = 1.5) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return noise > np.quantile(noise, 0.8)


def _elements(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Surface elements by their definition: corner by corner."""
    padded = np.pad(mask, 1)
    areas = cell_areas(spacing)
    points, weights = [], []
    for corner in np.ndindex(*(n + 1 for n in mask.shape)):
        cell = padded[tuple(slice(c, c + 2) for c in corner)]
        if cell.any() and not cell.all():
            points.append(np.array(corner) * spacing)
            weights.append(areas[int("".join("1" if v else "0" for v in cell.ravel()), 2)])
    return np.array(points), np.array(weights)


@pytest.mark.parametrize(("shape", "spacing"), [((6, 9, 8), SPACING), ((12, 11), (0.5, 2.0)), ((1, 9, 8), SPACING)])
def test_distances_agree_with_a_search_over_all_pairs(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    reference, prediction = _blob(1, shape), _blob(2, shape)
    found = surface_distances(reference, prediction, spacing)
    (a, area_a), (b, area_b) = _elements(reference, spacing), _elements(prediction, spacing)
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    np.testing.assert_allclose(found.reference, np.sort(there), atol=1e-9)
    np.testing.assert_allclose(found.prediction, np.sort(back), atol=1e-9)
    assert found.mean_mm() == pytest.approx(
        (np.average(there, weights=area_a) + np.average(back, weights=area_b)) / 2, abs=1e-9
    )
    near = area_a[there <= 1.2].sum() + area_b[back <= 1.2].sum()
    assert found.dice(1.2) == pytest.approx(near / (area_a.sum() + area_b.sum()), abs=1e-9)
    assert found.percentile_mm(100) == pytest.approx(max(there.max(), back.max()), abs=1e-9)


def test_values_of_the_published_package() -> None:
    """google-deepmind/surface-distance on the same masks, spacing (3, 0.7, 1.1) mm, tolerance 2 mm."""
    found = surface_distances(_blob(11, (9, 14, 12)), _blob(12, (9, 14, 12)), SPACING)
    assert found.percentile_mm(95) == pytest.approx(PACKAGE_3D[0], abs=1e-6)
    assert found.mean_mm() == pytest.approx(PACKAGE_3D[1], abs=1e-6)
    assert found.dice(2.0) == pytest.approx(PACKAGE_3D[2], abs=1e-6)
    flat = surface_distances(_blob(13, (20, 16)), _blob(14, (20, 16)), (0.6, 1.7))
    assert flat.percentile_mm(95) == pytest.approx(PACKAGE_2D[0], abs=1e-6)
    assert flat.mean_mm() == pytest.approx(PACKAGE_2D[1], abs=1e-6)
    assert flat.dice(2.0) == pytest.approx(PACKAGE_2D[2], abs=1e-6)


def test_two_voxels_in_anisotropic_space() -> None:
    reference, prediction = np.zeros((2, 9, 9, 9), bool)
    reference[2, 4, 4] = prediction[5, 4, 4] = True
    found = surface_distances(reference, prediction, SPACING)
    assert found.percentile_mm(100) == pytest.approx(9.0)  # 3 slices of 3 mm
    assert found.reference.min() == pytest.approx(6.0)  # between the facing corners
    assert found.dice(5.9) == 0
    assert found.dice(9.0) == 1


def test_equal_objects_lie_at_no_distance() -> None:
    mask = _blob(3, (7, 8, 9))
    found = surface_distances(mask, mask, SPACING)
    assert (found.percentile_mm(95), found.mean_mm(), found.dice(0.0)) == (0.0, 0.0, 1.0)


def test_cropping_to_what_both_fill_changes_nothing() -> None:
    reference, prediction = np.zeros((2, 20, 20, 20), bool)
    reference[5:9, 6:12, 7:11] = prediction[6:11, 6:11, 8:13] = True
    whole = surface_distances(reference, prediction, SPACING)
    part = np.s_[5:11, 6:12, 7:13]
    cropped = surface_distances(reference[part], prediction[part], SPACING)
    np.testing.assert_allclose(whole.reference, cropped.reference, atol=1e-12)
    np.testing.assert_allclose(np.sort(whole.prediction_areas), np.sort(cropped.prediction_areas))
    assert whole.dice(1.5) == pytest.approx(cropped.dice(1.5))


def test_what_is_empty() -> None:
    mask, empty = _blob(4, (5, 6, 7)), np.zeros((5, 6, 7), bool)
    one = surface_distances(mask, empty, SPACING)
    assert math.isinf(one.percentile_mm(95))
    assert math.isinf(one.mean_mm())
    assert one.dice(2.0) == 0
    none = surface_distances(empty, empty, SPACING)
    assert math.isnan(none.percentile_mm(95))
    assert math.isnan(none.mean_mm())
    assert math.isnan(none.dice(2.0))


def test_the_faces_of_a_large_box_have_their_area() -> None:
    box = np.ones((20, 30, 40), bool)
    codes = cell_codes(box)
    inner = codes[1:-1, 1:-1, 0]  # the face x = 0 without its rim
    assert np.unique(inner).size == 1
    assert cell_areas(SPACING)[inner].sum() == pytest.approx(19 * 29 * 3.0 * 0.7)


def test_surface_does_not_care_for_inside_and_outside_or_mirroring() -> None:
    areas = cell_areas((1.0, 1.0, 1.0))
    np.testing.assert_array_equal(areas, areas[::-1])
    assert (areas[1:255] > 0).all()
    mirrored = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    np.testing.assert_allclose(areas, areas[mirrored])
