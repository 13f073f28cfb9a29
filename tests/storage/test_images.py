"""Reading and writing images: arrays, spacing, and label maps that overlay the image they belong to."""

from __future__ import annotations

import itertools
import json
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.images import (
    choose_reader,
    left_right_axis,
    read_case,
    reader_by_name,
    same_placement,
)

OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
NIFTI_READERS = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]


def itk_image(shape: tuple[int, ...], dtype: type = np.int16, **header: tuple[float, ...]) -> sitk.Image:
    """An image of distinct values; `header` may give spacing, origin and direction in ITK's order."""
    image = sitk.GetImageFromArray(np.arange(np.prod(shape)).reshape(shape).astype(dtype), isVector=False)
    for key, value in header.items():
        getattr(image, f"Set{key.capitalize()}")(value)
    return image


def write(image: sitk.Image, file: Path) -> Path:
    sitk.WriteImage(image, str(file), True)
    return file


def assert_overlays(label_file: Path, image_file: Path) -> None:
    label, image = sitk.ReadImage(str(label_file)), sitk.ReadImage(str(image_file))
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(label.GetSpacing(), image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-6)


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
def test_a_volume_has_axes_and_spacing_z_y_x(tmp_path: Path, ending: str) -> None:
    image = itk_image((3, 4, 5), spacing=(0.5, 0.75, 2.0))
    file = write(image, tmp_path / f"a_0000{ending}")
    reader = reader_by_name("SimpleITKIO")
    voxels, geometry = reader.read_image([file])
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(image)[None].astype(np.float32))
    np.testing.assert_allclose(geometry.spacing, (2.0, 0.75, 0.5))
    header = reader.read_header(file)
    assert (header.shape, header.channels, header.geometry) == ((3, 4, 5), 1, geometry)
    assert header.dtype == "int16"
    json.dumps(geometry.header)


def test_a_flat_image_gets_one_slice_and_a_spacing_no_rule_resamples_through(tmp_path: Path) -> None:
    file = write(itk_image((4, 5), spacing=(0.5, 0.8)), tmp_path / "a_0000.nii.gz")
    reader = reader_by_name("SimpleITKIO")
    voxels, geometry = reader.read_image([file])
    assert voxels.shape == (1, 1, 4, 5)
    np.testing.assert_allclose(geometry.spacing, (0.8 * 999, 0.8, 0.5))
    assert reader.read_header(file).shape == (1, 4, 5)


@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO"])
def test_a_fourth_axis_is_channels(tmp_path: Path, name: str) -> None:
    image = itk_image((2, 3, 4, 5), spacing=(0.5, 0.75, 2.0, 1.0))
    file = write(image, tmp_path / "a_0000.nii.gz")
    reader = reader_by_name(name)
    voxels, geometry = reader.read_image([file])
    np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(geometry.spacing, (2.0, 0.75, 0.5))
    assert reader.read_header(file).channels == 2
    reader.write_label(np.zeros((3, 4, 5), np.int16), geometry, tmp_path / "a.nii.gz")
    assert sitk.ReadImage(str(tmp_path / "a.nii.gz")).GetSize() == (5, 4, 3)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
