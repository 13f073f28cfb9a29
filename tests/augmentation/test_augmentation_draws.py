"""What every shipped option draws, number for number: a seed gives the batches that it always gave."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import shipped_parts
import torch

from segflow.core.labels import Labels

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "augmentation_draws.json"
OPTIONS = sorted(json.loads(GOLDEN.read_text(encoding="utf-8"))) if GOLDEN.is_file() else []
LABELS = Labels({"background": 0, "a": 1, "b": 2, "ignore": 3})
KINDS: dict[str, tuple[tuple[int, ...], bool]] = {
    "3d": ((16, 20, 16), False),
    "dummy_2d": ((6, 24, 32), False),
    "2d": ((32, 28), False),
    "cascade": ((16, 20, 16), True),
}
INEXACT = ("matrix", "shift", "width")
"""Made with sines, logarithms and the like, whose last digit may differ between machines."""


def build(option: str, kind: str) -> Any:
    patch, previous_stage = KINDS[kind]
    factory = shipped_parts.augmentation(option)
    return factory(patch, labels=LABELS, use_mask_for_norm=[False, True], previous_stage=previous_stage)


def digest(option: str, kind: str) -> str:
    """Of all values that are drawn for a batch, in their order, and of how far the generator has moved."""
    generator = torch.Generator().manual_seed(3)
    draws = build(option, kind).draw(40, 2, generator)
    found = hashlib.sha256()
    for name, values in draws.items():
        if not name.endswith(INEXACT):
            found.update(values.contiguous().numpy().tobytes())
    found.update(generator.get_state().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_draws_what_it_always_drew(option: str, kind: str) -> None:
    assert digest(option, kind) == json.loads(GOLDEN.read_text(encoding="utf-8"))[option][kind]
