"""The library that lets torch believe in GPUs, built once for all tests of this folder."""

from __future__ import annotations

import os

import cuda_guard
import pytest


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that calls `cuda_guard.load`; the test is skipped where it cannot be built."""
    try:
        library = cuda_guard.build(tmp_path_factory.mktemp("cuda_guard"))
    except cuda_guard.NoGuard as reason:
        pytest.skip(str(reason))
    return {**os.environ, cuda_guard.LIBRARY: str(library)}
