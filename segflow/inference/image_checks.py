"""Checks of an image against a model's training images."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segflow.core.case import Case, OpenCase
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, permute
from segflow.core.image_look import ImageLook
from segflow.core.intensities import absurd_channels, describe_absurd, labels_for_image
from segflow.core.run_record import RunRecord

logger = logging.getLogger(__name__)

SPACING_FACTOR = 20.0
"""Ratio to the training images' spacing above which the unit is probably wrong, such as metres for millimetres."""


class ImageChecks:
    """Compares images with a model's training images. It warns only once about label maps given as images."""

    def __init__(self) -> None:
        self._told_of_labels = False

    def check(self, case: Case, record: RunRecord) -> None:
        """Refuse an image that a model cannot segment, and warn about one that differs from the training images.

        Args:
            case: A case with its image as read, float32 (C, Z, Y, X).
            record: Record of the model.

        Raises:
            SegflowError: The image has other channels, is empty or constant, or holds NaN or infinite values.
        """
        _check_channels(case.case_id, case.image.shape[0], record)
        lowest = [float(channel.min()) for channel in case.image] if case.image.size else []
        highest = [float(channel.max()) for channel in case.image] if case.image.size else []
        _check_ranges(case.case_id, lowest, highest)
        self._compare(case, absurd_channels(case.image), record)

    def check_open(self, case: OpenCase, look: ImageLook, record: RunRecord) -> None:
        """Like `check`, for an image that is read box by box.

        Args:
            case: The case, float32 (C, Z, Y, X).
            look: What `look_at` found.
            record: Record of the model.
        """
        channels, *shape = case.image.shape
        _check_channels(case.case_id, channels, record)
        _check_ranges(case.case_id, [one.low for one in look.channels], [one.high for one in look.channels])
        middle = shape[0] // 2
        some = case.image.read(Box((middle, 0, 0), (middle + 1, *shape[1:])))
        self._compare(Case(case.case_id, some, None, case.geometry), look.absurd, record)

    def _compare(self, case: Case, absurd: str | None, record: RunRecord) -> None:
        if absurd:
            logger.warning("%s", describe_absurd({case.case_id: absurd}))
        self._compare_intensities(case, record)
        self._compare_spacing(case, record)

    def _compare_intensities(self, case: Case, record: RunRecord) -> None:
        count = len(record.dataset.labels.foreground_labels) + 1
        found = labels_for_image(case.image, record.plans.intensities, count)
        if found is None or self._told_of_labels:
            return
        self._told_of_labels = True  # warn only about the first case of a folder of label maps
        values, usual = found
        logger.warning(
            "case '%s' looks like a label map: its only values are %s, while the model was trained on intensities "
            "from %g to %g. Is the input the folder of the images?",
            case.case_id,
            ", ".join(map(str, values)),
            usual.min,
            usual.max,
        )

    def _compare_spacing(self, case: Case, record: RunRecord) -> None:
        own = permute(case.geometry.spacing, record.plans.axis_order)
        usual = record.plans.median_spacing
        dims = record.plan.spatial_dims  # the first spacing of a 2D dataset is artificial
        ratios = [max(a / b, b / a) for a, b in list(zip(own, usual, strict=True))[-dims:]]
        if max(ratios) > SPACING_FACTOR:
            logger.warning(
                "case '%s' has a spacing of %s mm where the training images have %s: are these millimetres?",
                case.case_id,
                [round(s, 4) for s in own],
                [round(s, 4) for s in usual],
            )


def _check_channels(case_id: str, found: int, record: RunRecord) -> None:
    expected = len(record.dataset.channels)
    if found != expected:
        raise SegflowError(
            "the image has another number of channels than the training images",
            case=case_id,
            found=found,
            expected=f"{expected}: {', '.join(record.dataset.channels)}",
        )


def _check_ranges(case_id: str, lowest: Sequence[float], highest: Sequence[float]) -> None:
    if not lowest or not np.isfinite([*lowest, *highest]).all():
        raise SegflowError(
            "the image is empty, or has voxels that are NaN or infinite",
            case=case_id,
            fix="Replace such voxels, for example by the lowest intensity.",
        )
    constant = [low == high for low, high in zip(lowest, highest, strict=True)]
    if all(constant):
        raise SegflowError(
            "the image is constant: there is nothing to segment", case=case_id, found=f"{lowest[0]:g} everywhere"
        )
    for channel in np.flatnonzero(constant):
        logger.warning("case '%s': channel %d is constant", case_id, channel)
