"""A label map written as DICOM-SEG is the same for dcmqi, SimpleITK, highdicom and us, on every voxel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import volume, write_series
from dicom_labels import dcmqi_maps, labels_in, on_series, regions
from pydicom.sr.codedict import codes

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.storage.dicom.segment_codes import COMMON, SIDES, common_codes, segments_of
from segflow.storage.dicom.segmentation_write import MadeBy, write_segmentation
from segflow.storage.dicom.series import DicomSeries, find_series

MADE_BY = MadeBy("Dataset001_Abdomen", "1.2", "Organs of the abdomen")
PLAIN = regions(liver=1, kidney_left=2, tumour=5)
NESTED = regions(liver=[1, 2, 3], spleen=[2, 3], tumour=3)


@pytest.fixture(scope="session")
def dcmqi(test_data: Path) -> Path:
    """The examples of dcmqi."""
    folder = test_data / "dicom" / "dcmqi"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    return folder


@pytest.fixture
def series(tmp_path: Path) -> DicomSeries:
    """Six slices of 5 rows and 4 columns."""
    return only(write_series(tmp_path / "images", volume()))


def only(folder: Path) -> DicomSeries:
    (found,) = find_series(folder)
    return found


def drawn(series: DicomSeries, labels: Labels) -> np.ndarray:
    """A label map in which all labels occur, but not in all slices."""
    values = np.array(labels.all_labels, np.uint8)
    label = np.random.default_rng(7).choice(values, size=series.shape)
    label[1] = 0
    return label


def check(label: np.ndarray, labels: Labels, series: DicomSeries, file: Path) -> None:
    """All readers see the same segments."""
    segments = segments_of(labels)
    expected = [np.isin(label, segment.values) for segment in segments]
    read = labels_in(series, file)
    assert read.names == tuple(segment.name for segment in segments)
    np.testing.assert_array_equal(read.label_map(labels.entries), label)
    arrays = [on_series(image, series) for image in dcmqi_maps(file, file.parent / "dcmqi")]
    stored = highdicom.seg.segread(file)
    uids = list(dict.fromkeys(one.instance_uid for one in series.slices))
    by_highdicom = (
        stored.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
        if len(uids) > 1
        else stored.get_pixels_by_source_frame(
            uids[0], [one.frame + 1 for one in series.slices], assert_missing_frames_are_empty=True
        )
    )
    for number, mask in enumerate(expected, 1):
        np.testing.assert_array_equal(np.any([array == number for array in arrays], axis=0), mask)
        np.testing.assert_array_equal(by_highdicom[..., number - 1], mask)


def check_by_itk(label: np.ndarray, labels: Labels, series: DicomSeries, file: Path) -> None:
    """SimpleITK gives the frames of all segments one after another, without their meaning.

    It leaves the pixels of a last byte that is not full undefined.
    """
    segments, made = segments_of(labels), pydicom.dcmread(file)
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(file))) != 0
    places = [one.position for one in series.slices]
    expected = np.zeros(frames.shape, bool)
    for number, groups in enumerate(made.PerFrameFunctionalGroupsSequence):
        z = places.index(tuple(groups.PlanePositionSequence[0].ImagePositionPatient))
        segment = segments[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        expected[number] = np.isin(label[z], segment.values)
    whole = frames.size // 8 * 8
    np.testing.assert_array_equal(frames.ravel()[:whole], expected.ravel()[:whole])


@pytest.mark.parametrize("images", ["23x38x3/image", "23x38x3/multiframe", "24x38x3/image", "ct-3slice"])
@pytest.mark.parametrize("labels", [PLAIN, NESTED], ids=["labels", "regions"])
def test_every_voxel_is_the_same_for_all_readers(dcmqi: Path, tmp_path: Path, images: str, labels: Labels) -> None:
    found = only(dcmqi / images)
    label, file = drawn(found, labels), tmp_path / "seg.dcm"
    write_segmentation(label, segments_of(labels), found, MADE_BY, file)
    check(label, labels, found, file)
    check_by_itk(label, labels, found, file)


def test_the_labelmap_type_holds_what_does_not_overlap(series: DicomSeries, tmp_path: Path) -> None:
    label, file = drawn(series, PLAIN), tmp_path / "seg.dcm"
    write_segmentation(label, segments_of(PLAIN), series, MADE_BY, file, labelmap=True)
    assert pydicom.dcmread(file).SegmentationType == "LABELMAP"
    check(label, PLAIN, series, file)
    with pytest.raises(SegflowError, match="LABELMAP cannot hold regions, which overlap"):
        write_segmentation(drawn(series, NESTED), segments_of(NESTED), series, MADE_BY, file, labelmap=True)


@pytest.mark.parametrize("values", [[], [2]], ids=["all", "some"])
def test_segments_without_a_voxel_are_described_too(series: DicomSeries, tmp_path: Path, values: list[int]) -> None:
    label = np.zeros(series.shape, np.uint8)
    label[2, 1:3, 2] = values or 0
    write_segmentation(label, segments_of(PLAIN), series, MADE_BY, tmp_path / "seg.dcm")
    check(label, PLAIN, series, tmp_path / "seg.dcm")


def test_slices_in_any_order_and_orientation_keep_their_places(tmp_path: Path) -> None:
    def coronal(number: int, made: pydicom.Dataset) -> None:
        made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [0, 3.0 * number, 0]

    found = only(write_series(tmp_path / "images", volume(), coronal))
    label = drawn(found, PLAIN)
    write_segmentation(label, segments_of(PLAIN), found, MADE_BY, tmp_path / "seg.dcm")
    check(label, PLAIN, found, tmp_path / "seg.dcm")


def test_the_file_says_what_it_was_made_from_and_by(series: DicomSeries, tmp_path: Path) -> None:
    labels = regions(**{"kidney_left": 1, "Leberläsion": 2})
    code = {"CodeValue": "52988006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lesion"}
    own = {"Leberläsion": {"SegmentedPropertyCategoryCodeSequence": code, "SegmentedPropertyTypeCodeSequence": code}}
    write_segmentation(drawn(series, labels), segments_of(labels, own), series, MADE_BY, tmp_path / "seg.dcm")
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert made.Modality == "SEG"
    assert made.SeriesDescription == "Organs of the abdomen"
    assert (made.StudyInstanceUID, made.FrameOfReferenceUID) == (series.study_uid, series.frame_of_reference)
    assert made.SeriesInstanceUID != series.series_uid
    assert made.PatientID == series.patient_id
    (reference,) = made.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == series.series_uid
    assert {one.ReferencedSOPInstanceUID for one in reference.ReferencedInstanceSequence} == {
        one.instance_uid for one in series.slices
    }
    kidney, lesion = made.SegmentSequence
    assert lesion.SegmentLabel == "Leberläsion"
    assert lesion.SegmentAlgorithmType == "AUTOMATIC"
    assert kidney.SegmentAlgorithmName == "segflow Dataset001_Abdomen"
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Kidney"
    assert (
        kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    )
    algorithm = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("segflow Dataset001_Abdomen", "1.2")


def test_codes_are_those_of_snomed_in_pydicom_s_dictionary() -> None:
    known = {getattr(codes.SCT, name).value: name for name in codes.SCT.dir()}
    named: dict[str, set[str]] = {}
    for name in codes.SCT.dir():
        named.setdefault(getattr(codes.SCT, name).value, set()).add(getattr(codes.SCT, name).meaning.casefold())
    wanted = [(value, meaning) for table in COMMON.values() for value, meaning in table.values()]
    wanted += [(code.value, code.meaning) for code in (*COMMON, *SIDES.values())]
    wrong = [pair for pair in wanted if pair[0] not in known or pair[1].casefold() not in named[pair[0]]]
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("Liver", "Liver", None),
        ("kidney_right", "Kidney", "Right"),
        ("left kidney", "Kidney", "Left"),
        ("kidneys", "Kidney", None),
        ("heart_atrium_left", None, None),
        ("left_atrium", "Left atrium", None),
        ("vertebrae_L3", "L3 vertebra", None),
        ("lung_upper_lobe_left", "Upper lobe of lung", "Left"),
        ("tumour", "Neoplasm", None),
        ("Hippocampus", "Hippocampus", None),
        ("RV", "Right ventricle", None),
        ("Anterior", None, None),
    ],
)
def test_common_names_have_codes(name: str, meaning: str | None, side: str | None) -> None:
    found = common_codes(name)
    assert (found[1].meaning if found else None) == meaning
    assert (found[2].meaning if found and found[2] else None) == side


def test_a_label_without_a_code_is_told_what_to_write() -> None:
    with pytest.raises(
        SegflowError, match=r"none for some; found Anterior, thing\. Write them.*segment_codes.*CodeValue"
    ):
        segments_of(regions(Anterior=1, liver=2, thing=3))


@pytest.mark.parametrize(
    "entry",
    [
        "10200004",
        {"SegmentedPropertyTypeCodeSequence": {}},
        {"SegmentedPropertyCategoryCodeSequence": [], "SegmentedPropertyTypeCodeSequence": 5},
        {
            "SegmentedPropertyCategoryCodeSequence": {"CodeValue": "1"},
            "SegmentedPropertyTypeCodeSequence": {
                "CodeValue": "1",
                "CodingSchemeDesignator": "X" * 17,
                "CodeMeaning": "Y",
            },
        },
    ],
)
def test_codes_of_another_form_are_refused(entry: Any) -> None:
    with pytest.raises(SegflowError, match="of label 'liver' cannot be used"):
        segments_of(regions(liver=1), {"liver": entry})
    with pytest.raises(SegflowError, match="must map names of labels"):
        segments_of(regions(liver=1), entry if not isinstance(entry, dict) else [entry])


def test_what_no_file_can_refer_to_is_refused(tmp_path: Path, series: DicomSeries) -> None:
    segments, file = segments_of(PLAIN), tmp_path / "seg.dcm"
    with pytest.raises(SegflowError, match=r"another size than series 'Abdomen'.*found z, y, x = \(7, 5, 4\)"):
        write_segmentation(np.zeros((7, 5, 4), np.uint8), segments, series, MADE_BY, file)
    bare = only(write_series(tmp_path / "bare", volume(), FrameOfReferenceUID=None))
    with pytest.raises(SegflowError, match="lacks FrameOfReferenceUID, to which a DICOM-SEG refers"):
        write_segmentation(np.zeros(bare.shape, np.uint8), segments, bare, MADE_BY, file)
    assert not file.exists()


def test_without_highdicom_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, series: DicomSeries
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(SegflowError, match=r"needs highdicom. Install it: pip install 'segflow\[dicom\]'"):
        write_segmentation(np.zeros(series.shape, np.uint8), segments_of(PLAIN), series, MADE_BY, tmp_path / "a")
