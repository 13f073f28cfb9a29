"""Checks of an image against a model's training images."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segflow.core.case import Case, OpenCase
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry, permute
from segflow.core.image_look import ImageLook
from segflow.core.intensities import absurd_channels, describe_absurd, labels_for_image
from segflow.core.missing_channels import names_of_missing
from segflow.core.run_record import RunRecord
from segflow.core.training_images import ImageFacts, image_quantiles, without_missing
from segflow.inference.find_cases import TRAIN_WITHOUT
from segflow.inference.predict_settings import IGNORE, REFUSE, WARN
from segflow.inference.unlike import differences, differences_from_plans
from segflow.storage.image_formats.placement import orientation

logger = logging.getLogger(__name__)

SPACING_FACTOR = 20.0
"""Ratio to the training images' spacing above which the unit is probably wrong, such as metres for millimetres."""


MOST_TOLD = 20
"""Images that are told as unlike the training images; further ones are logged at level info."""


class ImageChecks:
    """Compares images with a model's training images. It warns only once about label maps given as images.

    Args:
        on_unlike: What is done about an image that is unlike them: ``warn``, ``refuse`` or ``ignore``.
    """

    def __init__(self, on_unlike: str = WARN) -> None:
        self.on_unlike = on_unlike
        self._told_of_labels = False
        self._told = 0
        self._told_of_no_record = False

    def check(self, case: Case, record: RunRecord) -> None:
        """Refuse an image that a model cannot segment, and warn about one that differs from the training images.

        Args:
            case: A case with its image as read, float32 (C, Z, Y, X).
            record: Record of the model.

        Raises:
            SegflowError: The image has other channels, is empty or constant, holds NaN or infinite values, or is to
                be refused as unlike the training images.
        """
        _check_channels(case.case_id, case.image.shape[0], record)
        lowest = [float(channel.min()) for channel in case.image] if case.image.size else []
        highest = [float(channel.max()) for channel in case.image] if case.image.size else []
        _check_missing(case.case_id, case.missing, record)
        _check_ranges(case.case_id, lowest, highest, case.missing)
        self._compare(case, absurd_channels(case.image), record)
        if self.on_unlike != IGNORE:
            self._compare_with_training(case.case_id, _facts(case, image_quantiles(case.image)), record)

    def check_open(self, case: OpenCase, look: ImageLook, record: RunRecord) -> None:
        """Like `check`, for an image that is read box by box.

        Args:
            case: The case, float32 (C, Z, Y, X).
            look: What `look_at` found.
            record: Record of the model.
        """
        channels, *shape = case.image.shape
        _check_channels(case.case_id, channels, record)
        _check_missing(case.case_id, case.missing, record)
        lowest, highest = [one.low for one in look.channels], [one.high for one in look.channels]
        _check_ranges(case.case_id, lowest, highest, case.missing)
        middle = shape[0] // 2
        some = case.image.read(Box((middle, 0, 0), (middle + 1, *shape[1:])))
        self._compare(Case(case.case_id, some, None, case.geometry, case.missing), look.absurd, record)
        if self.on_unlike != IGNORE:
            self._compare_with_training(case.case_id, _facts(case, look.quantiles), record)

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

    def _compare_with_training(self, case_id: str, image: ImageFacts, record: RunRecord) -> None:
        """Warn about an image that is unlike the training images, or refuse it."""
        if record.images is None:
            if not self._told_of_no_record:
                logger.info("the model does not record its training images: of new ones, only CT values are compared")
            self._told_of_no_record = True
            found = differences_from_plans(image, record.plans.intensities, record.plan.normalization_schemes)
        else:
            axes = record.plans.axis_order[-record.plan.spatial_dims :]
            found = differences(image, record.images, record.dataset.channels, axes)
        if found and self.on_unlike == REFUSE:
            raise SegflowError(
                "the image is unlike the training images",
                case=case_id,
                found="; ".join(str(error).rstrip(".") for error in found),
                fix="inference.on_unlike=warn predicts it all the same.",
            )
        for error in found:
            level = logging.WARNING if self._told < MOST_TOLD else logging.INFO
            logger.log(level, "%s", error.of_case(case_id))
            self._told += 1

    def _compare_spacing(self, case: Case, record: RunRecord) -> None:
        if record.images is not None:  # compared with all training images
            return
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


def _facts(case: Case | OpenCase, quantiles: tuple[tuple[float, ...], ...]) -> ImageFacts:
    geometry: Geometry = case.geometry
    known = without_missing(quantiles, case.missing)
    return ImageFacts(tuple(case.image.shape[1:]), geometry.spacing, orientation(geometry), known)


def _check_channels(case_id: str, found: int, record: RunRecord) -> None:
    expected = len(record.dataset.channels)
    if found != expected:
        raise SegflowError(
            "the image has another number of channels than the training images",
            case=case_id,
            found=found,
            expected=f"{expected}: {', '.join(record.dataset.channels)}",
            fix=TRAIN_WITHOUT if found < expected else None,
        )


def _check_missing(case_id: str, missing: Sequence[int], record: RunRecord) -> None:
    """Refuse an image without channels that the model needs."""
    may_lack = () if record.missing is None else record.missing.may_lack
    if needed := [number for number in missing if number not in may_lack]:
        channels = record.dataset.channels
        raise SegflowError(
            "the image lacks channels that the model was not trained to do without",
            case=case_id,
            found=f"no {names_of_missing(needed, channels)}",
            expected=f"it may lack {names_of_missing(may_lack, channels)}" if may_lack else "all channels",
            fix=TRAIN_WITHOUT,
        )


def _check_ranges(case_id: str, lowest: Sequence[float], highest: Sequence[float], missing: Sequence[int] = ()) -> None:
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
        if channel in missing:
            continue
        logger.warning("case '%s': channel %d is constant", case_id, channel)
