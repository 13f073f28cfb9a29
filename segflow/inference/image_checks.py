"""Checks of an image against a model's training images."""

from __future__ import annotations

import logging

import numpy as np

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.geometry import permute
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
        expected = len(record.dataset.channels)
        if case.image.shape[0] != expected:
            raise SegflowError(
                "the image has another number of channels than the training images",
                case=case.case_id,
                found=case.image.shape[0],
                expected=f"{expected}: {', '.join(record.dataset.channels)}",
            )
        lowest = [float(channel.min()) for channel in case.image] if case.image.size else []
        highest = [float(channel.max()) for channel in case.image] if case.image.size else []
        if not lowest or not np.isfinite(lowest + highest).all():
            raise SegflowError(
                "the image is empty, or has voxels that are NaN or infinite",
                case=case.case_id,
                fix="Replace such voxels, for example by the lowest intensity.",
            )
        constant = [low == high for low, high in zip(lowest, highest, strict=True)]
        if all(constant):
            raise SegflowError(
                "the image is constant: there is nothing to segment",
                case=case.case_id,
                found=f"{lowest[0]:g} everywhere",
            )
        for channel in np.flatnonzero(constant):
            logger.warning("case '%s': channel %d is constant", case.case_id, channel)
        if absurd := absurd_channels(case.image):
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
