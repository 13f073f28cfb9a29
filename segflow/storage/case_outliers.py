"""Cases that differ from the others of their dataset: other units, swapped channels, label maps as images, islands.

A statistic tells something only if nearly all cases agree on it. So at most one case in twenty is called an outlier;
if there are more, such values belong to the dataset. (In the decathlon's hippocampus one image in nine has values 400
times those of the others; MR has no unit.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from segflow.core.wording import counted, some
from segflow.storage.case_features import CaseFeatures
from segflow.storage.problems import Problem

LEAST_CASES = 8
"""Cases from which on it is known what is usual."""
RARE = 0.05
"""Share of cases that may be outliers."""
FAR = 5.0
"""Standard deviations, robust ones, beyond which a value is an outlier."""
NEAR = 3.0
"""Standard deviations within which a value is a usual one."""
MUCH_BETTER = 3.0
"""Factor by which an explanation must fit better than none."""
OTHER_SCALE = 30.0
"""Factor between the ranges of values from which on they are of another unit. MR of one kind varies by ten."""
OTHER_SPACING = 5.0
"""Factor between spacings, along all axes alike, from which on they are of another unit."""
OFFSETS = (1024.0, 1000.0)
"""Values that separate Hounsfield units from what scanners and other programs store."""
MOST_PERMUTED = 5
"""Channels up to which all orders are compared."""


def outlier_problems(cases: Sequence[CaseFeatures], channels: Sequence[str]) -> list[Problem]:
    """Warnings about cases that differ from the others.

    Args:
        cases: All cases that could be read.
        channels: Names of the channels.
    """
    whole = [case for case in cases if len(case.channels) == len(channels) and _is_finite(case)]
    problems = _islands(cases)
    if len(whole) < LEAST_CASES:
        return problems
    explained = [*_swapped(whole, channels), *_label_maps(whole, channels)]
    told = {problem.case for problem in explained}
    return [
        *problems,
        *explained,
        *(problem for problem in _units(whole, channels) if problem.case not in told),
        *_spacings(whole),
    ]


def _is_finite(case: CaseFeatures) -> bool:
    return all(math.isfinite(channel.width) for channel in case.channels)


def _rare(found: list[Problem], cases: int) -> list[Problem]:
    return found if len(found) <= max(1, RARE * cases) else []


def _middle_and_spread(values: np.ndarray, least: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians and robust standard deviations along the first axis."""
    middle = np.median(values, axis=0)
    return middle, np.maximum(1.4826 * np.median(np.abs(values - middle), axis=0), least)


def _units(cases: Sequence[CaseFeatures], channels: Sequence[str]) -> list[Problem]:
    problems = []
    for number, name in enumerate(channels):
        quantiles = np.array([case.channels[number].quantiles for case in cases])
        which = f"channel {number} ({name})" if len(channels) > 1 else "the image"
        scales = _scales(cases, quantiles, which)
        told = {problem.case for problem in scales}
        offsets = [problem for problem in _offsets(cases, quantiles, which) if problem.case not in told]
        problems.extend([*_rare(scales, len(cases)), *_rare(offsets, len(cases))])
    return problems


def _scales(cases: Sequence[CaseFeatures], quantiles: np.ndarray, which: str) -> list[Problem]:
    widths = quantiles[:, -1] - quantiles[:, 0]
    usable = widths > 0
    if usable.sum() < LEAST_CASES:
        return []
    logs = np.log10(np.where(usable, widths, 1.0))
    middle, spread = _middle_and_spread(logs[usable], 0.05)
    found = []
    for case, log, width in zip(cases, logs, widths, strict=True):
        apart = float(log - middle)
        if width > 0 and abs(apart) > max(math.log10(OTHER_SCALE), FAR * float(spread)):
            factor = f"{10**apart:.3g} times" if apart > 0 else f"1/{10**-apart:.3g} of"
            low, high = np.quantile(widths[usable], (0.05, 0.95))
            text = (
                f"the values of {which} span {width:.4g}, {factor} what is usual, as in another unit; "
                f"expected {low:.4g} to {high:.4g}"
            )
            fix = "Bring its values to the unit of the others. MR has no unit, and is normalised image by image anyway."
            found.append(Problem(case.case_id, "warning", text, fix))
    return found


def _offsets(cases: Sequence[CaseFeatures], quantiles: np.ndarray, which: str) -> list[Problem]:
    """Cases in which 1000 or 1024 was added or subtracted."""
    usual_width = float(np.median(quantiles[:, -1] - quantiles[:, 0]))
    middle, spread = _middle_and_spread(quantiles, max(0.02 * usual_width, 1e-9))

    def beyond(values: np.ndarray) -> float:
        return float(np.mean(np.abs(values - middle) / spread))

    found = []
    for case, own in zip(cases, quantiles, strict=True):
        best = min((sign * offset for offset in OFFSETS for sign in (1, -1)), key=lambda by: beyond(own - by))
        if beyond(own) > FAR and beyond(own - best) < min(NEAR, beyond(own) / MUCH_BETTER):
            text = (
                f"the values of {which} lie {abs(best):g} {'above' if best > 0 else 'below'} those of the other cases: "
                f"median {own[2]:.4g}; expected about {middle[2]:.4g}"
            )
            verb = "Subtract" if best > 0 else "Add"
            found.append(Problem(case.case_id, "warning", text, f"{verb} {abs(best):g}, or correct the rescaling."))
    return found


