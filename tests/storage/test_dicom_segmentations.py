"""DICOM-SEG becomes a label map on the grid of its series, as dcmqi reads it; what does not fit is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import save, volume, write_series
from dicom_labels import labels_in, on_series, segmentation

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.storage.dicom.label_objects import objects_of, read_label_object
from segflow.storage.dicom.name_map import label_of_names, labels_with_overlap, labels_without_overlap, painting_order
from segflow.storage.dicom.series import DicomSeries, find_series

EXAMPLES = {
    "ct-3slice": ("liver.dcm", ["liver_seg.nrrd"]),
    "23x38x3/image": ("23x38x3/seg/label.seg", ["23x38x3/nrrd/label.nrrd"]),
    "23x38x3/multiframe": ("23x38x3/seg/label.seg", ["23x38x3/nrrd/label.nrrd"]),
    "24x38x3/image": ("24x38x3/seg/label.seg", ["24x38x3/nrrd/label.nrrd"]),
}
SPARSE = ("24x38x3/image", "sparse-labelmap-noppv.dcm", ["sparse_labelmap_noppv_seg.nrrd"])
OVERLAPPING = ("ct-3slice", "partial_overlaps.dcm", [f"partial_overlaps-{k}.nrrd" for k in (1, 2, 3)])


@pytest.fixture(scope="session")
def dcmqi(test_data: Path) -> Path:
    """The examples of dcmqi."""
    folder = test_data / "dicom" / "dcmqi"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    return folder


@pytest.fixture
def series(tmp_path: Path) -> DicomSeries:
    """Six slices of 5 rows and 4 columns: 2.5 × 0.8 × 0.5 mm, the first voxel at -10, 20, 100."""
    return only(write_series(tmp_path / "images", volume()))


def only(folder: Path) -> DicomSeries:
    (found,) = find_series(folder)
    return found


@pytest.mark.parametrize(
    ("images", "file", "maps"), [(key, *value) for key, value in EXAMPLES.items()] + [SPARSE, OVERLAPPING]
)
def test_examples_of_dcmqi_are_as_their_label_maps_say(dcmqi: Path, images: str, file: str, maps: list[str]) -> None:
    found = only(dcmqi / images)
    read = labels_in(found, dcmqi / file)
    expected = np.stack([on_series(sitk.ReadImage(str(dcmqi / name)), found) for name in maps])
    assert expected.any()
    for number, name in enumerate(read.names, 1):
        members = np.array([name in names for names in read.sets])
        np.testing.assert_array_equal(members[read.numbers], (expected == number).any(axis=0), err_msg=name)


def test_segments_that_overlap_are_refused_with_both_names_or_become_regions(dcmqi: Path) -> None:
    found = only(dcmqi / OVERLAPPING[0])
    read = labels_in(found, dcmqi / OVERLAPPING[1])
    with pytest.raises(
        SegflowError, match=r"'GREEN' and 'ORANGE' overlap; found 2989 voxels in both.*overlaps=regions"
    ):
        read.label_map(labels_without_overlap(read.names))
    labels = labels_with_overlap(read.names, read.sets)
    label = read.label_map(labels)
    for name in read.names:
        members = np.array([name in names for names in read.sets])
        values = labels[name]
        np.testing.assert_array_equal(np.isin(label, values), members[read.numbers])
    assert labels["DARK_BLUE"] == 5
    definition = Labels.from_json(
        {name: list(key) if isinstance(key, tuple) else key for name, key in labels.items()}, painting_order(labels)
    )
    definition.check_painting()
    assert definition.regions == tuple((key,) if isinstance(key, int) else key for key in [*labels.values()][1:])
    assert len(np.unique(label)) == 10


def test_regions_within_each_other_need_no_order_and_others_have_one() -> None:
    liver, tumour, vessel = "liver", "tumour", "vessel"
    nested = labels_with_overlap([tumour, liver], [frozenset({liver}), frozenset({liver, tumour})])
    assert nested == {"background": 0, "liver": (1, 2), "tumour": 2}
    assert painting_order(nested) is None
    crossing = labels_with_overlap(
        [liver, tumour, vessel],
        [frozenset({liver}), frozenset({liver, tumour}), frozenset({vessel}), frozenset({liver, vessel})],
    )
    assert crossing == {"background": 0, "liver": (1, 3, 4), "vessel": (2, 4), "tumour": 3}
    assert painting_order(crossing) == [1, 2, 3]


def test_labels_of_a_user_say_what_an_overlap_means(series: DicomSeries, tmp_path: Path) -> None:
    liver, tumour = np.zeros((5, 4)), np.zeros((5, 4))
    liver[1:4], tumour[2, 1:3] = 1, 1
    place = (-10.0, 20.0, 105.0)
    file = save(segmentation(series, ["Liver", "Tumour"], [(1, place, liver), (2, place, tumour)]), tmp_path / "a")
    read = labels_in(series, file, names={"liver": "liver", "tumour": ["GTV*", "tumour"]})
    label = read.label_map({"background": 0, "liver": [1, 2], "tumour": 2})
    np.testing.assert_array_equal(label[2], liver + tumour)
    assert label.sum() == label[2].sum()
    np.testing.assert_array_equal(read.label_map({"tumour": 7})[2], 7 * tumour)
    with pytest.raises(SegflowError, match="no label stands for 'liver' alone; found 10 voxels"):
        read.label_map({"background": 0, "liver": [2], "tumour": 2})
    assert label_of_names({"liver": [1, 2], "tumour": 2}) == {
        frozenset(["liver"]): 1,
        frozenset(["liver", "tumour"]): 2,
    }


def test_a_frame_may_run_along_any_axes_of_the_series(series: DicomSeries, tmp_path: Path) -> None:
    wanted = np.random.default_rng(0).random(series.shape) < 0.4
    sagittal = [(1, (-10.0 + 0.5 * x, 20.0 + 0.8 * 4, 100.0), wanted[:, ::-1, x]) for x in range(4)]
    made = segmentation(series, ["Liver"], sagittal, orientation=(0, -1, 0, 0, 0, 1), spacing=(2.5, 0.8))
    np.testing.assert_array_equal(labels_in(series, save(made, tmp_path / "a")).numbers, wanted)


def test_a_fractional_segment_counts_from_more_than_half_on(series: DicomSeries, tmp_path: Path) -> None:
    values = np.arange(20).reshape(5, 4) * 10
    file = save(segmentation(series, ["Liver"], [(1, (-10, 20, 100), values)], kind="FRACTIONAL"), tmp_path / "a")
    np.testing.assert_array_equal(labels_in(series, file).numbers[0], values > 100)


def test_several_files_are_read_together_and_segments_of_one_name_united(series: DicomSeries, tmp_path: Path) -> None:
    one, other = np.zeros((5, 4)), np.zeros((5, 4))
    one[0], other[4] = 1, 1
    place = (-10.0, 20.0, 100.0)
    a = save(segmentation(series, ["Lesion", "Lesion"], [(1, place, one), (2, place, other)]), tmp_path / "a")
    b = save(segmentation(series, ["Bone", "Empty"], [(1, (-10, 20, 102.5), one)]), tmp_path / "b")
    read = labels_in(series, a, b)
    assert read.names == ("Lesion", "Bone", "Empty")
    label = read.label_map(labels_without_overlap(read.names))
    np.testing.assert_array_equal(label[0], one + other)
    np.testing.assert_array_equal(label[1], 2 * one)


def test_objects_belong_to_the_series_they_refer_to_else_to_their_frame_of_reference(
    series: DicomSeries, tmp_path: Path
) -> None:
    made = segmentation(series, ["Liver"], [(1, (-10, 20, 100), np.ones((5, 4)))])
    one = read_label_object(save(made, tmp_path / "a"))
    assert objects_of([series], [one], {series.series_uid}) == [one]
    made.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.9.9"
    other = read_label_object(save(made, tmp_path / "b"))
    assert objects_of([series], [other], {series.series_uid, "1.9.9"}) == []
    assert objects_of([series], [other], {series.series_uid}) == [other]
    made.PatientID = "P2"
    assert objects_of([series], [read_label_object(save(made, tmp_path / "c"))], {series.series_uid}) == []


def _frame_of_reference(made: pydicom.Dataset) -> None:
    made.FrameOfReferenceUID = made.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.9.9"


def _nothing(made: pydicom.Dataset) -> None:
    made.FrameOfReferenceUID = ""
    made.ReferencedSeriesSequence = []


def _moved(made: pydicom.Dataset) -> None:
    made.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-10.2, 20, 100]


def _above(made: pydicom.Dataset) -> None:
    made.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-10, 20, 115]


def _coarse(made: pydicom.Dataset) -> None:
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.8, 1.0]


def _oblique(made: pydicom.Dataset) -> None:
    made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [0.6, 0.8, 0, 0, 0, 1]


def _no_place(made: pydicom.Dataset) -> None:
    del made.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def _not_a_number(made: pydicom.Dataset) -> None:
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [float("nan"), 1]


def _other_segment(made: pydicom.Dataset) -> None:
    made.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def _type(made: pydicom.Dataset) -> None:
    made.SegmentationType = "VOXELS"


def _no_segment(made: pydicom.Dataset) -> None:
    made.SegmentSequence = []


def _frames(made: pydicom.Dataset) -> None:
    made.NumberOfFrames = 5


def _cut(made: pydicom.Dataset) -> None:
    made.PixelData = made.PixelData[:2]


def _giant(made: pydicom.Dataset) -> None:
    made.Rows = made.Columns = 60000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_frame_of_reference, r"belongs to other images than series 'Abdomen'"),
        (_nothing, "refers to no images"),
        (_moved, r"frame 1: a segment's frame lies on another grid than the series; found first pixel at voxel .*-0.4"),
        (_above, r"frame 1: a segment lies outside its series; found 20 of 20 pixels"),
        (_coarse, r"another grid than the series.*a column is \[2.0, 0.0, 0.0\] voxels"),
        (_oblique, "another grid than the series"),
        (_no_place, "frame 1: the frame has no PlanePositionSequence"),
        (_not_a_number, "PixelSpacing cannot be used|cannot read"),
        (_other_segment, "a segment that is not described; found 9"),
        (_type, "the type of the segmentation is unknown; found VOXELS"),
        (_no_segment, "describes no segment"),
        (_frames, "the number of frames is unclear"),
        (_cut, "the pixels cannot be read; found 2 bytes; expected 3 bytes"),
        (_giant, "another size than the series; found 60000 rows"),
    ],
)
def test_what_does_not_fit_is_refused(series: DicomSeries, tmp_path: Path, change: object, message: str) -> None:
    made = segmentation(series, ["Liver"], [(1, (-10, 20, 100), np.ones((5, 4)))])
    change(made)  # type: ignore[operator]
    with pytest.raises(SegflowError, match=message):
        labels_in(series, save(made, tmp_path / "bad.dcm"))


def test_another_frame_of_reference_is_refused_although_the_series_is_referred_to(
    series: DicomSeries, tmp_path: Path
) -> None:
    made = segmentation(series, ["Liver"], [(1, (-10, 20, 100), np.ones((5, 4)))])
    made.FrameOfReferenceUID = "1.9.9"
    with pytest.raises(SegflowError, match="another frame of reference than the series"):
        labels_in(series, save(made, tmp_path / "bad.dcm"))


def test_names_that_are_not_there_or_ambiguous_are_told(
    series: DicomSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = save(segmentation(series, ["GTV_1"], [(1, (-10, 20, 100), np.ones((5, 4)))]), tmp_path / "a")
    read = labels_in(series, file, names={"tumour": "gtv*", "liver": "Liver"})
    assert read.names == ("tumour",)
    assert "has no segment 'liver' (it has GTV_1)" in caplog.text
    with pytest.raises(SegflowError, match=r"nothing labels series 'Abdomen'.*found segments GTV_1; expected liver"):
        labels_in(series, file, names={"liver": "Liver"})
    with pytest.raises(SegflowError, match=r"expected liver \(hepar\*, foie\)"):
        labels_in(series, file, names={"liver": ["hepar*", "foie", "Liver"]})
    with pytest.raises(SegflowError, match="'GTV_1' fits two names; found tumour, lesion"):
        labels_in(series, file, names={"tumour": "gtv*", "lesion": "GTV 1"})
    with pytest.raises(SegflowError, match="no DICOM-SEG and no RTSTRUCT"):
        labels_in(series)


def test_a_file_without_labels_is_refused(series: DicomSeries, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="the file holds no labels; found modality CT"):
        read_label_object(series.files[0])
    (tmp_path / "noise").write_bytes(np.random.default_rng(1).bytes(4000))
    with pytest.raises(SegflowError, match="noise"):
        read_label_object(tmp_path / "noise")
    with pytest.raises(SegflowError, match="missing"):
        read_label_object(tmp_path / "missing")


def test_damaged_files_are_refused_or_read(series: DicomSeries, tmp_path: Path) -> None:
    frames = [(1, (-10.0, 20.0, 100.0), np.ones((5, 4))), (2, (-10.0, 20.0, 102.5), np.ones((5, 4)))]
    rng, file = np.random.default_rng(5), tmp_path / "seg.dcm"
    for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
        content = save(segmentation(series, ["Liver", "Spleen"], frames, kind=kind), file).read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in rng.integers(132, len(content), 4):
                damaged[place] = rng.integers(256)
            file.write_bytes(bytes(damaged[: rng.integers(200, len(content))] if rng.random() < 0.3 else damaged))
            with contextlib.suppress(SegflowError):  # any other error is a failure
                labels_in(series, file)


def test_the_same_name_in_several_deflated_files_is_united_and_told(
    series: DicomSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = []
    for row in (1, 3):
        mask = np.zeros((5, 4), bool)
        mask[row] = True
        made = segmentation(series, ["Liver"], [(1, (-10, 20, 105), mask)])
        made.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        files.append(save(made, tmp_path / f"reader{row}.dcm"))
    label = labels_in(series, *files).label_map({"background": 0, "Liver": 1})
    assert np.argwhere(label).tolist() == [[2, row, column] for row in (1, 3) for column in range(4)]
    assert "has 'Liver' in 2 files, which are united: reader1.dcm, reader3.dcm" in caplog.text
