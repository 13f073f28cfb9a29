"""Draw the tutorial's pictures from a workspace in which its commands have run on the phantom.

    python docs/pictures/make.py WORKSPACE        # the folder with data/ and outputs/

They are two: curves of fold 0, and the middle of a validation case as image, reference and prediction.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import SimpleITK as sitk
from PIL import Image

HERE = Path(__file__).resolve().parent
COLOURS = np.array([[0, 0, 0, 0], [1, 0.75, 0, 0.55], [0.9, 0.1, 0.2, 0.8]])  # background, liver, tumour


def read(file: Path) -> np.ndarray:
    """An image file as an array (Z, Y, X)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def draw_case(raw: Path, fold: Path) -> None:
    """The slice with the most tumour of the first validation case."""
    predicted = sorted((fold / "validation").glob("*.nii.gz"))[0]
    case = predicted.name.removesuffix(".nii.gz")
    image, reference = read(raw / "imagesTr" / f"{case}_0000.nii.gz"), read(raw / "labelsTr" / f"{case}.nii.gz")
    z = int((reference == 2).sum(axis=(1, 2)).argmax())
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
    maps = {"image": None, "reference": reference, "prediction": read(predicted)}
    for axis, (title, label_map) in zip(axes, maps.items(), strict=True):
        axis.imshow(image[z], cmap="gray")
        if label_map is not None:
            axis.imshow(COLOURS[label_map[z]])
        axis.set_title(f"{title}, {case}" if label_map is None else title, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(HERE / "tutorial_case.png", dpi=90)


def shrink(picture: Path, target: Path, width: int, part: float = 1.0) -> None:
    """A copy of the upper part of a picture, in 64 colours."""
    with Image.open(picture) as opened:
        upper = opened.convert("RGB").crop((0, 0, opened.width, round(opened.height * part)))
        small = upper.resize((width, round(upper.height * width / upper.width)), Image.LANCZOS)
    small.quantize(64).save(target, optimize=True)


def main() -> None:
    """Draw both."""
    (work,) = map(Path, sys.argv[1:])
    fold = next(iter(sorted(work.glob("outputs/Dataset001_Phantom/*/3d_fullres/default/fold_0"))))
    draw_case(work / "data" / "raw" / "Dataset001_Phantom", fold)
    shrink(HERE / "tutorial_case.png", HERE / "tutorial_case.png", 640)
    shrink(fold / "progress.png", HERE / "tutorial_curves.png", 700, part=0.51)  # losses and Dice


if __name__ == "__main__":
    main()
