"""Series of DICOM images are found by content, sorted by place and read as ITK reads them; defects are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import AXIAL, plain, save, volume, write_series
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from segflow.core.errors import SegflowError
from segflow.storage.dicom.read_series import read_series, read_slices
from segflow.storage.dicom.series import DicomSeries, find_series, read_tree
from segflow.storage.image_formats.placement import affine_of


@pytest.fixture(scope="session")
def dicom(test_data: Path) -> Path:
    """The real DICOM files."""
    folder = test_data / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    return folder


def only(folder: Path) -> DicomSeries:
    (series,) = find_series(folder)
    return series


def refused(folder: Path) -> str:
    with pytest.raises(SegflowError) as caught:
        read_series(only(folder))
    return str(caught.value)


@pytest.mark.parametrize("name", ["ct_series", "mr_series", "dcmqi/23x38x3/image", "dcmqi/23x38x3/multiframe"])
def test_real_series_are_as_itk_reads_them(dicom: Path, name: str) -> None:
    series = only(dicom / name)
    voxels, geometry = read_series(series)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in series.files])
    image = reader.Execute() if len(series.files) > 1 else sitk.ReadImage(str(series.files[0]))
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(image))
    assert voxels.dtype == np.int16
    for key, value in (
        ("spacing", image.GetSpacing()),
        ("origin", image.GetOrigin()),
        ("direction", image.GetDirection()),
    ):
        np.testing.assert_allclose(geometry.header[key], value, atol=1e-6)


def test_a_series_and_its_labels_share_the_patient_s_space(dicom: Path) -> None:
    voxels, geometry = read_series(only(dicom / "ct_series"))
    labels = nibabel.load(dicom / "ct_series_labels.nii.gz")
    to_image = np.linalg.inv(affine_of(geometry)) @ labels.affine
    corners = to_image @ np.array([[0, 0, 0, 1], [n - 1 for n in labels.shape] + [1]], dtype=float).T
    np.testing.assert_allclose(
        np.sort(corners[:3].T, axis=0), [[0, 0, 0], [n - 1 for n in voxels.shape[::-1]]], atol=1e-3
    )


def test_padding_of_a_real_ct_is_air(dicom: Path) -> None:
    series = only(dicom / "dcmqi/ct-3slice")
    voxels, _ = read_series(series)
    stored = np.stack([pydicom.dcmread(file).pixel_array for file in series.files]).astype(int)
    assert (stored == -2000).any()
    np.testing.assert_array_equal(voxels, np.where(stored == -2000, stored[stored != -2000].min(), stored) - 1024)


def test_slices_are_sorted_by_place_and_spaced_by_it(tmp_path: Path) -> None:
    voxels, geometry = read_series(only(write_series(tmp_path, volume())))
    np.testing.assert_array_equal(voxels, volume())
    assert geometry.spacing == (2.5, 0.8, 0.5)
    assert geometry.header["origin"] == [-10, 20, 100]


def test_slices_of_any_orientation_follow_their_normal(tmp_path: Path) -> None:
    def coronal(number: int, made: Dataset) -> None:
        made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [0, 3.0 * number, 0]

    voxels, geometry = read_series(only(write_series(tmp_path, volume(), coronal)))
    np.testing.assert_array_equal(voxels, volume())
    assert geometry.spacing == (3.0, 0.8, 0.5)
    np.testing.assert_array_equal(np.reshape(geometry.header["direction"], (3, 3))[:, 2], [0, 1, 0])


def test_rescaling_differs_between_slices(tmp_path: Path) -> None:
    def scaled(number: int, made: Dataset) -> None:
        made.RescaleSlope, made.RescaleIntercept = number + 0.5, -number

    voxels, _ = read_series(only(write_series(tmp_path, volume(), scaled, Modality="PT")))
    k = np.arange(6).reshape(6, 1, 1)
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, volume() * (k + 0.5) - k, rtol=1e-6)


def test_unsigned_values_and_those_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    stored = volume(lowest=0).astype(np.uint16) + 65000
    voxels, _ = read_series(
        only(write_series(tmp_path, stored, PixelRepresentation=0, RescaleIntercept=-1, RescaleSlope=1))
    )
    np.testing.assert_array_equal(voxels, stored.astype(int) - 1)


def test_bits_that_are_no_part_of_the_value_are_cut_off(tmp_path: Path) -> None:
    stored = (volume(lowest=-300).astype(np.int32) & 0xFFF | 0x5000).astype(np.uint16)  # an overlay in the upper bits
    voxels, _ = read_series(only(write_series(tmp_path, stored, BitsStored=12, HighBit=11)))
    np.testing.assert_array_equal(voxels, volume(lowest=-300))


@pytest.mark.parametrize(("modality", "outside"), [("CT", -1024), ("MR", 0)])
def test_padding_is_no_measurement(tmp_path: Path, modality: str, outside: int) -> None:
    stored = np.maximum(volume(), -1024)
    stored[0, 0, :2] = stored[3] = -2000
    stored[5, 4, 3] = -1024
    made = write_series(tmp_path, stored, Modality=modality)
    for file in made.iterdir():  # as some scanners write it: as positive, of the same bits
        dataset = pydicom.dcmread(file)
        dataset.add_new("PixelPaddingValue", "US", 63536)
        dataset.save_as(file)
    voxels, _ = read_series(only(made))
    np.testing.assert_array_equal(voxels, np.where(stored == -2000, outside, stored))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    voxels = volume((3, 38, 23))

    def stored(number: int, made: Dataset) -> None:
        if syntax == RLELossless:
            made.compress(RLELossless, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            made.PixelData = voxels[number].astype(">i2").tobytes()
        made.file_meta.TransferSyntaxUID = syntax

    write_series(tmp_path, voxels, stored)
    np.testing.assert_array_equal(read_series(only(tmp_path))[0], voxels)


def test_several_patients_and_series_are_told_apart_in_any_nesting(tmp_path: Path) -> None:
    write_series(tmp_path / "one", volume())
    write_series(tmp_path / "a/b/c", volume(), PatientID="P2", StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1")
    write_series(tmp_path / "one", volume()[:, ::-1] + 1, lambda k, made: setattr(made, "InstanceNumber", k))
    write_series(tmp_path / "late", volume(), SeriesInstanceUID="1.2.3.9", SeriesDescription="Late")
    (tmp_path / "notes.dcm").write_text("not DICOM")
    (tmp_path / ".hidden").write_bytes((tmp_path / "late/000").read_bytes())
    save(plain(0, SOPClassUID="1.2.840.10008.1.3.10"), tmp_path / "DICOMDIR")
    save(plain(0, Modality="SEG"), tmp_path / "a" / "seg")
    (tmp_path / "broken").write_bytes((tmp_path / "late/000").read_bytes()[:200] + b"\xff" * 40)
    tree = read_tree(tmp_path)
    assert [(one.patient_id, one.description, one.shape) for one in tree.series] == [
        ("P1", "Abdomen", (6, 5, 4)),
        ("P1", "Late", (6, 5, 4)),
        ("P2", "Abdomen", (6, 5, 4)),
    ]
    assert [one.file.name for one in tree.objects if one.modality == "SEG"] == ["seg"]
    assert tree.others >= 1


def test_files_without_preamble_are_found(tmp_path: Path) -> None:
    write_series(tmp_path, volume())
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[132:])
    np.testing.assert_array_equal(read_series(only(tmp_path))[0], volume())


def _moved(places: dict[int, Any]) -> Any:
    def change(number: int, made: Dataset) -> None:
        if number in places:
            made.ImagePositionPatient = [-10, 20, places[number]]

    return change


def _tilted(number: int, made: Dataset) -> None:
    made.ImagePositionPatient = [-10, 20 + 0.7 * number, 100 + 2.5 * number]


def _echoes(number: int, made: Dataset) -> None:
    made.EchoTime, made.ImagePositionPatient = (2.3, 4.6)[number % 2], [0, 0, 5 * (number // 2)]


DEFECTS = {
    "lacks 1 slice": (lambda k, made: k != 3, {}, ("5 mm between 014 and 028", "2.5 mm", "resample=true")),
    "uneven gaps": (_moved({5: 113.7}), {}, ("3.7 mm between 028 and 035", "resample=true")),
    "several slices at 1 place": (_moved({3: 105.0}), {}, ("014, 021",)),
    "sheared: the gantry was tilted": (_tilted, {}, ("15.6 degrees", "resample=true")),
    "lie sideways": (
        lambda k, made: setattr(made, "ImagePositionPatient", [-10 + 3 * (k == 2), 20, 100 + 2.5 * k]),
        {},
        ("014 lies 3 mm", "resample=true"),
    ),
    "several orientations": (
        lambda k, made: k or setattr(made, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
        {},
        ("2 orientations", "000"),
    ),
    "several acquisitions, which differ in EchoTime": (_echoes, {}, ("2.3, 4.6",)),
    "several sizes": (lambda k, made: k or setattr(made, "PixelSpacing", [0.9, 0.5]), {}, ("000", "0.9 × 0.5 mm")),
    "has colours": (
        lambda k, made: setattr(made, "SamplesPerPixel", 3),
        {"PhotometricInterpretation": "RGB"},
        ("RGB", "series="),
    ),
    "is a localiser": (None, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ("series=",)),
    "without ImagePositionPatient": (lambda k, made: k != 2 or delattr(made, "ImagePositionPatient"), {}, ("014",)),
    "without PixelSpacing": (None, {"PixelSpacing": None}, ("000",)),
    "one slice only": (lambda k, made: k == 2, {}, ("014",)),
    "not perpendicular": (None, {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, ("000",)),
}


@pytest.mark.parametrize("problem", DEFECTS)
def test_a_defect_is_refused_with_series_and_slice(tmp_path: Path, problem: str) -> None:
    change, elements, parts = DEFECTS[problem]
    write_series(tmp_path, volume(), change or (lambda k, made: None), **elements)
    text = refused(tmp_path)
    assert all(part in text for part in (problem, "'Abdomen' (…1.2.3.4)", *parts)), text


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, volume())
    (tmp_path / "014").write_bytes((tmp_path / "014").read_bytes()[:-10])
    assert "014" in refused(tmp_path)


def test_more_frames_than_the_file_has_bytes_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), lambda k, made: k == 2, NumberOfFrames=1 << 20)
    tree = read_tree(tmp_path)
    assert not tree.series
    with pytest.raises(SegflowError, match=r"014; found 1048576 frames; expected 1 to \d{3}$"):
        raise tree.damaged[tmp_path / "014"]


def test_a_header_that_asks_for_more_than_memory_is_refused_before_it_is_given(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), lambda k, made: setattr(made, "NumberOfFrames", 1), Rows=65535)
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.Rows = dataset.Columns = 65535
        for copy in range(20):
            dataset.ImagePositionPatient = [0, 0, 20.0 * number + copy]
            dataset.save_as(tmp_path / f"{number}-{copy}")
        file.unlink()
    assert "memory" in refused(tmp_path)


def test_without_pydicom_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, volume())
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(SegflowError, match=r"segflow\[dicom\]"):
        find_series(tmp_path)


@pytest.mark.parametrize("name", ["JPEG2000", "JPEG"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8])
def test_compressed_voxels_are_those_before(tmp_path: Path, name: str, dtype: type) -> None:
    stored = np.random.default_rng(0).integers(0, 250, (3, 40, 30)).astype(dtype)
    if dtype is np.int16:
        stored -= 100
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetCompressor(name)
    writer.UseCompressionOn()
    for number, values in enumerate(stored):
        writer.SetFileName(str(tmp_path / f"{number}.dcm"))
        writer.Execute(sitk.GetImageFromArray(values[None]))
        made = pydicom.dcmread(tmp_path / f"{number}.dcm")
        assert made.file_meta.TransferSyntaxUID.is_compressed
        made.ImageOrientationPatient, made.ImagePositionPatient = list(AXIAL), [0, 0, 2 * number]
        made.PixelSpacing, made.StudyInstanceUID, made.SeriesInstanceUID = [1, 1], "1.2", "1.2.3"
        made.save_as(tmp_path / f"{number}.dcm")
    np.testing.assert_array_equal(read_series(only(tmp_path))[0], stored)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    def video(number: int, made: Dataset) -> None:
        made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        made.PixelData = encapsulate([made.PixelData])
        made["PixelData"].is_undefined_length = True

    text = refused(write_series(tmp_path, volume(), video))
    assert "1.2.840.10008.1.2.4.100" in text
    assert "000" in text


def test_files_that_are_cut_off_anywhere_are_told(tmp_path: Path) -> None:
    write_series(tmp_path / "whole", volume())
    content = (tmp_path / "whole/007").read_bytes()
    file = tmp_path / "cut/file"
    file.parent.mkdir()
    for end in range(140, len(content) - 1, 37):
        file.write_bytes(content[:end])
        tree = read_tree(file.parent)
        if not tree.damaged:
            with pytest.raises(SegflowError, match="file"):
                read_slices(tree.series[0])


def test_deflated_files_are_read_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deflated(_: int, made: Dataset) -> None:
        made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    (series,) = find_series(write_series(tmp_path, volume(), deflated))
    np.testing.assert_array_equal(read_series(series)[0], volume())
    bomb = plain(0, PixelData=bytes(1 << 26))
    deflated(0, bomb)
    file = save(bomb, tmp_path / "bomb")
    assert file.stat().st_size < 1 << 17
    monkeypatch.setattr("segflow.execution.machine.memory_bytes", lambda: 1 << 27)
    with pytest.raises(SegflowError, match=r"bomb needs .* of memory"):
        raise read_tree(tmp_path).damaged[file]


def test_a_slope_of_zero_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, volume(), RescaleSlope="0", RescaleIntercept="5")
    assert "has RescaleSlope 0" in refused(tmp_path)
