"""The viewer of cases in a page: which cases it holds, and their voxels as the page's script reads them.

The page has few megabytes for cases. They are packed in the order in which a reader wants them, until these are used
up: small cases go in whole, large ones are cut to their labels and averaged (`reduce_case`).
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.reporting.overlays import PALETTE
from segflow.reporting.reduced_case import ReducedCase, is_flat, reduce_case
from segflow.storage.images import ImageIO

PAGE_CHARACTERS = 10_000_000
"""Characters of a page that the voxels of all its cases may take."""
MOST_CASES = 40
"""Cases in a page at most; each costs the time to read it."""
LARGE_CASES = 5
"""Cases that the page holds at least, however large they are."""
CHARACTERS_PER_VALUE = 0.9
"""Of a noisy image with 256 steps, compressed and written as text."""

SIDES = ("reference", "prediction")
IGNORED = (128, 128, 128)
"""Colour of the ignore label."""
CT_WINDOWS = {"soft tissue": (-160.0, 240.0), "lung": (-1350.0, 150.0), "bone": (-450.0, 1050.0)}
"""Usual windows of a CT, lowest and highest HU."""
STEPS = "Intensities have 256 steps."
LIBRARY = "niivue.umd.js"


@dataclass(frozen=True, slots=True)
class ViewedCase:
    """A case that the viewer may hold.

    Attributes:
        case_id: Its name.
        images: Files of the image.
        maps: ``reference`` and ``prediction``, or one of them → file of the label map.
        rank: Why it is shown, such as ``worst``; may be empty.
        score: Its mean Dice; None without one.
        scores: Name of a label → Dice.
        missing: Numbers of the channels that have no file.
    """

    case_id: str
    images: tuple[Path, ...]
    maps: Mapping[str, Path]
    rank: str = ""
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[int, ...] = ()


def check_channel(channel: int, channels: Sequence[str]) -> None:
    """Refuse the number of a channel that images do not have.

    Raises:
        SegflowError: There is no such channel.
    """
    if not 0 <= channel < len(channels):
        raise SegflowError("the images have no such channel", found=channel, expected=f"0 … {len(channels) - 1}")


def ranked(scores: Mapping[str, float], groups: Mapping[str, str] | None = None) -> dict[str, str]:
    """The cases in the order in which a page should hold them, each with the reason.

    The worst, the median and the best come first, then the two next to the worst, then the median case of each group,
    such as a fold, then all others, evenly over the scores.

    Args:
        scores: Case → score. Cases whose score is NaN come last.
        groups: Case → group.

    Returns:
        Case → reason; empty for the others.
    """
    order = sorted((case for case in scores if not math.isnan(scores[case])), key=lambda case: (scores[case], case))
    if not order:
        return dict.fromkeys(scores, "")
    middle = order[len(order) // 2]
    chosen = {order[0]: "worst"}
    chosen.setdefault(middle, "median")
    chosen.setdefault(order[-1], "best")
    for number, case in enumerate(order[1:3], start=2):
        chosen.setdefault(case, ("second", "third")[number - 2] + " worst")
    members: dict[str, list[str]] = {}
    for case in order:
        if groups and case in groups:
            members.setdefault(groups[case], []).append(case)
    for group in sorted(members):
        chosen.setdefault(members[group][len(members[group]) // 2], f"median of {group}")
    rest = [case for case in order if case not in chosen]
    chosen.update(dict.fromkeys((rest[index] for index in _spread(len(rest))), ""))
    return {**chosen, **dict.fromkeys((case for case in scores if case not in chosen), "")}


def _spread(count: int) -> Iterable[int]:
    """0 … count - 1, such that each beginning of the sequence is spread over the range."""
    bits = max(1, (count - 1).bit_length())
    mirrored = (int(format(number, f"0{bits}b")[::-1], 2) for number in range(1 << bits))
    return (number for number in mirrored if number < count)


def pack_cases(
    cases: Sequence[ViewedCase],
    labels: Labels,
    reader: ImageIO,
    channels: Sequence[str],
    *,
    first_channel: int = 0,
    most_characters: int = PAGE_CHARACTERS,
) -> dict[str, Any]:
    """What the script of the viewer reads; plain JSON.

    Args:
        cases: In the order of importance. They are read until the page is full.
        labels: Of the dataset.
        reader: How to read the files; label maps hold classes.
        channels: Names of the image's channels.
        first_channel: Channel that is shown first.
        most_characters: Of all cases together. A single case may exceed its share by a half.

    Returns:
        ``cases``: those that the page holds, ``missing``: folder → names of those that it does not hold,
        ``labels``: class, name and colour of each label, ``ignored``: class of the ignore label or None, ``windows``:
        usual windows of a CT, ``channel``: the first channel to show.
    """
    packed: list[dict[str, Any]] = []
    missing: dict[str, list[str]] = {}
    left, share = most_characters, most_characters // max(1, min(LARGE_CASES, len(cases)))
    for case in cases:
        if len(packed) >= MOST_CASES or left < share / 2:
            missing.setdefault(_folder(case), []).append(case.case_id)
            continue
        entry = _packed(case, labels, reader, channels, min(left, share))
        left -= sum(len(text) for text in _texts(entry))
        packed.append(entry)
    return {
        "cases": packed,
        "missing": missing,
        "labels": [[number, _name(labels, number), color_of(labels, number)] for number in labels.classes if number],
        "ignored": labels.ignore_label,
        "channel": first_channel,
        "windows": {name: list(window) for name, window in CT_WINDOWS.items()},
    }


def color_of(labels: Labels, number: int) -> tuple[int, int, int]:
    """The colour of a class."""
    return IGNORED if number == labels.ignore_label else PALETTE[(number - 1) % len(PALETTE)]


def _name(labels: Labels, number: int) -> str:
    """The name of a class; of one that only regions hold, the names of these."""
    name = labels.name_of(number)
    if name != str(number):
        return name
    return " + ".join(key for key, own in labels.entries.items() if isinstance(own, tuple) and number in own) or name


def _folder(case: ViewedCase) -> str:
    return str(next((case.maps[side].parent for side in reversed(SIDES) if side in case.maps), case.images[0].parent))


def _texts(entry: Mapping[str, Any]) -> list[str]:
    return [text for text in (*(channel["voxels"] for channel in entry["channels"]), *entry["maps"].values()) if text]


def _packed(
    case: ViewedCase, labels: Labels, reader: ImageIO, channels: Sequence[str], characters: int
) -> dict[str, Any]:
    """A case as the page holds it. What is wrong with a case that cannot be read stands in its notes."""
    entry: dict[str, Any] = {
        "id": case.case_id,
        "rank": case.rank,
        "score": _number(case.score),
        "scores": {name: _number(score) for name, score in case.scores.items()},
        "folder": _folder(case),
        "channels": [],
        "maps": {},
        "notes": [],
    }
    try:
        reduced = reduce_case(
            case.images,
            case.maps,
            reader,
            most_values=int(characters / CHARACTERS_PER_VALUE),
            ignored=labels.ignore_label,
        )
    except SegflowError as error:
        return {**entry, "notes": [str(error)]}
    flat = is_flat(reduced.image.shape[1:], reduced.spacing)
    lacking = [f"{channels[number]} is missing." for number in case.missing]
    channels = [name for number, name in enumerate(channels) if number not in case.missing]
    packed = [_channel(reduced, number, channels) for number in range(len(reduced.image))]
    highest = max((int(label.max()) for label in reduced.labels.values()), default=0)
    return {
        **entry,
        "size": list(reduced.image.shape[:0:-1]),
        "spacing": [float(s) for s in reversed(reduced.spacing)],
        "oriented": reduced.oriented,
        "flat": flat,
        "color": flat and len(reduced.image) == 3,
        "wide": highest > 255,
        "channels": packed,
        "maps": {
            name: _text(_nifti(label.astype(np.uint16 if highest > 255 else np.uint8), reduced.spacing))
            for name, label in reduced.labels.items()
        },
        "notes": [*lacking, *reduced.notes, *([STEPS] if any(channel["step"] != 1 for channel in packed) else [])],
    }


def _channel(case: ReducedCase, number: int, names: Sequence[str]) -> dict[str, Any]:
    """A channel in 256 steps from its lowest to its highest value, but for one voxel in a thousand at either end."""
    values = case.image[number]
    name = names[number] if number < len(names) else f"channel {number}"
    low, high = (float(value) for value in np.percentile(values, [0.1, 99.9]))
    if float(values.min()) >= 0 and float(values.max()) <= 255 and np.array_equal(values, np.rint(values)):
        low, high = 0.0, 255.0  # bytes, such as those of a picture, stay as they are
    step = (high - low) / 255 or 1.0
    stored = np.clip(np.rint((values - low) / step), 0, 255).astype(np.uint8)
    if name.strip().lower() == "ct":
        window = _ct_window(case, values)
    else:
        darkest, brightest = (float(value) for value in np.percentile(values, [0.5, 99.5]))
        window = (darkest, brightest) if darkest < brightest else (low, low + 255 * step)
    return {
        "name": name,
        "low": low,
        "step": step,
        "window": list(window),
        "voxels": _text(_nifti(stored, case.spacing, low, step)),
    }


def _ct_window(case: ReducedCase, values: np.ndarray) -> tuple[float, float]:
    """The usual window for what the labels mark."""
    label = next(iter(case.labels.values()), None)
    inside = values if label is None or not label.any() else values[label > 0]
    middle = float(np.median(inside))
    return CT_WINDOWS["lung" if middle < -300 else "bone" if middle > 250 else "soft tissue"]


def _nifti(array: np.ndarray, spacing: Sequence[float], low: float = 0.0, step: float = 1.0) -> bytes:
    """An array (Z, Y, X) as a NIfTI whose x grows to the left and y to the back, as `TO_SCREEN` says."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    x, y, z = reversed(spacing)
    header.set_sform(np.diag([-x, -y, z, 1.0]), code=1)
    header.set_zooms((x, y, z))
    header["scl_slope"], header["scl_inter"] = step, low
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return bytes(header.binaryblock) + bytes(4) + array.tobytes()


def _text(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


@cache
def library() -> str:
    """NiiVue, which draws with WebGL; compressed, as text."""
    return _text((package_files("segflow.reporting") / "vendor" / LIBRARY).read_bytes())
