"""Cases that hold almost the same, found among many."""

from __future__ import annotations

import numpy as np

from segflow.storage.case_features import CaseFeatures
from segflow.storage.case_likeness import alike_problems


def test_near_duplicates_are_found_wherever_they_stand_among_many_cases() -> None:
    random = np.random.default_rng(0)
    pictures = random.normal(size=(2300, 64))
    planted = {1: 0, 700: 10, 2299: 20, 2200: 2100}
    for case, original in planted.items():
        pictures[case] = pictures[original] + random.normal(scale=0.05, size=64)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    cases = [
        CaseFeatures(f"case_{number:04d}", picture=picture.astype(np.float16), image=f"digest {number}")
        for number, picture in enumerate(pictures)
    ]
    found = {str(problem.case): problem.message for problem in alike_problems(cases, {})}
    assert set(found) == {f"case_{case:04d}" for case in planted}
    for case, original in planted.items():
        assert f"almost that of case 'case_{original:04d}'" in found[f"case_{case:04d}"]
