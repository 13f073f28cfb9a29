"""Defects that are planted in copies of real cases, one kind in each, and what must be found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import affine_transform, gaussian_gradient_magnitude

Array = np.ndarray
Plant = Callable[["Cases", str, str, np.random.Generator], None]
"""Gets the dataset, the case to plant in, an unharmed case beside it, and random numbers."""


class Cases:
    """A dataset of two channels: hippocampus at a common scale of values, and its gradient, which is another contrast.

    The scale of the original images differs by 10,000 between cases, so that no unit could be told from another.
    """

    def __init__(self, source: Path, folder: Path, count: int) -> None:
        self.folder = folder
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True)
        self.ids = sorted(file.name.removesuffix(".nii.gz") for file in (source / "labelsTr").iterdir())[:count]
        for case in self.ids:
            image = nibabel.load(source / "imagesTr" / f"{case}_0000.nii.gz")
            values = np.asarray(image.dataobj, np.float32)
            values = values * (800 / np.quantile(values, 0.99))
            self.write(self.image(case), np.rint(values).astype(np.int16), image.affine)
            edges = gaussian_gradient_magnitude(values, 1.0)
            self.write(self.image(case, 1), np.rint(4 * edges).astype(np.int16), image.affine)
            shutil.copyfile(source / "labelsTr" / f"{case}.nii.gz", self.label(case))
        content = {
            "channel_names": {"0": "T1", "1": "edges"},
            "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
            "numTraining": count,
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(content))

    def image(self, case: str, channel: int = 0) -> Path:
        return self.folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"

    def label(self, case: str) -> Path:
        return self.folder / "labelsTr" / f"{case}.nii.gz"

    def files(self, case: str) -> list[Path]:
        return [self.image(case), self.image(case, 1), self.label(case)]

    def read(self, file: Path) -> tuple[Array, Array]:
        image = nibabel.load(file)
        return np.asarray(image.dataobj), image.affine

    def write(self, file: Path, values: Array, affine: Array, **forms: Any) -> None:
        image = nibabel.Nifti1Image(values, affine)
        image.header.set_xyzt_units("mm")
        for name, form in forms.items():
            getattr(image, f"set_{name}")(form, 1)
        nibabel.save(image, file)

    def change(self, file: Path, change: Callable[[Array], Array]) -> None:
        """Write the file again with other values."""
        values, affine = self.read(file)
        self.write(file, change(values.copy()), affine)

    def move(self, file: Path, change: Callable[[Array], Array]) -> None:
        """Write the file again with another affine."""
        values, affine = self.read(file)
        self.write(file, values, change(affine.copy()))


def put(values: Array, value: float, dtype: type) -> Array:
    """The values in another type, with one voxel changed."""
    result = values.astype(dtype)
    result[tuple(n // 2 for n in result.shape)] = value
    return result


def spaced(affine: Array, factor: float) -> Array:
    affine[:3, :3] *= factor
    return affine


def moved(affine: Array, by: float) -> Array:
    affine[0, 3] += by
    return affine


def sheared(affine: Array, by: float) -> Array:
    affine[0, 1] += by
    return affine


def flipped(cases: Cases, file: Path) -> None:
    """Turn the array about, and the affine with it: the same in space."""
    values, affine = cases.read(file)
    affine = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = cases.read(file)[1][:3, :3] @ [values.shape[0] - 1, values.shape[1] - 1, 0] + affine[:3, 3]
    cases.write(file, values[::-1, ::-1].copy(), affine)


def copied(cases: Cases, case: str, other: str) -> None:
    for source, target in zip(cases.files(other), cases.files(case), strict=True):
        shutil.copyfile(source, target)


def near_copy(cases: Cases, case: str, other: str, random: np.random.Generator) -> None:
    """The other case with noise, other intensities and on a finer grid."""
    copied(cases, case, other)
    for file in cases.files(case):
        values, affine = cases.read(file)
        labels = file.parent.name == "labelsTr"
        finer = affine_transform(
            values.astype(np.float32), np.full(3, 0.9), output_shape=[int(n / 0.9) for n in values.shape],
            order=0 if labels else 1, mode="nearest",
        )  # fmt: skip
        if not labels:
            finer = 1.3 * finer + 40 + random.normal(0, 20, finer.shape)
        cases.write(file, np.rint(finer).astype(np.uint8 if labels else np.int16), spaced(affine, 0.9))


def cut_from(cases: Cases, case: str, other: str) -> None:
    copied(cases, case, other)
    for file in cases.files(case):
        cases.change(file, lambda values: values[:, :, 4:-8])


def resampled(cases: Cases, file: Path) -> None:
    """The label map on a grid of voxels half as large."""
    values, affine = cases.read(file)
    affine = affine @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])
    cases.write(file, values.repeat(2, 0).repeat(2, 1).repeat(2, 2), affine)


def islands(values: Array) -> Array:
    values[0, 0, 0] = values[-1, -1, -1] = 1
    return values


def rename(cases: Cases, case: str, name: str) -> None:
    for file in cases.files(case):
        file.rename(file.with_name(file.name.replace(case, name)))


def visits(cases: Cases, case: str, other: str) -> None:
    for number, name in enumerate((case, other)):
        rename(cases, name, f"p07_visit{number}")


def same_patient(cases: Cases, case: str, other: str) -> None:
    for name in (case, other):
        cases.image(name).with_name(f"{name}_0000.json").write_text('{"PatientID": "P 17"}')


def swapped(cases: Cases, case: str) -> None:
    first, second = cases.image(case), cases.image(case, 1)
    first.rename(second.with_suffix(".tmp"))
    second.rename(first)
    second.with_suffix(".tmp").rename(second)


def two_forms(cases: Cases, case: str) -> None:
    values, affine = cases.read(cases.image(case))
    cases.write(cases.image(case), values, affine, qform=affine, sform=moved(affine.copy(), 12))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-400])


def lost(file: Path) -> None:
    file.unlink()
    file.symlink_to("/nowhere/at/all.nii.gz")


def counted_wrong(cases: Cases) -> None:
    file = cases.folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "numTraining": 7}))


def blank(values: Array) -> Array:
    return np.zeros_like(values)


DEFECTS: dict[str, tuple[Plant, str, str]] = {
    # kind: (how it is planted, where it must be found: "case", "dataset" or "NAME", text)
    "no label map": (lambda d, c, o, r: d.label(c).unlink(), "case", "has no label"),
    "no image": (lambda d, c, o, r: [d.image(c, k).unlink() for k in (0, 1)], "case", "has no image"),
    "channel missing": (lambda d, c, o, r: d.image(c, 1).unlink(), "case", "channel is missing"),
    "channel too many": (lambda d, c, o, r: shutil.copyfile(d.image(c), d.image(c, 2)), "case", "too many"),
    "truncated image": (lambda d, c, o, r: cut_short(d.image(c)), "case", "cannot read"),
    "truncated label map": (lambda d, c, o, r: cut_short(d.label(c)), "case", "cannot read"),
    "link to nowhere": (lambda d, c, o, r: lost(d.label(c)), "dataset", "to nowhere"),
    "other ending": (lambda d, c, o, r: d.image(c).rename(d.image(c).with_suffix(".GZ")), "case", "mixed file endings"),
    "wrong count": (lambda d, c, o, r: counted_wrong(d), "dataset", "claims 7 training cases"),
    "NaN": (lambda d, c, o, r: d.change(d.image(c), lambda v: put(v, np.nan, np.float32)), "case", "NaN in 1 voxel"),
    "infinity": (lambda d, c, o, r: d.change(d.image(c), lambda v: put(v, np.inf, np.float32)), "case", "infinite"),
    "marker": (lambda d, c, o, r: d.change(d.image(c), lambda v: put(v, -3e38, np.float32)), "case", "no measurement"),
    "zero image": (lambda d, c, o, r: [d.change(d.image(c, k), blank) for k in (0, 1)], "case", "zero everywhere"),
    "constant channel": (lambda d, c, o, r: d.change(d.image(c, 1), lambda v: blank(v) + 9), "case", "is 9 everywhere"),
    "empty label map": (lambda d, c, o, r: d.change(d.label(c), blank), "case", "background only"),
    "stray value": (lambda d, c, o, r: d.change(d.label(c), lambda v: put(v, 7, np.uint8)), "case", "found [7]"),
    "half label": (lambda d, c, o, r: d.change(d.label(c), lambda v: put(v, 1.5, np.float32)), "case", "not whole"),
    "rounded whole label": (
        lambda d, c, o, r: d.change(d.label(c), lambda v: v.astype(np.float32) * np.float32(1.0005)),
        "case",
        "not whole",
    ),
    "label on another grid": (lambda d, c, o, r: resampled(d, d.label(c)), "case", "differ in shape"),
    "label of another shape": (
        lambda d, c, o, r: d.change(d.label(c), lambda v: v[3:]),
        "case",
        "differ in shape",
    ),
    "rounded spacing": (lambda d, c, o, r: d.move(d.label(c), lambda a: spaced(a, 1.0003)), "case", "in spacing"),
    "moved label": (lambda d, c, o, r: d.move(d.label(c), lambda a: moved(a, 30)), "case", "origin or direction"),
    "turned label": (lambda d, c, o, r: flipped(d, d.label(c)), "case", "origin or direction"),
    "turned case": (lambda d, c, o, r: [flipped(d, file) for file in d.files(c)], "dataset", "different directions"),
    "shear": (
        lambda d, c, o, r: [d.move(file, lambda a: sheared(a, 0.005)) for file in d.files(c)],
        "case",
        "not orthonormal",
    ),
    "two places": (lambda d, c, o, r: two_forms(d, c), "case", "two places"),
    "spacing in another unit": (
        lambda d, c, o, r: [d.move(file, lambda a: spaced(a, 0.1)) for file in d.files(c)],
        "case",
        "spacing is of another unit",
    ),
    "duplicate": (lambda d, c, o, r: copied(d, c, o), "case", "the label map is the same too"),
    "near-duplicate": (near_copy, "case", "is almost that of case"),
    "cut from another": (lambda d, c, o, r: cut_from(d, c, o), "case", "voxel for voxel"),
    "label map of another": (
        lambda d, c, o, r: d.change(d.image(c), lambda v: d.read(d.image(o))[0][::-1].copy())
        or d.change(d.image(c, 1), lambda v: d.read(d.image(o, 1))[0][::-1].copy())
        or shutil.copyfile(d.label(o), d.label(c)),
        "case",
        "the label map is that of case",
    ),
    "patient by name": (lambda d, c, o, r: visits(d, c, o), "dataset", "by their names"),
    "patient by id": (lambda d, c, o, r: same_patient(d, c, o), "dataset", "patient id in their headers"),
    "swapped channels": (lambda d, c, o, r: swapped(d, c), "case", "channels are swapped"),
    "times 1000": (lambda d, c, o, r: d.change(d.image(c), lambda v: v * np.float32(1000)), "case", "another unit"),
    "plus 1024": (lambda d, c, o, r: d.change(d.image(c), lambda v: v + np.int16(1024)), "case", "lie 1024 above"),
    "label map as image": (lambda d, c, o, r: shutil.copyfile(d.label(c), d.image(c)), "case", "as label maps do"),
    "front and back swapped": (
        lambda d, c, o, r: d.change(d.label(c), lambda v: np.array([0, 2, 1], np.uint8)[v.astype(int)]),
        "case",
        "on the wrong side",
    ),
    "islands": (lambda d, c, o, r: d.change(d.label(c), islands), "case", "2 foreground voxels that stand alone"),
}  # fmt: skip


def plant(cases: Cases, seed: int) -> dict[str, tuple[str, str]]:
    """Plant every kind of defect in a case of its own, chosen at random.

    Returns:
        Kind → the case in which it was planted, and the unharmed case beside it.
    """
    random = np.random.default_rng(seed)
    order = [str(name) for name in random.permutation(cases.ids)]
    places = {}
    for number, (kind, (defect, _, _)) in enumerate(DEFECTS.items()):
        case, beside = order[2 * number : 2 * number + 2]
        if kind in ("duplicate", "near-duplicate", "cut from another", "label map of another"):
            case, beside = max(case, beside), min(case, beside)  # the later one is told of
        defect(cases, case, beside, random)
        places[kind] = case, beside
    return places