def _swapped(cases: Sequence[CaseFeatures], channels: Sequence[str]) -> list[Problem]:
    """Cases whose channels fit the others' statistics in another order, and not in their own."""
    if not 1 < len(channels) <= MOST_PERMUTED:
        return []
    # shape of the histogram, which has no unit, and the range against those of the other channels
    features = np.array([_channel_shapes(case) for case in cases])
    middle, spread = _middle_and_spread(features, 0.02)
    found = []
    for case, own in zip(cases, features, strict=True):
        cost = np.abs(own[:, np.newaxis] - middle) / spread  # channel of the case, channel of the dataset, feature
        table = np.minimum(cost, 4 * FAR).mean(axis=-1)
        kept = float(np.trace(table)) / len(channels)
        orders = itertools.permutations(range(len(channels)))
        best = min(orders, key=lambda order: sum(table[k, order[k]] for k in range(len(order))))
        fits = sum(table[k, best[k]] for k in range(len(best))) / len(best)
        if best != tuple(range(len(best))) and kept > NEAR and fits < min(NEAR, kept / MUCH_BETTER):
            moved = [f"{channels[k]} looks like {channels[best[k]]}" for k in range(len(best)) if best[k] != k]
            text = f"channels are swapped: by their intensities, {some(moved)} of the other cases"
            found.append(Problem(case.case_id, "warning", text, "Rename its files in the order of dataset.json."))
    return _rare(found, len(cases))


def _channel_shapes(case: CaseFeatures) -> list[list[float]]:
    widths = [math.log10(max(channel.width, 1e-12)) for channel in case.channels]
    mean = sum(widths) / len(widths)
    shapes = []
    for channel, width in zip(case.channels, widths, strict=True):
        low, *inner, _ = channel.quantiles
        scale = max(channel.width, 1e-12)
        zero = math.tanh(low / scale)  # where 0 lies against the values
        shapes.append([*((value - low) / scale for value in inner), zero, width - mean])
    return shapes


def _label_maps(cases: Sequence[CaseFeatures], channels: Sequence[str]) -> list[Problem]:
    found = []
    for number, name in enumerate(channels):
        for case in cases:
            channel = case.channels[number]
            if channel.few_values and channel.width > 0:
                which = f"channel {number} ({name})" if len(channels) > 1 else "the image"
                text = f"{which} holds a few whole numbers only, as label maps do; images of other cases hold many"
                found.append(Problem(case.case_id, "warning", text, "Is the label map in the image's place?"))
    return _rare(found, len(cases))


def _spacings(cases: Sequence[CaseFeatures]) -> list[Problem]:
    """Cases whose spacing differs along all axes by about the same large factor, as cm, m and µm do."""
    logs = np.log10(np.array([case.spacing for case in cases]))
    middle = np.median(logs, axis=0)
    found = []
    for case, own in zip(cases, logs, strict=True):
        apart = own - middle
        same_sign = abs(float(np.sign(apart).sum())) == len(apart)
        if same_sign and float(np.abs(apart).min()) > math.log10(OTHER_SPACING):
            text = f"the spacing is of another unit; found {_mm(10**own)}; expected about {_mm(10**middle)} (z, y, x)"
            found.append(Problem(case.case_id, "warning", text, "Correct the header of its image and label map."))
    return _rare(found, len(cases))


def _mm(spacing: np.ndarray) -> str:
    return "(" + ", ".join(f"{s:.4g}" for s in spacing) + ") mm"


def _islands(cases: Sequence[CaseFeatures]) -> list[Problem]:
    """Foreground voxels that stand alone. If many cases have some, they are told of in one line."""
    found = [case for case in cases if case.islands]
    fix = "Were they drawn by mistake? Remove them, or keep them if such findings are real."
    if len(found) > max(3, RARE * len(cases)):
        listed = some([f"{case.case_id} ({case.islands})" for case in found])
        text = f"label maps of {counted(len(found), 'case')} hold foreground voxels that stand alone: {listed}"
        return [Problem(None, "warning", text, fix)]
    return [Problem(case.case_id, "warning", f"the label map holds {_alone(case.islands)}", fix) for case in found]


def _alone(count: int) -> str:
    return "a foreground voxel that stands alone" if count == 1 else f"{count} foreground voxels that stand alone"
