"""Records come back from the JSON of their fields, and what does not fit is named."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import pytest

from segflow.core.errors import SegflowError
from segflow.core.plain_json import record_from


@dataclass(frozen=True)
class _Record:
    name: str
    numbers: tuple[float, ...]
    rows: tuple[tuple[int, ...], ...] = ()
    extra: dict[str, float] = field(default_factory=dict)


def test_what_is_written_comes_back() -> None:
    text = '{"name": "a", "numbers": [1, 2.5, NaN], "rows": [[1], [2, 3]], "unknown": 7}'
    record = record_from(json.loads(text), _Record)
    assert (record.name, record.rows, record.extra) == ("a", ((1,), (2, 3)), {})
    assert record.numbers[:2] == (1.0, 2.5)
    assert math.isnan(record.numbers[2])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "a"}, "missing required field 'numbers'"),
        ({"name": "a", "numbers": 3}, "Expected 'array', got 'int' in 'numbers'"),
        ({"name": "a", "numbers": [1, None]}, r"got 'null' in 'numbers\[1\]'"),
        ({"name": "a", "numbers": [], "rows": [[1, "x"]]}, r"in 'rows\[0\]\[1\]'"),
        ([], "Expected 'object', got 'array'"),
        (None, "Expected 'object', got 'null'"),
    ],
)
def test_what_does_not_fit_is_named(value: object, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        record_from(value, _Record)
