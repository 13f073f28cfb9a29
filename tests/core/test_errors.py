"""Errors travel between processes whole."""

from __future__ import annotations

import pickle

from segflow.core.errors import CaseErrors, SegflowError


def test_an_error_travels_whole() -> None:
    one = SegflowError("wrong", case="a", found=1, expected=2, fix="Do this.")
    several = CaseErrors("all wrong", ["a is wrong", "b is wrong"], fix="Do that.")
    for error in (one, several):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(several).startswith("all wrong (2 problems):")
    assert str(several).endswith("Do that.")
    assert str(CaseErrors("wrong", ["a"])).startswith("wrong (1 problem):")
