"""Counts of hard predictions against counting voxel by voxel."""

from __future__ import annotations

import pytest
import torch

from segflow.core.labels import Labels
from segflow.loss.hard_counts import hard_counts

GAPS_IGNORE = Labels.from_json({"background": 0, "a": 3, "b": 7, "ignore": 8})
LABELS = Labels.from_json({"background": 0, "a": 1, "b": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
REGIONS_IGNORE = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


@pytest.mark.parametrize("labels", [LABELS, GAPS_IGNORE, REGIONS, REGIONS_IGNORE])
def test_counts(labels: Labels) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, labels.num_outputs, 5, 6, generator=generator)
    values = torch.tensor([*labels.all_labels, *([] if labels.ignore_label is None else [labels.ignore_label])])
    target = values[torch.randint(0, len(values), (2, 1, 5, 6), generator=generator)].to(torch.int16)
    counts = hard_counts(logits, target, labels)
    for row, key in enumerate(labels.foreground_keys):
        member = torch.isin(target[:, 0], torch.tensor(key))
        if labels.has_regions:
            predicted = logits[:, row].sigmoid() > 0.5
        else:
            predicted = torch.tensor(labels.all_labels)[logits.argmax(1)] == key
        valid = target[:, 0] != (-9 if labels.ignore_label is None else labels.ignore_label)
        expected = [
            (predicted & member & valid).sum(),
            (predicted & ~member & valid).sum(),
            (~predicted & member & valid).sum(),
        ]
        assert [int(one[row]) for one in counts] == [int(one) for one in expected]
    assert all(one.shape == (len(labels.foreground_keys),) for one in counts)


def test_a_perfect_prediction_has_no_errors() -> None:
    target = torch.tensor([[[[0, 1], [2, 2]]]])
    logits = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float()
    true, false_positive, false_negative = hard_counts(logits, target, LABELS)
    assert true.tolist() == [1, 2]
    assert false_positive.tolist() == false_negative.tolist() == [0, 0]
