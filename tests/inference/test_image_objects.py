"""Images in memory as cases, and back as images of the same kind and place."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from segflow.core.errors import SegflowError
from segflow.inference.image_objects import image_object
from segflow.storage.image_formats.placement import reorient

OBLIQUE = np.array([[0.0, -1.5, 0.2, 5], [2.0, 0.0, 0.1, -7], [0.1, 0.0, -3.0, 9], [0, 0, 0, 1]])


def itk_image(shape: tuple[int, ...] = (3, 4, 5)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))
    image.SetSpacing((0.5, 0.7, 2.0)[: len(shape)])
    image.SetOrigin((1.0, 2.0, 3.0)[: len(shape)])
    return image


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5), np.int16), np.zeros((1, 3, 4, 5)), torch.zeros(3, 4, 5)])
def test_arrays_need_only_their_spacing(array: object) -> None:
    made = image_object(array, (2, 0.7, 0.5))
    assert made.case.image.shape == (1, 3, 4, 5)
    assert made.case.image.dtype == np.float32
    assert made.case.geometry.spacing == (2.0, 0.7, 0.5)
    labels = np.ones((3, 4, 5), np.uint8)
    assert made.label_map(labels) is labels


def test_simpleitk_image_keeps_its_place() -> None:
    image = itk_image()
    image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    made = image_object(image)
    assert made.case.image.shape == (1, 3, 4, 5)
    assert made.case.geometry.spacing == (2.0, 0.7, 0.5)
    labels = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    back = made.label_map(labels)
    assert isinstance(back, sitk.Image)
    assert np.array_equal(sitk.GetArrayFromImage(back), labels)
    for name in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
        assert getattr(back, name)() == getattr(image, name)()


def test_channels_of_simpleitk_may_come_as_list_vector_or_fourth_axis() -> None:
    one, two = itk_image(), itk_image() * 2
    expected = image_object([one, two]).case.image
    assert expected.shape == (2, 3, 4, 5)
    assert np.array_equal(image_object(sitk.Compose(one, two)).case.image, expected)
    joined = image_object(sitk.JoinSeries([one, two]))
    assert np.array_equal(joined.case.image, expected)
    assert joined.label_map(np.zeros((3, 4, 5), np.uint8)).GetDimension() == 3


def test_2d_simpleitk_image_comes_back_2d() -> None:
    image = itk_image((4, 5))
    made = image_object(image)
    assert made.case.image.shape == (1, 1, 4, 5)
    assert made.case.geometry.spacing[0] > max(made.case.geometry.spacing[1:])
    assert made.label_map(np.zeros((1, 4, 5), np.uint8)).GetSize() == image.GetSize()


def test_nibabel_image_keeps_its_affine_and_kind() -> None:
    image = nibabel.Nifti2Image(np.arange(60, dtype=np.float32).reshape(5, 4, 3), OBLIQUE)
    made = image_object(image)
    assert made.case.image.shape == (1, 3, 4, 5)
    assert made.case.geometry.spacing == pytest.approx(image.header.get_zooms()[::-1])
    labels = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(np.uint8)
    back = made.label_map(labels)
    assert isinstance(back, nibabel.Nifti2Image)
    assert np.array_equal(back.affine, image.affine)
    assert back.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(back.dataobj), labels.T)


@pytest.mark.parametrize("kind", ["nibabel", "simpleitk"])
def test_images_turned_to_ras_come_back_unturned(kind: str) -> None:
    voxels = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    image = nibabel.Nifti1Image(voxels, OBLIQUE)
    if kind == "simpleitk":
        image = itk_image()
        image.SetDirection((0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    straight, turned = image_object(image), image_object(image, turn=reorient)
    assert turned.case.image.shape != straight.case.image.shape
    back = turned.label_map(turned.case.image[0].astype(np.uint8))
    expected = straight.label_map(straight.case.image[0].astype(np.uint8))
    if kind == "simpleitk":
        assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(expected))
        assert back.GetDirection() == image.GetDirection()
    else:
        assert np.array_equal(np.asarray(back.dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize(
    ("image", "spacing", "message"),
    [
        (np.zeros((3, 4, 5)), None, "needs its spacing"),
        (np.zeros((3, 4, 5)), (1, 1), "needs its spacing"),
        (np.zeros((3, 4, 5)), (1, 0, 1), "needs its spacing"),
        (np.zeros((4, 5)), (1, 1, 1), "wrong number of axes"),
        ("image.nii.gz", None, "cannot take this"),
        (object(), (1, 1, 1), "cannot take this"),
        ([itk_image(), itk_image((3, 4, 6))], None, "differ in shape"),
    ],
)
def test_what_is_no_image_is_refused(image: object, spacing: object, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        image_object(image, spacing)  # type: ignore[arg-type]
