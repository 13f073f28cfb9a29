"""The mended copy of one case: what can be mended without a guess is, and each change is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.case import CaseFiles
from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.wording import counted
from segflow.storage.case_check import check_case
from segflow.storage.grid_match import ROUNDING, corners_apart, onto_grid, straightened
from segflow.storage.image_formats.contract import ImageFormat, as_label
from segflow.storage.image_formats.placement import is_sheared
from segflow.storage.images import ImageIO, same_placement
from segflow.storage.label_map_files import link_or_copy, remove_label_map
from segflow.storage.label_values import ValueRoles, label_values
from segflow.storage.patients import notes_beside
from segflow.storage.problems import Problem

Done = list[tuple[str, str]]
"""What was wrong, and what was done."""
SHEARED = "its direction is not orthonormal"
NEARLY_WHOLE = 0.01
"""Distance from a whole number within which a label is one that was rounded."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a mended copy.

    Attributes:
        case: The case; empty for the whole dataset.
        file: Name of the file in the copy; empty for a case that is left out.
        found: What was wrong.
        done: What was done.
    """

    case: str
    file: str
    found: str
    done: str


@dataclass(frozen=True, slots=True)
class MendRules:
    """What is allowed and declared.

    Attributes:
        channels: Number of channels that the dataset declares.
        declared: Label values that it declares.
        stray: Value that replaces label values without a name; None leaves out their cases.
        copy: Copy files that need no change; links otherwise.
    """

    channels: int
    declared: tuple[int, ...]
    stray: int | None = None
    copy: bool = False


@dataclass(frozen=True, slots=True)
class MendedCase:
    """Result of `mend_case`.

    Attributes:
        case_id: Name of the case.
        changes: What was changed.
        left: Errors that a person must correct. If there are any, the case is not in the copy.
    """

    case_id: str
    changes: list[Change] = field(default_factory=list)
    left: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> MendedCase:
        """Inverse of `to_json`."""
        changes = [Change(**entry) for entry in value["changes"]]
        return cls(value["case_id"], changes, [Problem(**entry) for entry in value["left"]])


def mend_case(
    files: CaseFiles, targets: CaseFiles, reader: ImageIO, rules: MendRules, known: Sequence[Problem]
) -> MendedCase:
    """Write the mended copy of a case, and check it.

    Args:
        files: The files of the case.
        targets: Where the copy's files belong. What is there is replaced.
        reader: How to read and write them.
        rules: What is allowed.
        known: What `check_case` found in the case.

    Raises:
        NoSpaceError: The disk is full.
    """
    _clear(targets)
    mending = _Mending(files, targets, reader, rules)
    try:
        if files.label is not None and not known and not _has_floats(files.label, reader):
            mending.leave()
            mending.notes()
            return MendedCase(files.case_id)
        mending.images()
        mending.label()
        if mending.changes:
            known = check_case(targets, reader, rules.channels, ValueRoles(rules.declared)).problems
        left = [problem for problem in known if problem.severity == "error"]
    except NoSpaceError:
        raise
    except SegflowError as error:
        left = [Problem.of(error, files.case_id)]
    if left:
        _clear(targets)
    else:
        mending.notes()
    return MendedCase(files.case_id, [] if left else mending.changes, left)


def _clear(targets: CaseFiles) -> None:
    for target in (*targets.images, targets.label):
        if target is not None:
            remove_label_map(target)
            notes_beside(target).unlink(missing_ok=True)


def _has_floats(label: Path, reader: ImageIO) -> bool:
    return np.dtype(reader.read_header(label).dtype).kind == "f"


class _Mending:
    """Writes the files of one case."""

    def __init__(self, files: CaseFiles, targets: CaseFiles, reader: ImageIO, rules: MendRules) -> None:
        self.changes: list[Change] = []
        self._files, self._targets, self._reader, self._rules = files, targets, reader, rules
        self._shape: tuple[int, ...] = ()
        self._read: Geometry | None = None
        self._wanted: Geometry | None = None

    def leave(self) -> None:
        """Bring over all files as they are."""
        pairs = zip((*self._files.images, self._files.label), (*self._targets.images, self._targets.label), strict=True)
        for file, target in pairs:
            if file is not None and target is not None:
                link_or_copy(file, target, copy=self._rules.copy)

    def notes(self) -> None:
        """Bring over the notes beside the images."""
        for file, target in zip(self._files.images, self._targets.images, strict=True):
            if notes_beside(file).is_file() and not notes_beside(target).exists():
                link_or_copy(notes_beside(file), notes_beside(target), copy=self._rules.copy)

    def images(self) -> None:
        """Mend the channels one by one: finite values, the first one's header, perpendicular axes."""
        for file, target in zip(self._files.images, self._targets.images, strict=True):
            voxels, geometry = _stored(self._reader, file)
            shape = voxels.shape[1:]
            done: Done = []
            if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
                voxels = voxels.copy()
                done.extend(_filled(channel, file) for channel in voxels if not np.isfinite(channel).all())
            wanted = geometry
            if self._read is None:
                wanted = self._perpendicular(geometry, shape, done)
                self._shape, self._read, self._wanted = shape, geometry, wanted
            elif self._wanted is not None and self._fits(geometry, shape):
                wanted = self._wanted
                self._header_of_image(geometry, shape, done)
            if not done:
                link_or_copy(file, target, copy=self._rules.copy)
            elif len(voxels) > 1:
                raise SegflowError(f"{file.name} holds several channels, and cannot be mended", found=done[0][0])
            else:
                self._write(voxels[0], wanted, target)
            self._note(target, done)

    def label(self) -> None:
        """Mend the label map: whole numbers, declared values, the image's grid."""
        file, target = self._files.label, self._targets.label
        if file is None or target is None or self._read is None or self._wanted is None:
            raise SegflowError("the case has no label map", fix="Add it, or remove the image.")
        label, geometry, done = self._whole(file)
        done.extend(self._declared(label))
        wanted = self._wanted
        if self._fits(geometry, label.shape):
            self._header_of_image(geometry, label.shape, done)
        else:
            try:
                label = onto_grid(label, geometry, self._shape, wanted)
                done.append(("it lies on another grid than the image", "brought onto the image's grid, nearest label"))
            except SegflowError as error:
                if label.shape != self._shape or not np.allclose(geometry.spacing, wanted.spacing):
                    raise error.changed(fix="Resample it onto the image's grid, or correct its header.") from None
                wanted = geometry  # doctor warns of it
        if done:
            self._reader.write_label(label, wanted, target)
        else:
            link_or_copy(file, target, copy=self._rules.copy)
        self._note(target, done)

    def _fits(self, geometry: Geometry, shape: Sequence[int]) -> bool:
        """Whether a grid is the image's, as it was read, but for rounding."""
        if self._read is None or tuple(shape) != self._shape:
            return False
        return corners_apart(self._read, geometry, shape) <= ROUNDING

    def _header_of_image(self, geometry: Geometry, shape: Sequence[int], done: Done) -> None:
        """Note that a file needs the image's header, if it does."""
        if self._read is None or not self._fits(geometry, shape):
            return  # the check reports it
        if self._wanted is not self._read:
            done.append((SHEARED, "header copied from the image"))
        elif not (np.allclose(geometry.spacing, self._read.spacing) and same_placement(geometry, self._read)):
            done.append(("its header differs from the image's by rounding", "header copied from the image"))

    def _perpendicular(self, geometry: Geometry, shape: Sequence[int], done: Done) -> Geometry:
        """The image's geometry with perpendicular axes; as it is if it has them, or if too much would move."""
        straight = straightened(geometry, shape) if is_sheared(geometry) else None
        if straight is None:
            return geometry
        done.append((SHEARED, "nearest orthonormal direction, with the same centre and spacing"))
        return straight

    def _write(self, values: np.ndarray, geometry: Geometry, target: Path) -> None:
        """Write a channel (Z, Y, X) in its own type."""
        if isinstance(self._reader, ImageFormat):
            self._reader.write_file(values, geometry, target)
        else:
            self._reader.write_map(values, geometry, target)

    def _whole(self, file: Path) -> tuple[np.ndarray, Geometry, Done]:
        """The label map as whole numbers, and what that changed."""
        if not isinstance(self._reader, ImageFormat):
            return *self._reader.read_label(file), []
        voxels, geometry = self._reader.read_label_file(file)
        if len(voxels) != 1 or voxels.dtype.kind != "f":
            return *self._reader.read_label(file), []
        with np.errstate(invalid="ignore"):
            away = float(np.abs(voxels - np.rint(voxels)).max())
        if not away <= NEARLY_WHOLE:
            return *self._reader.read_label(file), []  # says what is wrong
        found = "labels are stored as floats" + (f", up to {away:.1g} from whole numbers" if away else "")
        return as_label(np.rint(voxels[0]), file), geometry, [(found, "stored as whole numbers")]

    def _declared(self, label: np.ndarray) -> Done:
        """Replace values without a name in the label map (Z, Y, X), if that was asked for."""
        unknown = [value for value in label_values(label) if value not in self._rules.declared]
        if not unknown or self._rules.stray is None:
            return []
        wrong = np.isin(label, unknown)
        label[wrong] = self._rules.stray
        found = f"values without a name: {unknown[:10]} in {counted(int(wrong.sum()), 'voxel')}"
        return [(found, f"replaced by {self._rules.stray}")]

    def _note(self, target: Path, done: Done) -> None:
        self.changes.extend(Change(self._files.case_id, target.name, *entry) for entry in done)


