"""Pictures that viewers turn by EXIF: their stored pixels are read, as nnU-Net reads them, and masks are compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.io
from PIL import Image, ImageOps

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.storage.dataset_check import check_dataset
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.problems import Problem
from segflow.storage.raw_dataset import read_description

ORIENTATION = 274


def save(pixels: np.ndarray, file: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(file, exif=exif)
    return file


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_stored_pixels_are_read(tmp_path: Path, ending: str, channels: int, orientation: int) -> None:
    pixels = noise(12, 20, 3)[..., : None if channels == 3 else 1].squeeze()
    plain = save(pixels, tmp_path / f"plain_0000{ending}", 1)
    turned = save(pixels, tmp_path / f"turned_0000{ending}", orientation)
    reader = reader_by_name("NaturalImage2DIO")
    expected, read = (reader.read_image([file])[0] for file in (plain, turned))
    assert np.array_equal(read, expected)
    assert reader.read_header(turned).shape == (1, 12, 20)
    of_nnunet = skimage.io.imread(turned).reshape(12, 20, channels)  # how nnU-Net's reader opens it
    assert np.array_equal(read, of_nnunet.transpose(2, 0, 1)[:, None])
    if ending != ".jpg":
        assert np.array_equal(read, pixels.reshape(12, 20, channels).transpose(2, 0, 1)[:, None])
        assert channels == 3 or np.array_equal(reader.read_label(turned)[0], pixels[None])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pictures_with_a_palette_and_with_16_bits_too(tmp_path: Path, orientation: int) -> None:
    import tifffile

    reader = reader_by_name("NaturalImage2DIO")
    indices = noise(12, 20) % 7
    palette = Image.fromarray(indices, "P")
    palette.putpalette(list(noise(21)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    palette.save(tmp_path / "palette.tif", exif=exif)
    assert np.array_equal(reader.read_label(tmp_path / "palette.tif")[0][0], indices)
    deep = noise(12, 20, 3).astype(np.uint16) * 256
    file = tmp_path / "deep_0000.tif"
    tifffile.imwrite(file, deep, photometric="rgb", extratags=[(ORIENTATION, "H", 1, orientation, True)])
    assert np.array_equal(reader.read_image([file])[0][:, 0], deep.transpose(2, 0, 1))
    assert reader.read_header(file).shape == (1, 12, 20)


def dataset(folder: Path, shape: tuple[int, int], orientation: int, *, drawn_on_what_is_shown: bool) -> list[Problem]:
    """The problems of a dataset of one photograph, which a viewer turns, and a mask that says no such thing."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    photo = save(noise(*shape, 3), folder / "imagesTr" / "a_0000.jpg", orientation)
    mask = np.zeros(shape, np.uint8)
    mask[2:7, 3:9] = 1
    if drawn_on_what_is_shown:
        with Image.open(photo) as picture:
            mask = np.zeros(ImageOps.exif_transpose(picture).size[::-1], np.uint8)
        mask[2:7, 3:9] = 1
    Image.fromarray(mask).save(folder / "labelsTr" / "a.png")
    content = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "x": 1},
        "numTraining": 1,
        "file_ending": ".jpg",
        "label_file_ending": ".png",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    found = check_dataset(folder, read_description(folder), reader_by_name("NaturalImage2DIO"))
    return [problem for problem in found if "turn" in problem.message + problem.fix]


def test_a_mask_drawn_on_what_viewers_show_is_told_with_the_cause(tmp_path: Path) -> None:
    (problem,) = dataset(tmp_path, (12, 20), 6, drawn_on_what_is_shown=True)
    assert problem.severity == "error"
    assert "(1, 12, 20) and (1, 20, 12)" in problem.message
    assert "EXIF (orientation 6 and 1)" in problem.fix
    files = CaseFiles("a", (tmp_path / "imagesTr" / "a_0000.jpg",), tmp_path / "labelsTr" / "a.png")
    with pytest.raises(SegflowError, match="Viewers turn one of them by EXIF"):
        read_case(files, reader_by_name("NaturalImage2DIO"))


@pytest.mark.parametrize(("shape", "orientation"), [((16, 16), 6), ((16, 16), 3), ((12, 20), 3), ((12, 20), 2)])
def test_a_mask_of_which_the_shape_tells_nothing_is_warned_of(
    tmp_path: Path, shape: tuple[int, int], orientation: int
) -> None:
    (problem,) = dataset(tmp_path, shape, orientation, drawn_on_what_is_shown=True)
    assert problem.severity == "warning"
    assert f"EXIF's orientation {orientation} and 1" in problem.message


def test_no_alarm_where_mask_and_stored_pixels_agree(tmp_path: Path) -> None:
    assert dataset(tmp_path / "swapped", (12, 20), 6, drawn_on_what_is_shown=False) == []
    assert dataset(tmp_path / "plain", (12, 20), 1, drawn_on_what_is_shown=False) == []


def test_damaged_exif_data_do_not_make_a_picture_unreadable(tmp_path: Path) -> None:
    Image.fromarray(noise(12, 20)).save(tmp_path / "a.png")
    Image.fromarray(noise(12, 20)).save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff and nonsense")
    reader = reader_by_name("NaturalImage2DIO")
    assert np.array_equal(reader.read_label(tmp_path / "b.png")[0], reader.read_label(tmp_path / "a.png")[0])
