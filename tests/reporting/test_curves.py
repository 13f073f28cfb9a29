"""The learning-curve picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segflow.core.errors import SegflowError
from segflow.reporting.curves import BLUE, CURVES, GREEN, RED, write_progress_picture


def _metrics(epochs: int) -> dict[str, list[float]]:
    ramp = np.linspace(1.0, 0.2, epochs)
    return {
        "train_loss": list(ramp),
        "val_loss": list(ramp + 0.1),
        "dice": list(1.0 - ramp),
        "dice_ema": list(0.9 - ramp * 0.9),
        "epoch_seconds": [12.0] * epochs,
        "lr": list(ramp * 0.01),
    }


def _pixels_near(picture: np.ndarray, color: str) -> int:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture.astype(int) - wanted).max(axis=-1) < 12).sum())


def test_every_curve_is_drawn_in_its_colour(tmp_path: Path) -> None:
    full = _metrics(40)
    write_progress_picture(full, tmp_path / "progress.png")
    drawn = np.asarray(Image.open(tmp_path / "progress.png").convert("RGB"))
    for name, color in (("train_loss", BLUE), ("val_loss", RED), ("dice_ema", GREEN)):
        write_progress_picture({k: v for k, v in full.items() if k != name}, tmp_path / "less.png")
        less = np.asarray(Image.open(tmp_path / "less.png").convert("RGB"))
        assert _pixels_near(drawn, color) > _pixels_near(less, color) + 200


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_training_that_has_just_begun_can_be_drawn(tmp_path: Path, epochs: int) -> None:
    write_progress_picture(_metrics(epochs), tmp_path / "progress.png")
    assert Image.open(tmp_path / "progress.png").size[0] >= 600


def test_gaps_missing_curves_and_lists_of_different_length_are_no_obstacle(tmp_path: Path) -> None:
    metrics = {"train_loss": [0.5, float("nan"), 0.3], "val_loss": [0.6], "dice": [float("nan")] * 3}
    write_progress_picture(metrics, tmp_path / "progress.png")
    assert Image.open(tmp_path / "progress.png").format == "PNG"
    assert set(metrics) < set(CURVES)


def test_the_picture_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "fold_0" / "progress.png"
    write_progress_picture(_metrics(2), file)
    first = file.read_bytes()
    write_progress_picture(_metrics(9), file)
    assert file.read_bytes() != first
    assert [f.name for f in file.parent.iterdir()] == ["progress.png"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "progress.png").mkdir()
    with pytest.raises(SegflowError, match=r"progress\.png"):
        write_progress_picture(_metrics(2), tmp_path / "progress.png")


def test_matplotlibs_global_state_is_never_loaded() -> None:
    code = "import sys, segflow.reporting.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