def _stored(reader: ImageIO, file: Path) -> tuple[np.ndarray, Geometry]:
    """Voxels (C, Z, Y, X) in their own type, and their geometry."""
    return reader.read_file(file) if isinstance(reader, ImageFormat) else reader.read_image([file])


def _filled(channel: np.ndarray, file: Path) -> tuple[str, str]:
    """Fill voxels (Z, Y, X) that are not finite, in place: NaN and -∞ by the lowest value, +∞ by the highest.

    The lowest value is that of air in CT, and of the background in MR and in maps computed from it.
    """
    finite = np.isfinite(channel)
    if not finite.any():
        raise SegflowError(f"{file.name} holds no finite value", fix="Export it again, or remove the case.")
    low, high = channel[finite].min(), channel[finite].max()
    above = np.isposinf(channel)
    channel[above] = high
    channel[~finite & ~above] = low
    found, done = [], []
    if count := int((~finite & ~above).sum()):
        found.append(f"NaN or -infinity in {counted(count, 'voxel')}")
        done.append(f"filled with the lowest value of the file, {float(low):g}")
    if count := int(above.sum()):
        found.append(f"infinity in {counted(count, 'voxel')}")
        done.append(f"filled with the highest value of the file, {float(high):g}")
    return "; ".join(found), "; ".join(done)
