"""Pictures of the same validation patches over the epochs: image, reference, prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.callbacks import Callback

from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.network.device_copies import sent
from segflow.reporting.overlays import PALETTE, best_slice, draw_overlay
from segflow.sampling.batch import PatchBatch, network_input
from segflow.storage.image_formats.placement import RAS
from segflow.storage.images import orientation
from segflow.training.loggers import log_picture, takes_pictures

TAG = "val/patches"

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

COLUMNS = ("image", "reference", "prediction")
GAP = 4
"""Pixels between panels."""

LINE, LETTERS = 36, 28
"""Pixels of a line of text, and of its letters. TensorBoard shows the picture in less than half its size."""
NARROWEST = 160
"""Pixels of a column that the names of columns need."""


class PatchPictures(Callback):
    """Logs a picture every few epochs, and in the last one.

    It shows a patch of each of the fold's first validation cases, the same ones in every epoch and every run of the
    fold. Their Dice is not a score of the run.

    Args:
        labels: The label definition.
        spacing: mm of the plan's axes, of which the last ones are those of a patch.
        every: Epochs between pictures.
        count: Largest number of cases.
    """

    def __init__(self, labels: Labels, spacing: Sequence[float], *, every: int, count: int) -> None:
        self._labels = labels
        self._spacing = tuple(spacing)[-2:]
        self._every = every
        self._count = count
        self._patches: PatchBatch | None = None
        self._slices: Slices | None = None

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        wanted = epoch % self._every == 0 or epoch + 1 == trainer.max_epochs
        boards = [board for board in trainer.loggers if takes_pictures(board)]
        if not (wanted and boards and trainer.is_global_zero):
            return
        dataset = trainer.datamodule.val_dataset  # type: ignore[attr-defined]
        if self._patches is None or self._slices is None:
            patches = dataset.fixed(dataset.case_ids[: self._count])
            if patches.channels_present is not None:
                image = network_input(patches.image, patches.channels_present, mask=pl_module.channel_mask)
                patches = patches._replace(image=image)
            self._patches = patches
            records = [dataset.store.open(case_id).spatial for case_id in patches.case_ids]
            self._slices = slices_of(patches, self._labels, [flips_for_display(record) for record in records])
        with trainer.precision_plugin.val_step_context():
            logits = _logits(pl_module, self._patches.image, self._slices.at, len(dataset.samples))
        picture = draw_slices(self._slices, logits, self._labels, self._spacing)
        for board in boards:
            log_picture(board, TAG, picture, epoch)


class Slices(NamedTuple):
    """A slice of each of some patches.

    Attributes:
        case_ids: The case of each.
        image: (B, height, width), the first channel.
        reference: (B, height, width), labels.
        at: Index of each slice in its patch; None for patches of two dimensions.
        flips: Axes along which each is flipped when it is drawn, see `flips_for_display`.
    """

    case_ids: Sequence[str]
    image: np.ndarray
    reference: np.ndarray
    at: Sequence[int] | None
    flips: Sequence[tuple[int, ...]]


def flips_for_display(spatial: SpatialRecord) -> tuple[int, ...]:
    """Axes of a slice, 0 and 1, that grow to the right, to the front or upwards.

    Flipped along them, a slice shows the patient as radiologists see one: an axial slice from below, with the front at
    the top. There are none for images that do not say where the patient is.
    """
    towards = orientation(spatial.geometry)
    if towards is None:
        return ()
    return tuple(number for number, axis in enumerate(spatial.axis_order[-2:]) if towards[2 - axis] in RAS)


def slices_of(patches: PatchBatch, labels: Labels, flips: Sequence[tuple[int, ...]] | None = None) -> Slices:
    """The slices to draw. Of a 3D patch it is that in which the reference is best seen.

    Args:
        patches: The patches.
        labels: The label definition.
        flips: See `Slices`; None flips no slice.
    """
    flips = [()] * len(patches.image) if flips is None else flips
    image, reference = patches.image[:, 0].numpy(), _painted(patches.label[:, 0].numpy(), labels)
    if image.ndim == 3:
        return Slices(patches.case_ids, image, reference, None, flips)
    at = [best_slice(label) for label in reference]
    samples = range(len(at))
    return Slices(patches.case_ids, image[samples, at], reference[samples, at], at, flips)


def _logits(pl_module: Any, image: torch.Tensor, at: Sequence[int] | None, size: int) -> np.ndarray:
    """Logits (B, K, height, width) of the slices, from batches for which the network was compiled and tuned."""
    found = []
    for first in range(0, len(image), size):
        part = image[first : first + size]
        full = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        logits = pl_module(sent(full, pl_module.device))[0]
        samples = range(len(part))
        chosen = [logits[n] if at is None else logits[n, :, at[first + n]] for n in samples]
        found += [one.float().cpu().numpy() for one in chosen]
    return np.stack(found)


def draw_slices(slices: Slices, logits: np.ndarray, labels: Labels, spacing: Sequence[float]) -> np.ndarray:
    """Draw a row for each slice: the image alone, with the reference, and with the prediction.

    Args:
        slices: What to draw.
        logits: (B, K, height, width), of the same slices.
        labels: The label definition.
        spacing: mm of the slices' axes.

    Returns:
        uint8 (height, width, 3). Labels have the colours of the report, and those of the reference are named.
    """
    rows = []
    for image, reference, flips, values in zip(slices.image, slices.reference, slices.flips, logits, strict=True):
        maps = (np.zeros_like(reference), reference, _predicted(values, labels))
        rows.append([draw_overlay(np.flip(image, flips), np.flip(label, flips), spacing) for label in maps])
    shown = set(np.unique(slices.reference).tolist())
    names = {label: name for label, name in _names(labels).items() if label in shown}
    return _with_words(rows, slices.case_ids, names)


def _painted(label: np.ndarray, labels: Labels) -> np.ndarray:
    """A label map without what has no colour, such as the ignore label."""
    return np.where(np.isin(label, labels.foreground_labels), label, 0)


def _predicted(logits: np.ndarray, labels: Labels) -> np.ndarray:
    if not labels.has_regions:
        return _painted(np.asarray(labels.all_labels)[logits.argmax(axis=0)], labels)
    found = np.zeros(logits.shape[1:], np.int16)
    for value, region in zip(labels.regions_class_order or (), logits > 0, strict=True):
        found[region] = value  # a later region lies within an earlier one
    return found


def _names(labels: Labels) -> dict[int, str]:
    """Label → name. For a dataset with regions, the region for which the label is written."""
    values = labels.regions_class_order if labels.has_regions else labels.foreground_labels
    return dict(zip(values or (), map(labels.name_of, labels.foreground_keys), strict=True))


def _with_words(rows: Sequence[Sequence[np.ndarray]], case_ids: Sequence[str], names: Mapping[int, str]) -> np.ndarray:
    """Put rows of panels (height, width, 3) below each other, with names of columns, cases and labels."""
    height, width = rows[0][0].shape[:2]
    width = max(width, NARROWEST)
    font = ImageFont.load_default(LETTERS)
    legend = _legend(names, font, len(COLUMNS) * (width + GAP) - GAP)
    above = LINE + len(rows) * (LINE + height)
    page = Image.new("RGB", (legend.width, above + legend.height), "white")
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(COLUMNS):
        draw.text((column * (width + GAP), 0), name, "black", font)
    for number, (panels, case_id) in enumerate(zip(rows, case_ids, strict=True)):
        top = LINE + number * (LINE + height)
        draw.text((0, top), case_id, "black", font)
        for column, panel in enumerate(panels):
            page.paste(Image.fromarray(panel), (column * (width + GAP), top + LINE))
    page.paste(legend, (0, above))
    return np.asarray(page)


def _legend(names: Mapping[int, str], font: Font, width: int) -> Image.Image:
    """Colours and names of labels, in as many lines as they need."""
    places: list[tuple[int, int]] = []
    left = line = 0
    for name in names.values():
        size = LETTERS + 4 * GAP + round(font.getlength(name))
        if left and left + size > width:
            left, line = 0, line + 1
        places.append((left, line * LINE))
        left += size
    legend = Image.new("RGB", (width, (line + 1) * LINE), "white")
    draw = ImageDraw.Draw(legend)
    for (left, top), (label, name) in zip(places, names.items(), strict=True):
        draw.rectangle((left, top + GAP, left + LETTERS - GAP, top + LETTERS), PALETTE[(label - 1) % len(PALETTE)])
        draw.text((left + LETTERS, top), name, "black", font)
    return legend
