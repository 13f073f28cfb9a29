"""Short names of paths in messages and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.core.wording import told_apart


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/old", "/a/new"], ["old", "new"]),
        (["/a/old/labels", "/a/new/labels"], ["old", "new"]),
        (["/r/sgd_0/D/plans/2d/default", "/r/sgd_1/D/plans/2d/default", "/r/net/D/t__2d"], ["sgd_0", "sgd_1", "net"]),
        (["/a/1/x/p", "/a/1/y/p", "/a/2/x/p"], ["1/x", "1/y", "2/x"]),
        (["/a/1/q/p", "/a/1/y/p", "/a/2/x/p"], ["q", "y", "x"]),
        (["/a", "/a/b"], ["/a", "/a/b"]),
        (["/a", "/b"], ["a", "b"]),
        (["/a/only"], ["only"]),
        ([], []),
    ],
)
def test_paths_are_named_by_what_they_do_not_share(paths: list[str], names: list[str]) -> None:
    assert told_apart([Path(path) for path in paths]) == names
