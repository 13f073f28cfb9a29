"""Images to predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from inference_images import make_image


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes single-channel images under these case names and gives their folder."""

    def write(*names: str, folder: str = "images") -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for seed, name in enumerate(names):
            sitk.WriteImage(make_image(seed), str(place / f"{name}_0000.nii.gz"))
        return place

    return write