def test_the_components_of_a_vector_image_are_channels(tmp_path: Path, ending: str) -> None:
    array = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5, 2)
    file = write(sitk.GetImageFromArray(array, isVector=True), tmp_path / f"a_0000{ending}")
    voxels, _ = reader_by_name("SimpleITKIO").read_image([file])
    np.testing.assert_array_equal(voxels, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("name", NIFTI_READERS)
def test_stored_values_are_scaled_as_the_header_says(tmp_path: Path, name: str) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(2.5, -100.0)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    voxels, _ = reader_by_name(name).read_image([tmp_path / "scaled.nii.gz"])
    expected = nibabel.load(tmp_path / "scaled.nii.gz").get_fdata().transpose(2, 1, 0)
    np.testing.assert_allclose(voxels[0], expected.astype(np.float32))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO"])
def test_both_nifti_versions_and_byte_orders_are_read(tmp_path: Path, name: str, byte_order: str, kind: type) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = kind(array, np.diag([0.5, 0.75, 2.0, 1.0]), kind.header_class(endianness=byte_order))
    image.set_data_dtype(np.dtype(np.int16).newbyteorder(byte_order))
    file = _saved(image, tmp_path / "a_0000.nii.gz")
    voxels, geometry = reader_by_name(name).read_image([file])
    np.testing.assert_array_equal(voxels[0], array.transpose(2, 1, 0))
    np.testing.assert_allclose(geometry.spacing, (2.0, 0.75, 0.5))


@pytest.mark.parametrize("name", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_every_axis_order_of_a_case_reads_the_same_and_writes_back_onto_its_own_image(
    tmp_path: Path, name: str
) -> None:
    reader = reader_by_name(name)
    canonical = nibabel.Nifti1Image(
        np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4), np.diag([0.5, 0.75, 2.0, 1.0])
    )
    expected, _ = reader.read_image([_saved(canonical, tmp_path / "canonical.nii.gz")])
    np.testing.assert_array_equal(expected[0], np.asarray(canonical.dataobj).transpose(2, 1, 0))
    label = (expected[0] % 3).astype(np.int16)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = canonical.as_reoriented(np.array(list(zip(order, flips, strict=True))))
            file = _saved(turned, tmp_path / "turned.nii.gz")
            voxels, geometry = reader.read_image([file])
            np.testing.assert_array_equal(voxels, expected)
            np.testing.assert_allclose(geometry.spacing, (2.0, 0.75, 0.5))
            assert reader.read_header(file).geometry == geometry
            reader.write_label(label, geometry, tmp_path / "label.nii.gz")
            assert_overlays(tmp_path / "label.nii.gz", file)
            written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "label.nii.gz")))
            np.testing.assert_array_equal(written, sitk.GetArrayFromImage(sitk.ReadImage(str(file))) % 3)


def _saved(image: nibabel.Nifti1Image, file: Path) -> Path:
    nibabel.save(image, file)
    return file


