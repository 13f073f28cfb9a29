"""Labels and regions have one key and one text each."""

from __future__ import annotations

import pytest

from segflow.core.labels import LabelKey, Labels, key_from_text, key_text


@pytest.mark.parametrize(("key", "text"), [(3, "3"), ((3,), "3"), ((1, 2, 3), "(1, 2, 3)"), ((-1, 0, 1), "(-1, 0, 1)")])
def test_texts_are_nnunets_and_lead_back(key: LabelKey, text: str) -> None:
    assert key_text(key) == text
    assert key_from_text(text) == (3 if text == "3" else key)


def test_the_text_that_earlier_versions_wrote_is_read() -> None:
    assert key_from_text("(3,)") == 3


@pytest.mark.parametrize("core", [2, [2]])
def test_a_region_of_one_label_goes_by_its_label(core: object) -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": core}, [1, 2])
    assert labels.foreground_keys == ((1, 2), 2)
    assert labels.regions == ((1, 2), (2,))  # outputs of the network
    assert [labels.name_of(key) for key in labels.foreground_keys] == ["whole", "core"]
