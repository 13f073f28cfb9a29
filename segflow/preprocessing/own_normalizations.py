"""A user's own normalisations, by names of channels. The plans record them, and no other may replace them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.own_part import OwnPart
from segflow.core.plans import Plans
from segflow.preprocessing.normalization import SCHEMES

CONTRACT = (
    "(image, intensities) → array of the same shape, without NaN and infinity: one channel, cropped, float32 "
    "(Z, Y, X) in plan axes; mean, std, percentile_00_5, percentile_99_5, … of its foreground in the whole dataset, "
    "or None"
)

Normalizations = Mapping[str, OwnPart]
"""Name of channels, which the plans record as the scheme → part that normalises them."""


def check_normalizations(normalizations: Normalizations) -> None:
    """Refuse normalisations that break their contract.

    Raises:
        SegflowError: One breaks the contract or has the name of a shipped one, or two have the same name.
    """
    names: dict[str, str] = {}
    for name, part in normalizations.items():
        if name in SCHEMES or not name.strip() or name.casefold() in names:
            raise SegflowError(
                f"{part.setting}: a normalisation of one's own needs a name of its own",
                found=repr(names.get(name.casefold(), name)),
                expected=f"the name of a channel in dataset.json, and none of {', '.join(SCHEMES)}",
            )
        names[name.casefold()] = name
        part.check(CONTRACT, arguments=2)


def check_planned(plans: Plans, plan: ConfigurationPlan, normalizations: Normalizations) -> None:
    """Refuse normalisations that differ from the planned ones.

    Args:
        plans: Plans with the descriptions of their normalisations.
        plan: The configuration.
        normalizations: The present normalisations.

    Raises:
        SegflowError: A scheme of the configuration is unknown, or names another part than in planning.
    """
    for scheme in dict.fromkeys(plan.normalization_schemes):
        if scheme in SCHEMES:
            continue
        planned = plans.own_normalizations.get(scheme)
        if scheme not in normalizations:
            was = "" if planned is None else f", a part of one's own: {_text(planned)}"
            raise SegflowError(
                f"the plans name the normalisation '{scheme}'{was}",
                expected=", ".join(SCHEMES),
                fix="One of your own is named by the setting 'normalization', here as when planning.",
            )
        now = normalizations[scheme].description
        if planned is not None and planned != now:
            raise SegflowError(
                f"{normalizations[scheme].setting}: the plans were made with another normalisation of this name",
                found=_text(now),
                expected=_text(planned),
                fix="Give it as it was, or plan and preprocess again.",
            )


def normalize_by_own(image: np.ndarray, part: OwnPart, intensities: ChannelIntensities | None) -> None:
    """Normalise one channel in place.

    Args:
        image: float32 (Z, Y, X), cropped, in plan axes.
        part: See `CONTRACT`.
        intensities: The channel's foreground statistics over the dataset.

    Raises:
        SegflowError: The part failed or broke its contract.
    """
    result = part.run(CONTRACT, image, intensities)
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "biuf":
        is_array = isinstance(result, np.ndarray)
        raise part.refused(f"an array of {result.dtype}" if is_array else type(result).__name__, CONTRACT)
    if result.shape != image.shape:
        raise part.refused(f"shape {result.shape} for an image of shape {image.shape}", CONTRACT)
    if not np.isfinite(result).all():
        raise part.refused("NaN or infinity in the result", CONTRACT)
    image[...] = result


def _text(description: object) -> str:
    if not isinstance(description, Mapping):
        return str(description)
    return ", ".join(f"{key}={value}" for key, value in description.items())
