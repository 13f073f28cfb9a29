"""Fixtures of the training tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from training_toy import Toy

warnings.filterwarnings("ignore", module="pytorch_lightning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    # Drawing takes longer than training here; `toy_factory`'s runs draw.
    monkeypatch.setattr("segflow.training.monitor.write_progress_picture", lambda curves, file: None)
    return Toy(tmp_path)


@pytest.fixture(scope="session")
def toy_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Toy]:
    return lambda: Toy(tmp_path_factory.mktemp("toy"))