@pytest.mark.parametrize(
    ("ending", "channels"),
    [*itertools.product((".png", ".bmp", ".tif", ".jpg"), (1, 3)), (".png", 4), (".tif", 4)],
)
def test_the_colours_of_a_picture_are_channels(tmp_path: Path, ending: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(tmp_path / f"a_0000{ending}")
    reader = choose_reader(ending, tmp_path / f"a_0000{ending}")
    voxels, geometry = reader.read_image([tmp_path / f"a_0000{ending}"])
    assert voxels.shape == (channels, 1, 6, 7)
    assert geometry.spacing == (999.0, 1.0, 1.0)
    if ending != ".jpg":
        np.testing.assert_array_equal(voxels[:, 0], pixels.transpose(2, 0, 1))
    header = reader.read_header(tmp_path / f"a_0000{ending}")
    assert (header.shape, header.channels, header.dtype) == ((1, 6, 7), channels, "uint8")


def test_a_3d_tiff_takes_its_spacing_from_the_file_beside_it(tmp_path: Path) -> None:
    stack = np.arange(5 * 6 * 3, dtype=np.uint16).reshape(5, 6, 3)  # three wide: not to be taken for colours
    tifffile.imwrite(tmp_path / "a_0000.tif", stack, photometric="minisblack")
    (tmp_path / "a.json").write_text('{"spacing": [3.0, 1.5, 1.25]}')
    reader = choose_reader(".tif", tmp_path / "a_0000.tif")
    assert reader.name == "Tiff3DIO"
    voxels, geometry = reader.read_image([tmp_path / "a_0000.tif"])
    np.testing.assert_array_equal(voxels[0], stack)
    assert geometry.spacing == (3.0, 1.5, 1.25)
    (tmp_path / "out").mkdir()
    reader.write_label(np.ones((5, 6, 3), np.int16), geometry, tmp_path / "out" / "a.tif")
    label, label_geometry = reader.read_label(tmp_path / "out" / "a.tif")
    assert label.shape == (5, 6, 3)
    assert label_geometry.spacing == geometry.spacing


def test_a_3d_tiff_without_spacing_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tifffile.imwrite(tmp_path / "a_0000.tiff", np.zeros((5, 6, 7), np.uint8))
    assert reader_by_name("Tiff3DIO").read_image([tmp_path / "a_0000.tiff"])[1].spacing == (1.0, 1.0, 1.0)
    assert "spacing 1, 1, 1 mm is assumed" in caplog.text


# --- label maps lie on their image --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NIFTI_READERS)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_label_map_overlays_an_oblique_image(tmp_path: Path, name: str, ending: str) -> None:
    image = itk_image((3, 4, 5), spacing=(0.5, 0.75, 2.0), origin=(-10.5, 20.25, 300.0), direction=OBLIQUE)
    file = write(image, tmp_path / f"a_0000{ending}")
    reader = reader_by_name(name)
    voxels, geometry = reader.read_image([file])
    reader.write_label((voxels[0] % 7).astype(np.int16), geometry, tmp_path / f"a{ending}")
    assert_overlays(tmp_path / f"a{ending}", file)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{ending}")))
    np.testing.assert_array_equal(written, sitk.GetArrayFromImage(image) % 7)
    assert same_placement(geometry, reader.read_label(tmp_path / f"a{ending}")[1])


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_label_map_of_a_flat_image_is_flat(tmp_path: Path, ending: str) -> None:
    image = itk_image((4, 5), spacing=(0.5, 0.8), origin=(3.0, -4.0), direction=(0.0, 1.0, -1.0, 0.0))
    file = write(image, tmp_path / f"a_0000{ending}")
    reader = reader_by_name("SimpleITKIO")
    _, geometry = reader.read_image([file])
    reader.write_label(np.ones((1, 4, 5), np.int16), geometry, tmp_path / f"a{ending}")
    assert_overlays(tmp_path / f"a{ending}", file)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_a_label_map_of_an_array_without_file_keeps_its_spacing(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    reader_by_name("SimpleITKIO").write_label(np.ones((3, 4, 5), np.int16), Geometry((2.0, 0.75, 0.5)), file)
    np.testing.assert_allclose(sitk.ReadImage(str(file)).GetSpacing(), (0.5, 0.75, 2.0))


@pytest.mark.parametrize("name", [*NIFTI_READERS])
@pytest.mark.parametrize(("highest", "kind"), [(0, np.uint8), (254, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_a_label_map_takes_two_bytes_only_where_it_needs_them(
    tmp_path: Path, name: str, highest: int, kind: type
) -> None:
    label = np.full((2, 3, 4), highest, dtype=np.int32)
    reader_by_name(name).write_label(label, Geometry((1.0, 1.0, 1.0)), tmp_path / "a.nii.gz")
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")))
    assert written.dtype == kind
    assert (written == highest).all()


def test_a_probability_map_keeps_its_decimals(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 24, dtype=np.float64).reshape(2, 3, 4)
    reader = reader_by_name("SimpleITKIO")
    reader.write_map(values, Geometry((2.0, 1.0, 1.0)), tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(reader.read_image([tmp_path / "p.nii.gz"])[0][0], values.astype(np.float32))


def test_every_real_geometry_comes_back(test_data: Path, tmp_path: Path) -> None:
    """Oblique, permuted, flipped, NRRD, MHA, three channels, PNG."""
    seen = set()
    for dataset in ("Dataset140", "Dataset143", "Dataset144", "Dataset145", "Dataset146", "Dataset123"):
        (folder,) = test_data.glob(f"{dataset}_*")
        for file in sorted(folder.glob("imagesTr/*"))[:3]:
            ending = file.name[file.name.index(".") :]
            reader = choose_reader(ending, file)
            voxels, geometry = reader.read_image([file])
            out = tmp_path / file.name
            reader.write_label((voxels[0] > voxels[0].mean()).astype(np.int16), geometry, out)
            assert_overlays(out, file)
            assert reader.read_label(out)[0].shape == voxels.shape[1:]
            seen.add(ending)
    assert seen == {".nii.gz", ".nrrd", ".mha", ".png"}


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NIFTI_READERS)
def test_a_sheared_nifti_is_read_by_its_affine(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    affine = np.array([[1.0, 0.2, 0, 5], [0, 1, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    image.set_qform(None)
    nibabel.save(image, tmp_path / "sheared_0000.nii.gz")
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "sheared_0000.nii.gz"))
    reader = reader_by_name(name)
    voxels, geometry = reader.read_image([tmp_path / "sheared_0000.nii.gz"])
    np.testing.assert_array_equal(voxels[0], np.asarray(image.dataobj).transpose(2, 1, 0))
    assert ("orthonormal direction" in caplog.text) == name.startswith("SimpleITK")
    reader.write_label(voxels[0].astype(np.int16), geometry, tmp_path / "sheared.nii.gz")
    written = nibabel.load(tmp_path / "sheared.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(image.dataobj))


@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_a_truncated_nifti_is_refused(tmp_path: Path, name: str, ending: str) -> None:
    """ITK by itself would fill the missing part with zeros."""
    noise = np.random.default_rng(0).integers(0, 99, (20, 20, 20)).astype(np.int16)
    file = write(sitk.GetImageFromArray(noise), tmp_path / f"a_0000{ending}")
    for share in (0.0, 0.02, 0.5, 0.999):
        short = tmp_path / f"short_0000{ending}"
        short.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        with pytest.raises(SegflowError, match=r"cannot read .*short_0000"):
            reader_by_name(name).read_image([short])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".gipl", ".png", ".tif"])
def test_other_truncated_files_are_refused(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 99, (20, 20)).astype(np.uint8)
    if ending in (".nrrd", ".mha", ".gipl"):
        noise = np.stack([noise] * 20)
    file = write(sitk.GetImageFromArray(noise), tmp_path / f"a_0000{ending}")
    reader = choose_reader(ending, file)
    reader.read_image([file])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SegflowError, match=r"a_0000"):
        reader.read_image([file])


@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO"])
def test_a_missing_file_and_a_file_of_another_kind_are_named(tmp_path: Path, name: str) -> None:
    reader = reader_by_name(name)
    ending = reader.endings[0]
    for file in (tmp_path / f"missing_0000{ending}", tmp_path / f"text_0000{ending}"):
        if "text" in file.name:
            file.write_text("not an image at all, " * 40)
        with pytest.raises(SegflowError, match=file.name):
            reader.read_image([file])
        with pytest.raises(SegflowError, match=file.name):
            reader.read_header(file)


@pytest.mark.parametrize("pixdim", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO"])
def test_spacing_that_is_no_distance_is_refused(tmp_path: Path, name: str, pixdim: float) -> None:
    """Both libraries would mend it in silence and read 1 mm."""
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
    file = tmp_path / "a_0000.nii"
    nibabel.save(image, file)
    header = nibabel.Nifti1Header(file.read_bytes()[:348])
    header["pixdim"][2] = pixdim
    file.write_bytes(header.binaryblock + file.read_bytes()[348:])
    with pytest.raises(SegflowError, match="zero, negative or not a number"):
        reader_by_name(name).read_image([file])


def test_negative_spacing_of_a_metaimage_is_refused(tmp_path: Path) -> None:
    file = write(itk_image((3, 4, 5)), tmp_path / "a_0000.mha")
    file.write_bytes(file.read_bytes().replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = -1 1 1"))
    with pytest.raises(SegflowError, match="zero, negative"):
        reader_by_name("SimpleITKIO").read_image([file])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_stored_as_whole_floats_are_taken(tmp_path: Path, dtype: type) -> None:
    file = write(itk_image((2, 3, 4), dtype), tmp_path / "a.nii.gz")
    label, _ = reader_by_name("SimpleITKIO").read_label(file)
    assert label.dtype == np.int16
    np.testing.assert_array_equal(label.ravel(), np.arange(24))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_labels_that_are_not_whole_are_refused(tmp_path: Path, value: float) -> None:
    array = np.zeros((2, 3, 4), np.float32)
    array[1, 1, 1] = value
    file = write(sitk.GetImageFromArray(array), tmp_path / "a.nii.gz")
    with pytest.raises(SegflowError, match="not whole numbers"):
        reader_by_name("SimpleITKIO").read_label(file)


def test_large_labels_keep_their_value(tmp_path: Path) -> None:
    file = write(sitk.GetImageFromArray(np.full((2, 3, 4), 40000, np.uint16)), tmp_path / "a.nii.gz")
    label, _ = reader_by_name("SimpleITKIO").read_label(file)
    assert (label == 40000).all()


def test_a_colour_label_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SegflowError, match="several channels"):
        reader_by_name("NaturalImage2DIO").read_label(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "renamed.png"])
def test_a_label_map_in_jpeg_is_refused_since_its_values_changed(tmp_path: Path, name: str) -> None:
    labels = np.zeros((32, 40), np.uint8)
    labels[5:20, 7:19] = 255
    Image.fromarray(labels).save(tmp_path / name, "jpeg")
    reader = reader_by_name("NaturalImage2DIO")
    with pytest.raises(SegflowError, match=rf"{name} cannot be a label map: JPEG changes values") as error:
        reader.read_label(tmp_path / name)
    assert ".png" in str(error.value)
    assert reader.read_image([tmp_path / name])[0].shape == (1, 1, 32, 40)  # as an image it is welcome


@pytest.mark.parametrize(
    ("ending", "dtype"), [(".jpg", np.uint8), (".png", np.float32), (".bmp", np.uint16)], ids=["jpg", "float", "bmp"]
)
def test_pictures_that_would_lose_values_are_not_written(tmp_path: Path, ending: str, dtype: type) -> None:
    reader = reader_by_name("NaturalImage2DIO")
    values = np.full((1, 4, 5), 300, np.int32) if dtype == np.uint16 else np.zeros((1, 4, 5), np.int32)
    with pytest.raises(SegflowError, match="cannot write"):
        (reader.write_map if dtype == np.float32 else reader.write_label)(
            values, Geometry((999.0, 1.0, 1.0)), tmp_path / f"a{ending}"
        )
    assert not list(tmp_path.iterdir())


def test_negative_labels_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"labels -1…0"):
        reader_by_name("SimpleITKIO").write_label(
            np.array([[[0, -1]]], np.int16), Geometry((1.0, 1.0, 1.0)), tmp_path / "a.nii.gz"
        )


@pytest.fixture
def _full_disk() -> Iterator[None]:
    """No file may grow beyond 1 kB, which fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("_full_disk")
@pytest.mark.parametrize(
    ("name", "ending"),
    [("SimpleITKIO", ".nii.gz"), ("NibabelIO", ".nii"), ("Tiff3DIO", ".tif"), ("NaturalImage2DIO", ".png")],
)
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, name: str, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 200, (1, 90, 90)).astype(np.int16)
    with pytest.raises(SegflowError, match="cannot write"):
        reader_by_name(name).write_label(noise, Geometry((1.0, 1.0, 1.0)), tmp_path / f"a{ending}")
    assert not list(tmp_path.iterdir())


# --- choosing a reader --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "name"),
    [
        (".nii.gz", "SimpleITKIO"),
        (".nrrd", "SimpleITKIO"),
        (".mha", "SimpleITKIO"),
        (".nii", "NibabelIO"),
        (".png", "NaturalImage2DIO"),
        (".BMP", "NaturalImage2DIO"),
        (".jpg", "NaturalImage2DIO"),
        (".tif", "NaturalImage2DIO"),
        (".tiff", "Tiff3DIO"),
    ],
)
def test_the_ending_chooses_the_reader(ending: str, name: str) -> None:
    assert choose_reader(ending).name == name


def test_dataset_json_may_name_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_reader(".nii.gz", name="NibabelIOWithReorient").name == "NibabelIOWithReorient"
    assert choose_reader(".nii.gz", name="NibabelOI").name == "SimpleITKIO"
    assert "Did you mean 'NibabelIO'" in caplog.text


def test_unknown_endings_list_the_known_ones() -> None:
    with pytest.raises(SegflowError, match=r"'\.dcm'.*\.nii\.gz"):
        choose_reader(".dcm")


@pytest.mark.parametrize("name", [*NIFTI_READERS, "NaturalImage2DIO", "Tiff3DIO"])
def test_readers_travel_to_worker_processes(name: str) -> None:
    assert pickle.loads(pickle.dumps(reader_by_name(name))).name == name


# --- one case -----------------------------------------------------------------------------------------------------


def test_a_case_is_read_whole(tmp_path: Path) -> None:
    files = [write(itk_image((3, 4, 5)), tmp_path / f"a_{c:04d}.nii.gz") for c in range(2)]
    label = write(itk_image((3, 4, 5), np.uint8), tmp_path / "a.nii.gz")
    case = read_case(CaseFiles("a", tuple(files), label), reader_by_name("SimpleITKIO"), channels=2)
    assert case.image.shape == (2, 3, 4, 5)
    assert case.label is not None
    assert case.label.dtype == np.int16


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (itk_image((3, 4, 6)), r"case 'a': image and label differ in shape.*\(3, 4, 5\).*\(3, 4, 6\)"),
        (itk_image((3, 4, 5), spacing=(1.0, 1.0, 1.5)), r"case 'a': image and label differ in spacing"),
    ],
)
def test_image_and_label_must_share_a_grid(tmp_path: Path, label: sitk.Image, message: str) -> None:
    image_file = write(itk_image((3, 4, 5)), tmp_path / "a_0000.nii.gz")
    files = CaseFiles("a", (image_file,), write(label, tmp_path / "a.nii.gz"))
    with pytest.raises(SegflowError, match=message):
        read_case(files, reader_by_name("SimpleITKIO"))


def test_spacings_that_differ_by_rounding_are_equal(tmp_path: Path) -> None:
    image_file = write(itk_image((3, 4, 5), spacing=(0.7, 0.7, 0.7)), tmp_path / "a_0000.nii.gz")
    label_file = write(itk_image((3, 4, 5), spacing=(0.7, 0.7, 0.7000001)), tmp_path / "a.nii.gz")
    read_case(CaseFiles("a", (image_file,), label_file), reader_by_name("SimpleITKIO"))


@pytest.mark.parametrize(
    ("second", "message"),
    [(itk_image((3, 4, 6)), "channels differ in shape"), (itk_image((3, 4, 5), spacing=(2.0, 1.0, 1.0)), "in spacing")],
)
def test_channels_must_share_a_grid(tmp_path: Path, second: sitk.Image, message: str) -> None:
    one = write(itk_image((3, 4, 5)), tmp_path / "a_0000.nii.gz")
    other = write(second, tmp_path / "a_0001.nii.gz")
    with pytest.raises(SegflowError, match=message):
        read_case(CaseFiles("a", (one, other)), reader_by_name("SimpleITKIO"))


def test_channels_that_lie_elsewhere_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = write(itk_image((3, 4, 5)), tmp_path / "a_0000.nii.gz")
    other = write(itk_image((3, 4, 5), origin=(9.0, 0.0, 0.0)), tmp_path / "a_0001.nii.gz")
    read_case(CaseFiles("a", (one, other)), reader_by_name("SimpleITKIO"))
    assert "a_0001.nii.gz differ in origin or direction" in caplog.text


def test_the_number_of_channels_is_checked(tmp_path: Path) -> None:
    file = write(itk_image((2, 3, 4, 5)), tmp_path / "a_0000.nii.gz")
    with pytest.raises(SegflowError, match=r"case 'a'.*channels.*found 2; expected 1"):
        read_case(CaseFiles("a", (file,)), reader_by_name("SimpleITKIO"), channels=1)


def test_placement_is_compared_within_rounding() -> None:
    def at(origin: float, tilt: float = 0.0) -> Geometry:
        affine = np.eye(4)
        affine[0, 3] = origin
        affine[0, 1] = tilt
        return Geometry((1.0, 1.0, 1.0), {"affine": affine.tolist()})

    assert same_placement(at(100.0), at(100.0 + 1e-8))
    assert not same_placement(at(100.0), at(101.0))
    assert not same_placement(at(0.0), at(0.0, 0.1))


def affine_towards(codes: str) -> np.ndarray:
    affine = np.eye(4)
    for axis, code in enumerate(codes):
        affine[:3, axis] = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0)}.get(code, (0, 0, 0))
        affine[2, axis] = {"S": 1, "I": -1}.get(code, 0)
    return affine


@pytest.mark.parametrize(
    ("codes", "axis"), [("RAS", 2), ("LPI", 2), ("PSL", 0), ("ARS", 1), ("SPR", 0), ("ASL", 0), ("IRA", 1)]
)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_the_axis_from_left_to_right(tmp_path: Path, codes: str, axis: int, reader: str) -> None:
    """Codes name where the file's axes x, y, z point to; the affine is turned a little, as scanners have it."""
    matrix = affine_towards(codes)
    tilt = np.array([[0.98, -0.2, 0, 0], [0.2, 0.98, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), tilt @ matrix), file)
    _, geometry = reader_by_name(reader).read_image([file])
    assert left_right_axis(geometry) == axis


def test_the_axis_from_left_to_right_of_turned_arrays_and_of_pictures(tmp_path: Path) -> None:
    matrix = affine_towards("SPR")
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), matrix), file)
    _, geometry = reader_by_name("NibabelIOWithReorient").read_image([file])
    assert left_right_axis(geometry) == 2
    assert left_right_axis(Geometry((999.0, 1.0, 1.0), {"ndim": 2})) is None
    assert left_right_axis(Geometry((1.0, 1.0, 1.0), {"ndim": 3})) is None


def test_the_axis_from_left_to_right_of_straight_grids_is_nibabels() -> None:
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((-1, 1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[list(axes)] * signs * (0.7, 1.3, 5.0)
            (expected,) = np.flatnonzero(nibabel.io_orientation(affine)[:, 0] == 0)
            assert left_right_axis(Geometry((5.0, 1.3, 0.7), {"affine": affine.tolist()})) == 2 - expected
