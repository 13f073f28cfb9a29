"""Contours of an RTSTRUCT become masks of the right volume; what encloses nothing is refused."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import save, write_series
from dicom_labels import labels_in, structures
from skimage.measure import find_contours

from segflow.core.errors import SegflowError
from segflow.storage.dicom.rtstruct_read import inside_polygons
from segflow.storage.dicom.series import DicomSeries, find_series

SHAPE = (40, 48, 64)
SPACING = (2.5, 0.8, 0.5)
ORIGIN = (-10.0, 20.0, 100.0)
MIDDLE = (16.17, 19.41)
SQUARE = np.array([[0.5, 0.5], [3.5, 0.5], [3.5, 2.5], [0.5, 2.5]])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> DicomSeries:
    """40 slices of 48 rows and 64 columns: 100 × 38.4 × 32 mm."""
    (found,) = find_series(write_series(tmp_path_factory.mktemp("images"), np.zeros(SHAPE, np.int16)))
    return found


def in_mm(points: np.ndarray, z: float) -> np.ndarray:
    """Contour points (N, 3) in mm from x, y in voxels."""
    return np.column_stack([points * SPACING[:0:-1] + ORIGIN[:2], np.full(len(points), ORIGIN[2] + SPACING[0] * z)])


def circle(radius: float, count: int = 360) -> np.ndarray:
    """x, y in mm (N, 2) around the middle of a slice."""
    angle = np.linspace(0, 2 * math.pi, count, endpoint=False)
    middle = np.array(ORIGIN[:2]) + MIDDLE
    return middle + radius * np.column_stack([np.cos(angle), np.sin(angle)])


def at(points: np.ndarray, z: int) -> np.ndarray:
    return np.column_stack([points, np.full(len(points), ORIGIN[2] + SPACING[0] * z)])


def test_the_volume_of_a_sphere_and_a_ring_is_known(series: DicomSeries, tmp_path: Path) -> None:
    radius, inner, outer = 15.0, 6.0, 12.0
    heights = {z: (z - 20) * SPACING[0] for z in range(SHAPE[0])}
    sphere = [at(circle(math.sqrt(radius**2 - h**2)), z) for z, h in heights.items() if abs(h) < radius]
    slices = range(10, 30)
    ring = [at(circle(size), z) for z in slices for size in (outer, inner)]
    keyhole = [
        at(np.vstack([circle(outer), circle(outer)[:1], circle(inner)[:1], circle(inner)[::-1]]), z) for z in slices
    ]
    file = save(structures(series, {"sphere": sphere, "ring": ring, "keyhole": keyhole}), tmp_path / "rt")
    voxel = math.prod(SPACING)
    masks = {}
    for name in ("sphere", "ring", "keyhole"):
        masks[name] = labels_in(series, file, names={name: name}).numbers == 1
    assert masks["sphere"].sum() * voxel == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.01)
    assert masks["ring"].sum() * voxel == pytest.approx(math.pi * (outer**2 - inner**2) * 20 * SPACING[0], rel=0.003)
    np.testing.assert_array_equal(masks["keyhole"], masks["ring"])
    y, x = np.indices(SHAPE[1:])
    place = np.stack([x * SPACING[2], y * SPACING[1]], axis=-1) - MIDDLE
    np.testing.assert_array_equal(masks["sphere"][20], np.linalg.norm(place, axis=-1) < radius - 1e-3)


def test_a_mask_comes_back_from_its_contours(series: DicomSeries, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    coarse = rng.random((5, 12, 16)) < 0.5  # holes, several parts, corners that touch
    mask = np.zeros(SHAPE, bool)
    mask[4:14] = coarse.repeat(2, axis=0).repeat(4, axis=1).repeat(4, axis=2)
    contours = [
        in_mm(found[:-1, ::-1] - 1, z)
        for z in range(SHAPE[0])
        for found in find_contours(np.pad(mask[z], 1).astype(float), 0.5)
    ]
    file = save(structures(series, {"organ": contours}), tmp_path / "rt")
    np.testing.assert_array_equal(labels_in(series, file).numbers, mask)


def test_slices_between_contours_stay_empty(
    series: DicomSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = save(structures(series, {"organ": [in_mm(SQUARE, 3), in_mm(SQUARE, 5)]}), tmp_path / "rt")
    found = labels_in(series, file).numbers
    assert found.sum(axis=(1, 2)).nonzero()[0].tolist() == [3, 5]
    assert (found[3, 1:3, 1:4] == 1).all()
    assert "structure 'organ' has no contour on slices between others: 4 (from 0)" in caplog.text


def test_a_contour_that_leaves_the_slice_is_cut_off() -> None:
    inside = inside_polygons([np.array([[-5, -5], [1.5, -5], [1.5, 90], [-5, 90.0]])], 4, 5)
    np.testing.assert_array_equal(inside, [[True, True, False, False, False]] * 4)
    beyond = inside_polygons([np.array([[1.5, 1.5], [9, 1.5], [9, 2.5], [1.5, 2.5]])], 4, 5)
    assert beyond.sum() == 3
    assert beyond[2, 2:].all()


def test_polygons_with_a_common_edge_through_centres_share_no_voxel_and_leave_none_out() -> None:
    left, right = np.array([[0, 0], [3, 0], [3, 4], [0, 4.0]]), np.array([[3, 0], [6, 0], [6, 4], [3, 4.0]])
    masks = [inside_polygons([one], 6, 8) for one in (left, right)]
    assert not (masks[0] & masks[1]).any()
    np.testing.assert_array_equal(masks[0] | masks[1], inside_polygons([left, right], 6, 8))
    assert (masks[0] | masks[1])[:4, :6].all()


def test_structures_that_overlap_are_told_apart(series: DicomSeries, tmp_path: Path) -> None:
    inner = np.array([[0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [0.5, 1.5]])
    made = structures(series, {"liver": [in_mm(SQUARE, 2)], "GTV": [in_mm(inner, 2)], "empty": []})
    read = labels_in(series, save(made, tmp_path / "rt"))
    assert read.names == ("liver", "GTV", "empty")
    label = read.label_map({"background": 0, "liver": [1, 2], "GTV": 2, "empty": 3})
    assert np.bincount(label.ravel()).tolist()[1:] == [5, 1]


def test_markers_are_left_out_unless_they_are_asked_for(
    series: DicomSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = structures(series, {"organ": [in_mm(SQUARE, 2)], "isocentre": [in_mm(SQUARE[:1], 2)]})
    made.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    file = save(made, tmp_path / "rt")
    assert labels_in(series, file).names == ("organ",)
    assert "structure 'isocentre' has no closed contour (POINT)" in caplog.text
    with pytest.raises(SegflowError, match="'isocentre': contour 1: the contour encloses nothing; found POINT"):
        labels_in(series, file, names={"iso": "isocentre"})


def _contour(made: pydicom.Dataset) -> pydicom.Dataset:
    return made.ROIContourSequence[0].ContourSequence[0]


def _open(made: pydicom.Dataset) -> None:
    other = pydicom.Dataset()
    other.ContourGeometricType, other.ContourData = "OPEN_PLANAR", _contour(made).ContourData
    made.ROIContourSequence[0].ContourSequence.append(other)


def _two_points(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = _contour(made).ContourData[:6]


def _half_point(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = _contour(made).ContourData[:-1]


def _between(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = list(np.ravel(in_mm(SQUARE, 2.5)))


def _above(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = list(np.ravel(in_mm(SQUARE, 40)))


def _tilted(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = list(np.ravel(in_mm(SQUARE, 3) + [[0, 0, 0], [0, 0, 2.5], [0, 0, 5], [0, 0, 0]]))


def _reference(made: pydicom.Dataset) -> None:
    del made.ReferencedFrameOfReferenceSequence
    made.FrameOfReferenceUID = ""


def _other_series(made: pydicom.Dataset) -> None:
    made.FrameOfReferenceUID = "1.9"
    made.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.9"
    study = made.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.8"


def _other_frame(made: pydicom.Dataset) -> None:
    made.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.9"


def _no_structure(made: pydicom.Dataset) -> None:
    made.StructureSetROISequence = []


def _twice(made: pydicom.Dataset) -> None:
    made.StructureSetROISequence.append(made.StructureSetROISequence[0])


def _huge(made: pydicom.Dataset) -> None:
    _contour(made).ContourData = ["1e300"] * 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_open, r"'organ': contour 2: the contour encloses nothing; found OPEN_PLANAR; expected CLOSED_PLANAR"),
        (_two_points, "found 2 points; expected 3 points or more"),
        (_half_point, "found 3.66667 points"),
        (_between, r"lies on none of the series' slices; found slice 2.50 \(from 0\); expected a whole number"),
        (_above, "lies on none of the series' slices; found slice 40.00"),
        (_tilted, "does not lie within a slice of the series; found it reaches from slice 3.00 to 5.00"),
        (_reference, "refers to no images"),
        (_other_series, "belongs to other images than series 'Abdomen'.*found series 1.8, frame of reference 1.9"),
        (_other_frame, "structure 'organ': the positions are of another frame of reference"),
        (_no_structure, "describes no structure"),
        (_twice, "two structures have the same number"),
        (_huge, "contour 1: the contour|cannot read"),
    ],
)
def test_what_encloses_nothing_is_refused(series: DicomSeries, tmp_path: Path, change: object, message: str) -> None:
    made = structures(series, {"organ": [in_mm(SQUARE, 2)]})
    change(made)  # type: ignore[operator]
    with pytest.raises(SegflowError, match=message):
        labels_in(series, save(made, tmp_path / "rt"))


def test_damaged_files_are_refused_or_read(series: DicomSeries, tmp_path: Path) -> None:
    whole = save(structures(series, {"organ": [in_mm(SQUARE, 2)], "two": [in_mm(SQUARE, 3)]}), tmp_path / "rt")
    content, rng = whole.read_bytes(), np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(132, len(content), 4):
            damaged[place] = rng.integers(256)
        whole.write_bytes(bytes(damaged[: rng.integers(200, len(content))] if rng.random() < 0.3 else damaged))
        with contextlib.suppress(SegflowError):  # any other error is a failure
            labels_in(series, whole)
