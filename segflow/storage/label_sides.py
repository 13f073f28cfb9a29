"""Labels whose names tell a side, such as ``kidney_left``, and whether they lie on it in the patient."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from segflow.core.labels import Labels
from segflow.core.wording import some
from segflow.storage.case_features import CaseFeatures
from segflow.storage.problems import Problem

OPPOSITES = (
    (0, ("left", "l", "lt"), ("right", "r", "rt"), "to the patient's right of"),
    (1, ("posterior",), ("anterior",), "in front of"),
    (2, ("inferior",), ("superior",), "above"),
)
"""World axis (right, front, up), words for its lower end, words for its upper end, and what is wrong if they change."""
_WORD = re.compile(r"[A-Za-z]+|[^A-Za-z]+")


@dataclass(frozen=True, slots=True)
class SidedPair:
    """Two labels whose names differ by a side only.

    Attributes:
        axis: World axis: 0 right, 1 front, 2 up.
        low, high: Value in files of the label at its lower end, and at its upper end.
        reversed: What is wrong if they lie the other way round, such as ``left lies to the patient's right of right``.
    """

    axis: int
    low: int
    high: int
    reversed: str


def sided_pairs(labels: Labels) -> list[SidedPair]:
    """The pairs among the labels of a dataset. Regions are left out."""
    named = {name.lower(): (name, labels.value_of(n)) for name, n in labels.entries.items() if isinstance(n, int)}
    pairs = []
    for name, (own, value) in named.items():
        words = _WORD.findall(name)
        for axis, low, high, lies in OPPOSITES:
            for place, word in enumerate(words):
                if word in low:
                    other = "".join([*words[:place], high[low.index(word)], *words[place + 1 :]])
                    if other in named:
                        pairs.append(SidedPair(axis, value, named[other][1], f"{own} lies {lies} {named[other][0]}"))
    return pairs


def wrong_sides(cases: Sequence[CaseFeatures], labels: Labels) -> list[Problem]:
    """Warnings about cases in which most of such pairs lie the wrong way round, and about a dataset of such cases."""
    pairs = sided_pairs(labels)
    problems: list[Problem] = []
    for axis in range(len(OPPOSITES)):
        found, judged = [], 0
        for case in cases:
            present = [pair for pair in pairs if pair.axis == axis and {pair.low, pair.high} <= case.centres.keys()]
            wrong = [pair for pair in present if case.centres[pair.low][axis] > case.centres[pair.high][axis]]
            judged += bool(present)
            if len(wrong) > len(present) / 2:
                found.append((case.case_id, some([pair.reversed for pair in wrong], most=3)))
        if len(found) == judged > 1:
            text = f"labels lie on the wrong side in all {judged} cases: {found[0][1]}"
            fix = "Are names swapped in dataset.json, or are all images mirrored? Check one in a viewer."
            problems.append(Problem(None, "warning", text, fix))
            continue
        fix = "Are the labels of this case swapped, or is its header mirrored? Check it in a viewer."
        problems.extend(
            Problem(case_id, "warning", f"labels lie on the wrong side: {names}", fix) for case_id, names in found
        )
    return problems
