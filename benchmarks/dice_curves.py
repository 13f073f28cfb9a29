"""The curves of Dice against minutes, as SVG, from the values of ``dice_per_minute.py``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from record import OURS, REFERENCE

Curve = dict[float, tuple[float, list[float]]]
"""Minutes → mean Dice and that of each seed."""

_SIZE, _MARGIN = 300, 60
_COLOURS = ("#9aa5b1", "#3367b0", "#c4501b", "#2f8f5b", "#8a4fbf")
_TEXT = 'font-family="sans-serif" font-size="12" fill="#222"'
_VALUE = re.compile(r"(.+): Dice of whole cases after ([\d.]+) min, ([^:]+)(: each seed)?")


def curves_of(content: Mapping[str, Any]) -> dict[str, dict[str, Curve]]:
    """Subject → side → its curve."""
    means: dict[tuple[str, str, float], float] = {}
    seeds: dict[tuple[str, str, float], list[float]] = {}
    for value in content["values"]:
        match = _VALUE.fullmatch(value["what"])
        if match is None:
            continue
        subject, minutes, recipe, each = match.groups()
        for key, side in ((REFERENCE, "nnU-Net"), (OURS, f"segflow, {recipe}")):
            place = (subject, side, float(minutes))
            if key in value and each:
                seeds[place] = [float(number) for number in value[key].split()]
            elif key in value:
                means[place] = value[key]
    found: dict[str, dict[str, Curve]] = {}
    for (subject, side, minutes), mean in means.items():
        points = found.setdefault(subject, {}).setdefault(side, {})
        points[minutes] = (mean, seeds.get((subject, side, minutes), [mean]))
    return found


def plots(content: Mapping[str, Any]) -> tuple[int, int, list[str]]:
    """Width, height and elements of one plot for each subject: a line through the means, a dot for each seed."""
    found = curves_of(content)
    sides = list(dict.fromkeys(side for curves in found.values() for side in curves))
    parts: list[str] = []
    for number, (subject, curves) in enumerate(found.items()):
        parts += _plot(number * (_SIZE + _MARGIN) + _MARGIN, subject, curves, sides)
    for number, side in enumerate(sides):
        down = _SIZE + 44 + 16 * number
        parts.append(f'<path d="M{_MARGIN} {down - 4}h24" stroke="{_colour(number)}" stroke-width="3"/>')
        parts.append(f'<text x="{_MARGIN + 32}" y="{down}" {_TEXT}>{escape(side)}</text>')
    return len(found) * (_SIZE + _MARGIN) + _MARGIN, _SIZE + 44 + 16 * len(sides), parts


def _plot(left: int, subject: str, curves: Mapping[str, Curve], sides: list[str]) -> list[str]:
    minutes = sorted({point for curve in curves.values() for point in curve})
    dice = [value for curve in curves.values() for _, each in curve.values() for value in each]
    low, high = min(dice), max(dice)
    spread = (high - low) or 1.0
    span = math.log(minutes[-1] / minutes[0]) or 1.0

    def place(at: float, value: float) -> str:
        across = math.log(at / minutes[0]) / span * (_SIZE - 40)
        return f"{left + across:.1f} {30 + (high - value) / spread * (_SIZE - 60):.1f}"

    parts = [f'<text x="{left}" y="16" {_TEXT}>{escape(subject)}: Dice after so many minutes</text>']
    for side, curve in curves.items():
        colour = _colour(sides.index(side))
        line = "L".join(place(at, curve[at][0]) for at in sorted(curve))
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, (_, each) in curve.items():
            for value in each:
                x, y = place(at, value).split()
                parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
    for at in minutes:
        x, _ = place(at, low).split()
        parts.append(f'<text x="{x}" y="{_SIZE - 8}" text-anchor="middle" {_TEXT}>{at:g}</text>')
    for value in (low, high):
        x, y = place(minutes[0], value).split()
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end" {_TEXT}>{value:.3f}</text>')
    return parts


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
