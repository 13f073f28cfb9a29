"""All problems of one case of a raw dataset; each of its files is read once (recipe 1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.intensities import ABSURD_FIX, absurd_channels, absurd_values
from segflow.core.wording import counted
from segflow.storage.case_features import CaseFeatures
from segflow.storage.images import (
    SAME_GRID,
    TURNED,
    ImageIO,
    check_channels,
    form_conflict,
    is_left_handed,
    is_sheared,
    may_be_turned,
    mm,
    orientation,
    same_placement,
    shape_advice,
    shown_as,
)
from segflow.storage.label_values import LEFT_OUT, LEFT_OUT_FIX, ValueRoles, label_values
from segflow.storage.patients import patient_in_header
from segflow.storage.problems import Problem


@dataclass(frozen=True, slots=True)
class CheckedCase:
    """Result of the check of one case.

    Attributes:
        case_id: Name of the case.
        problems: Its problems.
        orientation: Orientation of its image, such as ``RAS``, or None.
        background_only: Whether its label map has no foreground; None if it could not be read.
        left_handed: Whether its image's axes are left-handed, like those of a mirror image.
        features: What it holds, to be compared with other cases.
    """

    case_id: str
    problems: list[Problem]
    orientation: str | None
    background_only: bool | None
    left_handed: bool
    features: CaseFeatures


def check_case(
    files: CaseFiles, reader: ImageIO, channels: int | None, roles: ValueRoles, sided: tuple[int, ...] = ()
) -> CheckedCase:
    """Check one case, channel by channel.

    Args:
        files: Its files.
        reader: How to read them.
        channels: Number of channels that the dataset declares; None leaves it unchecked.
        roles: What the values of label maps stand for.
        sided: Values whose names tell a side of the patient.
    """
    check = _CaseCheck(files, reader)
    check.images(channels)
    check.label(roles, sided)
    return CheckedCase(
        files.case_id, check.problems, check.orientation, check.background_only, check.left_handed, check.features
    )


class _CaseCheck:
    """Collects the problems of one case."""

    def __init__(self, files: CaseFiles, reader: ImageIO) -> None:
        self.problems: list[Problem] = []
        self.orientation: str | None = None
        self.background_only: bool | None = None
        self.left_handed = False
        self.features = CaseFeatures(files.case_id, patient=patient_in_header(files.images[0]))
        self._files = files
        self._reader = reader
        self._grid: tuple[tuple[int, ...], Geometry] | None = None
        self._grid_file = ""

    def images(self, channels: int | None) -> None:
        """Read the image files one by one."""
        count, readable, zero = 0, True, {}
        for file in self._files.images:
            try:
                image, geometry = self._reader.read_image([file])
            except SegflowError as error:
                readable = False
                self.features.image = None
                self.problems.append(Problem.of(error, self._files.case_id))
                continue
            count += image.shape[0]
            zero[file.name] = self._intensities(file, image, geometry)
            if is_sheared(geometry):
                self._warn(
                    f"{file.name} has a direction that is not orthonormal", "It is used as it is; check its overlay."
                )
            self._same_grid(file, image.shape[1:], geometry)
            del image  # frees its memory before the next one is read
        if zero and all(zero.values()):
            self._error("the image is zero everywhere", "Export it again, or remove the case.")
        elif any(zero.values()):
            names = ", ".join(name for name, is_zero in zero.items() if is_zero)
            self._warn(f"a channel is zero everywhere: {names}", "Is that intended?")
        if readable and channels is not None:
            try:
                check_channels(count + len(self._files.missing), channels)
            except SegflowError as error:
                self.problems.append(Problem.of(error, self._files.case_id))

    def label(self, roles: ValueRoles, sided: tuple[int, ...]) -> None:
        """Read the label map."""
        file = self._files.label
        if file is None:
            return  # already reported by `discover`
        try:
            label, geometry = self._reader.read_label(file)
        except SegflowError as error:
            self.problems.append(Problem.of(error, self._files.case_id))
            return
        self._same_grid(file, label.shape, geometry)
        values = label_values(label)
        unknown = [value for value in values if value not in roles.declared]
        if unknown:
            self._error(
                f"{file.name} holds labels that dataset.json does not name; found {unknown[:10]}; "
                f"expected only {sorted(roles.declared)}",
                "Put 255 in place of 1 into the labels of dataset.json, or [1, 255] if some label maps hold 1."
                if unknown == [255]
                else "Name them in dataset.json, or correct the label map.",
            )
        if held := [value for value in values if value in roles.absent]:
            names = ", ".join(dict.fromkeys(roles.absent[value] for value in held))
            text = f"{file.name} holds {LEFT_OUT}: {names}; found {held[:10]}"
            self._error(text, LEFT_OUT_FIX)
        self.background_only = {*values} <= {*roles.background, *roles.ignored}
        if self.background_only:
            also = "" if {*values} <= {*roles.background} else " and what is ignored"
            self._warn(f"{file.name} holds background{also} only", "Right for a case without findings.")
        self.features.add_label(label, geometry, sided, roles)

    def _intensities(self, file: Path, image: np.ndarray, geometry: Geometry) -> bool:
        """Report NaN, infinite and absurd voxels. Returns whether all are zero."""
        lowest, highest = float(image.min()), float(image.max())  # NaN anywhere makes both NaN
        if np.isnan(lowest):
            count = counted(int(np.isnan(image).sum()), "voxel")
            also = " and infinite values" * bool(np.isinf(image).any())
            self._error(f"{file.name} holds NaN in {count}{also}", "Replace them, for example by the air's value.")
        elif np.isinf(lowest) or np.isinf(highest):
            self._error(f"{file.name} holds infinite values", "Replace them.")
        elif lowest == highest != 0.0:
            self._warn(f"{file.name} is {lowest:g} everywhere", "Is that intended?")
        elif absurd := absurd_values(image[0]) if len(image) == 1 else absurd_channels(image):
            self._warn(f"{file.name} holds values that no measurement gives; {absurd}", ABSURD_FIX)
        if np.isfinite(lowest + highest):
            self.features.add_channels(image, geometry)
        else:
            self.features.image = None
        return lowest == 0.0 and highest == 0.0

    def _same_grid(self, file: Path, shape: tuple[int, ...], geometry: Geometry) -> None:
        if conflict := form_conflict(geometry, shape):
            self._warn(
                f"{file.name} has two places in the patient: {conflict}",
                "Some viewers follow one, some the other. Find out which is right and write it to both.",
            )
        if self._grid is None:
            self._grid, self._grid_file = (shape, geometry), file.name
            self.orientation = orientation(geometry)
            self.left_handed = is_left_handed(geometry)
            return
        first_shape, first = self._grid
        pair = f"{self._grid_file} and {file.name}"
        if shape != first_shape:
            advice = shape_advice(first, geometry)
            self._error(f"{pair} differ in shape (z, y, x); found {first_shape} and {shape}", advice)
        elif may_be_turned(shape, first, geometry):
            turns = f"orientation {shown_as(first)} and {shown_as(geometry)}"
            self._warn(f"{pair}: viewers turn one of them and not the other; EXIF's {turns}", TURNED)
        if not np.allclose(geometry.spacing, first.spacing):
            self._error(f"{pair} differ in spacing (z, y, x); found {mm(first)} and {mm(geometry)}", SAME_GRID)
        elif not same_placement(geometry, first):
            self._warn(f"{pair} differ in origin or direction", "The image's is used. Check that they overlay.")

    def _error(self, message: str, fix: str) -> None:
        self.problems.append(Problem(self._files.case_id, "error", message, fix))

    def _warn(self, message: str, fix: str) -> None:
        self.problems.append(Problem(self._files.case_id, "warning", message, fix))
