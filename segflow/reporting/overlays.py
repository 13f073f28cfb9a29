"""Pictures of a case: one slice of the image with labels in colour (recipe 14.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.execution.parallel import Job, run_jobs
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.images import ImageIO, case_error, read_case
from segflow.storage.json_files import written_whole

PALETTE = (
    (67, 99, 216), (245, 130, 49), (60, 180, 75), (230, 25, 75), (145, 30, 180), (255, 225, 25), (66, 212, 244),
    (240, 50, 230), (191, 239, 69), (250, 190, 212), (70, 153, 144), (220, 190, 255), (154, 99, 36), (170, 255, 195),
    (128, 128, 0),
)  # fmt: skip
"""Colours of label 1, 2, …; they begin again after the last. A label has one colour, whatever else is in the slice."""

SMALLEST_PICTURE, LARGEST_PICTURE = 256, 768
"""Pixels of the longer side: smaller slices are enlarged, larger ones reduced."""


@dataclass(kw_only=True, slots=True)
class OverlaySettings:
    """How a slice is drawn.

    Attributes:
        channel: Which of the image's channels is shown.
        opacity: Of the labels, 0 to 1.
        processes: Worker processes; 0 draws one after the other in this process.
    """

    channel: int = 0
    opacity: float = 0.5
    processes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise SegflowError("overlays: 'opacity' lies between 0 and 1", found=self.opacity)


def best_slice(label: np.ndarray) -> int:
    """The slice of the first axis that shows most of every label.

    Of each foreground label it takes the share that lies in the slice, and maximises their mean.

    Args:
        label: Whole numbers (Z, Y, X); what is below 1 is background.

    Returns:
        Its index; the middle where there is no label.
    """
    flat = label.reshape(len(label), -1)
    present = np.unique(flat)
    present = present[present > 0]
    if not present.size:
        return len(label) // 2
    highest = int(present[-1])
    counts = np.stack([np.bincount(np.maximum(one, 0), minlength=highest + 1) for one in flat])[:, present]
    return int(np.argmax((counts / counts.sum(0)).mean(1)))


def draw_overlay(image: np.ndarray, label: np.ndarray, spacing: Sequence[float], *, opacity: float = 0.5) -> np.ndarray:
    """A slice in grey with its labels in colour, in true proportions.

    Args:
        image: (Y, X).
        label: Whole numbers (Y, X).
        spacing: mm along y, x.
        opacity: Of the labels, 0 to 1.

    Returns:
        uint8 (height, width, 3).
    """
    low, high = np.percentile(image, [0.5, 99.5])  # single bright voxels would leave the rest black
    grey = np.clip((image.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1) * 255
    picture = np.repeat(grey[..., np.newaxis], 3, axis=2)
    inside = label > 0
    colors = np.asarray(PALETTE, dtype=np.float32)[(label[inside].astype(np.int64) - 1) % len(PALETTE)]
    picture[inside] = (1 - opacity) * picture[inside] + opacity * colors
    height, width = (n * s for n, s in zip(image.shape, spacing, strict=True))
    scale = np.clip(max(image.shape), SMALLEST_PICTURE, LARGEST_PICTURE) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    enlarged = size[0] >= image.shape[1] and size[1] >= image.shape[0]
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize(size, method))


def write_overlays(
    cases: Sequence[CaseFiles],
    output: Path,
    reader: ImageIO,
    settings: OverlaySettings | None = None,
    *,
    progress: Progress = silent,
) -> Mapping[str, str]:
    """Draw each case's slice that shows most of its labels, to ``<case>.png``.

    Args:
        cases: With labels.
        output: Folder for the pictures.
        reader: How the files are read.
        settings: See `OverlaySettings`.
        progress: Told of each case.

    Returns:
        Case → message, for those that could not be drawn; the others are done.
    """
    settings = settings or OverlaySettings()
    jobs = [Job(case.case_id, (case, output / f"{case.case_id}.png", reader, settings)) for case in cases]
    failed = {}
    progress(ProgressEvent("draw", "", 0, len(jobs)))
    for done, outcome in enumerate(run_jobs(_write_overlay, jobs, processes=settings.processes), start=1):
        if outcome.error is not None:
            failed[outcome.name] = outcome.error
        progress(ProgressEvent("draw", outcome.name, done, len(jobs)))
    return failed


def _write_overlay(files: CaseFiles, target: Path, reader: ImageIO, settings: OverlaySettings) -> None:
    case = read_case(files, reader)
    if case.label is None:
        raise case_error(files.case_id, SegflowError("there is no label map to draw"))
    channel = channel_of(case.image, settings.channel, files.case_id)
    index = best_slice(case.label)
    picture = draw_overlay(channel[index], case.label[index], case.geometry.spacing[1:], opacity=settings.opacity)
    with written_whole(target) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def channel_of(image: np.ndarray, channel: int, case_id: str) -> np.ndarray:
    """One channel of an image (C, Z, Y, X).

    Raises:
        SegflowError: There is no such channel. Names the case.
    """
    if not 0 <= channel < len(image):
        raise SegflowError(
            "the image has no such channel", case=case_id, found=channel, expected=f"0 … {len(image) - 1}"
        )
    return image[channel]
