"""Defects of a series of DICOM images, for which its slices are not one volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.wording import counted, some
from segflow.storage.dicom.series import DicomSeries, DicomSlice

AXES_APART = 2e-3
"""Difference of direction cosines from which on two slices are not parallel."""
SAME_PLACE = 1e-3
"""Distance in mm below which two slices lie at the same place."""
UNEVEN = 0.1
"""Share of the distance of slices by which a slice may lie beside its place on an even grid: positions are rounded."""
SIDEWAYS = 0.25
"""Share of a voxel by which slices may be displaced along their plane."""
RESAMPLE = "resample=true brings it to an even grid."
LEAST_MM, MOST_MM = 1e-4, 1e4


def check_series(series: DicomSeries, *, resampled: bool = False) -> None:
    """Refuse a series whose slices are not one volume.

    Args:
        series: The series.
        resampled: Allow what resampling mends: missing slices, uneven gaps, gantry tilt, and copies of a slice.

    Raises:
        SegflowError: It has a defect. The error names the series and the slices.
    """
    for problem in defects(series, resampled=resampled):
        raise problem


def defects(series: DicomSeries, *, resampled: bool = False) -> Iterator[SegflowError]:
    """The defects of a series, the first of which is usually the reason of the others; see `check_series`."""
    for check in (kind_defect, _check_places, _check_axes, _check_sizes):
        if (problem := check(series)) is not None:
            yield _named(series, problem)
            return
    for each in (_check_acquisitions, _check_distances, _check_tilt):
        if (problem := each(series, resampled)) is not None:
            yield _named(series, problem)
            return


def _named(series: DicomSeries, error: SegflowError) -> SegflowError:
    return error.changed(problem=f"{series.title} {error.problem}")


def kind_defect(series: DicomSeries) -> SegflowError | None:
    """Why a series is no volume of one number per voxel; None if it may be one."""
    if "LOCALIZER" in series.image_type:
        return SegflowError("is a localiser, an overview and no volume", fix="Choose another one with series=")
    if series.samples != 1 or not series.photometric.startswith("MONOCHROME"):
        return SegflowError(
            "has colours",
            found=f"{series.samples} numbers per pixel, {series.photometric}",
            expected="one number per pixel, such as CT and MR have",
            fix="Choose another one with series=",
        )
    if len(series.slices) == 1:
        return SegflowError(
            "has one slice only, so that the distance of slices is unknown",
            found=series.slices[0].title,
            fix="Is the copy complete? A model of 2D images reads them as .png or .tif.",
        )
    return None


def _check_places(series: DicomSeries) -> SegflowError | None:
    for what, name in (
        ("position", "ImagePositionPatient"),
        ("orientation", "ImageOrientationPatient"),
        ("pixel_spacing", "PixelSpacing"),
    ):
        lacking = [one for one in series.slices if getattr(one, what) is None]
        if lacking:
            return SegflowError(
                f"has slices without {name}",
                found=_titles(lacking),
                fix="A volume needs the place of each slice. Export it again from where it comes from.",
            )
    return None


def _check_axes(series: DicomSeries) -> SegflowError | None:
    for one in series.slices:
        axes = np.reshape(one.orientation or (), (2, 3))
        if not np.allclose(axes @ axes.T, np.eye(2), atol=AXES_APART):
            return SegflowError(
                "has a slice whose rows and columns are not perpendicular",
                found=f"{one.title}: {_spoken(one.orientation or ())}",
            )
    groups: dict[tuple[float, ...], list[DicomSlice]] = {}
    for one in series.slices:
        own = one.orientation or ()
        known = next((axes for axes in groups if np.abs(np.subtract(axes, own)).max() < AXES_APART), own)
        groups.setdefault(known, []).append(one)
    if len(groups) == 1:
        return None
    rarest = min(groups.values(), key=len)
    return SegflowError(
        "has slices of several orientations",
        found=f"{len(groups)} orientations; another one than most have {_titles(rarest)}",
        fix="Put the slices of one orientation into a folder of their own.",
    )


def _check_sizes(series: DicomSeries) -> SegflowError | None:
    sizes = Counter((one.rows, one.columns, *(one.pixel_spacing or ())) for one in series.slices)
    usual = sizes.most_common(1)[0][0]
    for one in series.slices:
        own = one.rows, one.columns, *(one.pixel_spacing or ())
        if own[:2] != usual[:2] or not np.allclose(own[2:], usual[2:], rtol=1e-3, atol=0):
            return SegflowError(
                "has slices of several sizes",
                found=f"{one.title}: {_size(own)}",
                expected=f"{_size(usual)}, as most",
                fix="Put the slices of one size into a folder of their own.",
            )
    if not all(LEAST_MM <= mm <= MOST_MM for mm in usual[2:]) or series.offsets[-1] - series.offsets[0] > MOST_MM:
        return SegflowError("has distances that are none", found=f"{_size(usual)}, {np.ptp(series.offsets):g} mm high")
    return None


def _check_acquisitions(series: DicomSeries, resampled: bool) -> SegflowError | None:
    """Slices at the same place: several acquisitions if something tells them apart, else copies."""
    groups = same_places(series)
    several = [group for group in groups if len(group) > 1]
    if not several:
        return None
    for name in several[0][0].traits:
        values = [{one.traits.get(name, "") for one in group} for group in several]
        if all(len(found) == len(group) for found, group in zip(values, several, strict=True)):
            return SegflowError(
                f"holds several acquisitions, which differ in {name}",
                found=f"{name} {some(sorted(set().union(*values)))}; at one place {_titles(several[0])}",
                fix="Put the files of one acquisition into a folder of their own.",
            )
    copies = all(len({one.instance_uid for one in group}) == 1 and group[0].instance_uid for group in several)
    if resampled and copies:
        return None
    return SegflowError(
        f"has several slices at {counted(len(several), 'place')}",
        found=f"at one place {_titles(several[0])}",
        fix="They are copies. Remove one of each, or resample=true takes one of each."
        if copies
        else "Put the files of one volume into a folder of their own.",
    )


def same_places(series: DicomSeries) -> list[list[DicomSlice]]:
    """The slices, those at the same place along the normal together."""
    groups: list[list[DicomSlice]] = []
    last = -np.inf
    for one, offset in zip(series.slices, series.offsets, strict=True):
        if offset - last > SAME_PLACE:
            groups.append([])
            last = float(offset)
        groups[-1].append(one)
    return groups


def _check_distances(series: DicomSeries, resampled: bool) -> SegflowError | None:
    groups = same_places(series)
    if len(groups) < 2:
        return SegflowError("has all slices at one place", found=_titles(series.slices))
    if resampled or is_even(series):
        return None
    gaps = np.diff(series.offsets)
    usual = float(np.median(gaps))
    steps = gaps / usual
    whole = np.rint(steps)
    far = np.flatnonzero(np.abs(steps - 1) > UNEVEN)
    worst = int(far[0]) if far.size else int(np.argmax(np.abs(steps - 1)))
    between = f"{gaps[worst]:.4g} mm between {groups[worst][0].title} and {groups[worst + 1][0].title}"
    if whole.min() >= 1 and np.abs(steps - whole).max() <= UNEVEN:
        return SegflowError(
            f"lacks {counted(int((whole - 1).sum()), 'slice')}",
            found=between,
            expected=f"{usual:.4g} mm, as between the others",
            fix=f"Copy or export it again; or {RESAMPLE}",
        )
    return SegflowError("has uneven gaps", found=between, expected=f"{usual:.4g} mm, as most gaps", fix=RESAMPLE)


def is_even(series: DicomSeries) -> bool:
    """Whether slices follow each other at one distance, within what rounding of positions does."""
    offsets = series.offsets
    even = np.linspace(offsets[0], offsets[-1], len(offsets))
    return bool(np.abs(offsets - even).max() <= UNEVEN * float(np.median(np.diff(offsets))))


def _check_tilt(series: DicomSeries, resampled: bool) -> SegflowError | None:
    away = displacements(series)
    spacing = np.array((series.slices[0].pixel_spacing or (1.0, 1.0))[::-1])
    if resampled or np.abs(away / spacing).max() <= SIDEWAYS:
        return None
    worst = int(np.argmax(np.abs(away / spacing).max(axis=1)))
    height = float(series.offsets[worst] - series.offsets[0])
    angle = np.degrees(np.arctan2(float(np.linalg.norm(away[worst])), height))
    return SegflowError(
        "is sheared: the gantry was tilted" if _is_straight(series, away) else "has slices that lie sideways",
        found=f"{series.slices[worst].title} lies {np.linalg.norm(away[worst]):.4g} mm beside the first one, at "
        f"{angle:.3g} degrees",
        fix=RESAMPLE,
    )


def displacements(series: DicomSeries) -> np.ndarray:
    """float64 (slices, 2): by how many mm each slice lies beside the first, along x and y of the slices."""
    first = series.slices[0]
    axes = np.reshape(first.orientation or (), (2, 3))
    positions = np.array([one.position for one in series.slices], dtype=np.float64)
    away: np.ndarray = (positions - positions[0]) @ axes.T
    return away


def _is_straight(series: DicomSeries, away: np.ndarray) -> bool:
    heights = series.offsets - series.offsets[0]
    line = np.outer(heights / heights[-1], away[-1])
    return bool(np.abs(line - away).max() <= 0.1 * np.abs(away).max())


def _titles(slices: Sequence[DicomSlice]) -> str:
    alike = len({one.title for one in slices}) < len(slices)
    return some([f"{one.file.parent.name}/{one.title}" if alike else one.title for one in slices])


def _spoken(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:.4g}" for number in numbers)


def _size(size: Sequence[float]) -> str:
    return f"{size[0]:.0f} × {size[1]:.0f} voxels of {size[2]:.4g} × {size[3]:.4g} mm"
