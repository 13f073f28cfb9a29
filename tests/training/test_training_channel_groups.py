"""Which channels are taken away together, and which groups are refused."""

from __future__ import annotations

from typing import Any

import pytest

from segflow.core.errors import SegflowError
from segflow.training.channel_dropping import dropping_of
from segflow.training.training_settings import TrainingSettings

CHANNELS = ("in", "opposed", "T2")


def test_a_group_has_the_probability_of_its_channels() -> None:
    settings = TrainingSettings(drop_channels={"in": 0.5, "1": 0.5}, drop_together=[["in", "opposed"]])
    chosen = dropping_of(settings, CHANNELS)
    assert (chosen.probabilities, chosen.together) == ((0.5, 0.5, 0.0), ((0, 1),))


@pytest.mark.parametrize(
    ("dropped", "group", "problem"),
    [
        ({"opposed": 0.5}, ["in", "opposed"], "one probability; found {'in': 0.0, 'opposed': 0.5}"),
        (0.5, ["in", "opposed", "T2"], "a group of all channels is never taken away"),
        (0.5, ["in", "0"], "names a channel twice"),
        (0.0, ["in", "T2"], "needs training.drop_channels"),
    ],
)
def test_a_group_that_would_never_go_is_refused(dropped: Any, group: list[str], problem: str) -> None:
    with pytest.raises(SegflowError, match=problem):
        dropping_of(TrainingSettings(drop_channels=dropped, drop_together=[group]), CHANNELS)
