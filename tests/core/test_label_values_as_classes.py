"""Files hold any values; segflow counts classes. What each entry of dataset.json means, and both ways between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.label_meaning import label_meaning
from segflow.core.labels import Labels

BRATS = {"background": 0, "whole": [1, 2, 4], "core": [1, 4], "enhancing": 4}
KINDS: list[dict[str, Any]] = [
    {"background": 0, "mask": 255},
    {"background": 0, "a": 1, "b": 2, "c": 4},
    {"background": 0, "a": 1000, "b": 65535},
    {"background": 0, "liver": 1, "tumour": [2, 5], "ignore": [4, 255]},
    {"background": [0, 9], "a": [7, 3], "b": 5},
    {"background": 255, "a": 0},
    BRATS,
]


@pytest.mark.parametrize("named", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_classes_are_consecutive_and_lead_back_to_the_first_value(named: dict[str, Any], dtype: type) -> None:
    labels = Labels.from_json(named)
    assert labels.classes == tuple(range(len(labels.values)))
    array = np.array(labels.declared_values, dtype).reshape(1, -1, 1)
    classes = labels.to_classes(array)
    assert classes.dtype == np.int16
    assert set(classes.ravel()) == set(labels.classes)
    first = np.array([labels.value_of(number) for number in classes.ravel()])
    np.testing.assert_array_equal(labels.to_values(classes).ravel(), first)
    np.testing.assert_array_equal(labels.to_classes(labels.to_values(classes)), classes)


def test_values_without_a_name_stay_apart_and_come_back() -> None:
    labels = Labels.from_json({"background": 0, "mask": 255})
    array = np.array([[-32768, -2, -1, 0, 1], [2, 255, 256, 65535, 2**31 - 1]], np.int64)
    classes = labels.to_classes(array)
    assert len(np.unique(classes)) == array.size
    assert (classes[(array != 0) & (array != 255)] < -1).all()
    np.testing.assert_array_equal(labels.to_values(classes), array)
    assert labels.to_classes(np.zeros((0, 3), np.uint8)).shape == (0, 3)


def test_many_labels_and_long_lists_are_read_at_once() -> None:
    names = [f"name_{number}" for number in range(900)]
    assert len(Labels.from_json({"background": 0, **{n: 65535 - k for k, n in enumerate(names)}}).values) == 901
    same = dict.fromkeys(names, 65535)
    assert Labels.from_json({"background": 0, "ignore": [*range(1, 65535)], **same}).classes == (0, 1, 2)
    chain = {name: [*range(1, 3 + number // 10)] for number, name in enumerate(names) if number % 10 == 0}
    assert Labels.from_json({"background": 0, **chain}).num_outputs == 90
    for labels, message in (
        ({name: [1, 2 + number] for number, name in enumerate([*names, *"abcdefgh" * 20])}, "overlap, and neither"),
        ({f"region_{number}": [1, 2 + number] for number in range(1200)}, "too many regions"),
        ({"a": [*range(1, 60000)], "b": [*range(1, 60000)]}, "lists too many values"),
    ):
        with pytest.raises(SegflowError, match=message):
            Labels.from_json({"background": 0, **labels})


def test_a_list_of_one_value_twice_is_that_value() -> None:
    labels = Labels.from_json({"background": 0, "a": [1, 1], "b": 2})
    assert not labels.has_regions
    assert labels.num_outputs == 3


def test_a_large_volume_is_mapped_like_a_small_one() -> None:
    labels = Labels.from_json(KINDS[1])
    array = np.random.default_rng(0).choice([0, 1, 2, 4], (5, 300, 400)).astype(np.uint8).transpose(2, 0, 1)
    np.testing.assert_array_equal(labels.to_classes(array), np.where(array == 4, 3, array))


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"background": 0, "a": 1, "b": [2]}},
        {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}},
        {"labels": {"background": 0, "a": [1, 2], "b": 3}, "regions_class_order": [1, 3]},
        {"labels": {"background": 0, "a": 1}, "regions_class_order": [1]},
        {"labels": {"background": 0, "a": [1, 2, 3], "b": [2, 3], "c": 3}, "regions_class_order": [1, 2, 3]},
    ],
    ids=str,
)
def test_labels_of_nnunet_keep_their_meaning(content: dict[str, Any]) -> None:
    labels = Labels.from_json(**content)
    assert labels.values == ()
    assert labels.to_json() == content["labels"]
    assert labels.has_regions == any(isinstance(v, list) and len(v) > 1 for v in content["labels"].values())
    order = content.get("regions_class_order")
    assert labels.regions_class_order == (None if order is None else tuple(order))
    array = np.arange(4)
    assert labels.to_classes(array) is array
    assert labels.to_values(array) is array


def test_lists_that_share_nothing_are_classes_of_several_values() -> None:
    labels = Labels.from_json({"background": 0, "liver": 1, "tumour": [5, 2], "ignore": [4, 255]})
    assert not labels.has_regions
    assert labels.num_outputs == 3
    assert labels.ignore_label == 3
    assert dict(labels.entries) == {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
    np.testing.assert_array_equal(labels.to_classes(np.array([0, 1, 2, 4, 5, 255])), [0, 1, 2, 3, 2, 3])
    assert labels.value_of(2) == 5  # the first of them


def test_lists_that_share_values_are_regions_and_larger_ones_come_first() -> None:
    labels = Labels.from_json(dict(reversed(BRATS.items())))
    assert labels.foreground_keys == ((1, 2, 3), (1, 3), 3)
    assert [labels.value_of(number) for number in labels.regions_class_order or ()] == [2, 1, 4]
    assert Labels.from_json(BRATS) == Labels.from_json(BRATS, [2, 1, 4])  # the same as with nnU-Net's order


def test_a_region_that_smaller_ones_fill_is_painted_with_its_first_value() -> None:
    labels = Labels.from_json({"background": 0, "left": 1, "right": 2, "both": [2, 1]})
    assert list(labels.entries) == ["background", "both", "left", "right"]
    assert labels.regions_class_order == (2, 1, 2)


@pytest.mark.parametrize(
    ("labels", "order", "message"),
    [
        ({"background": 0, "a": [1, 2], "b": [2, 3]}, None, "'a' and 'b' overlap.*add 'regions_class_order'"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, None, "'a' and 'b' are the same"),
        ({"background": 0, "a": [0, 2]}, None, r"'background' and 'a' share values; found \[0\]"),
        ({"background": 0, "a": 1, "ignore": [255, 1]}, None, r"'ignore' and 'a' share values; found \[1\]"),
        ({"background": 0, "a": 1, "ignore": 0}, None, "'ignore' and 'background' share values"),
        ({"background": 0, "a": [1, 5], "b": 5}, [1], "one label for each region.*It may be left out"),
        ({"background": 0, "a": [1, 5], "b": 5}, [1, 3], r"paints with a value that no label has; found \[3\]"),
        ({"background": 0, "a": [1, 5], "b": 5}, "15", "must list labels"),
        ({"a": 1, "b": 255}, None, "lack 'background'"),
        ({"background": 0, "a": -1}, None, "impossible value"),
        ({"background": 0, "a": 65536}, None, "impossible value"),
        ({"background": 0, "a": 1.0}, None, "whole number"),
        ({"background": 0, "a": []}, None, "whole numbers"),
        ({"background": 0, "a": [1, "2"]}, None, "whole numbers"),
    ],
)
def test_labels_that_do_not_fit_together_are_refused(labels: dict[str, Any], order: Any, message: str) -> None:
    with pytest.raises(SegflowError, match=f"(?s){message}"):
        Labels.from_json(labels, order)


def test_a_region_that_a_later_one_covers_is_refused_with_both_names() -> None:
    labels = Labels.from_json({"background": 0, "core": [2, 3], "whole": [1, 2, 3]}, [2, 1])  # a model may have it
    with pytest.raises(SegflowError, match="'whole' is painted after region 'core', and covers it whole"):
        labels.check_painting()
    Labels.from_json(BRATS, [2, 1, 4]).check_painting()
    with pytest.raises(SegflowError, match=r"found 'core' \[1, 4\], then 'whole' \[1, 2, 4\]"):  # as dataset.json says
        Labels.from_json({"background": 0, "core": [1, 4], "whole": [1, 2, 4]}, [1, 2]).check_painting()


def test_nnunet_gets_consecutive_labels_and_a_key_that_leads_back() -> None:
    content = {"labels": BRATS, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}
    description = DatasetDescription.from_json("Dataset001_Toy", content)
    given = description.for_nnunet()
    assert given["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}
    assert given["regions_class_order"] == [2, 1, 3]
    assert given["label_values"] == [[0], [1], [2], [4]]
    assert DatasetDescription.from_json("Dataset001_Toy", given).labels == description.labels
    plain = {**content, "labels": {"background": 0, "a": 1}}
    assert DatasetDescription.from_json("Dataset001_Toy", plain).for_nnunet() == plain


def test_people_are_told_what_goes_beyond_consecutive_labels() -> None:
    def told(labels: dict[str, Any], **more: Any) -> list[str]:
        content = {"labels": labels, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz", **more}
        return label_meaning(DatasetDescription.from_json("Dataset001_Toy", content))

    assert told({"background": 0, "a": 1}) == []
    assert told({"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1, 2]) == []
    (swapped,) = told({"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[2, 1])
    assert "of those in label maps: 1 becomes 2, 2 becomes 1. It lists" in swapped
    merged, mapped = told(KINDS[3])
    assert merged.endswith("tumour is 2, 5, predicted as 2; ignore is 4, 255")
    assert "0 → 0; 1 → 1; 2, 5 → 2; 4, 255 → 3. It needs no conversion" in mapped
    assert "whole as 2, then core as 1, then enhancing as 4" in told(BRATS)[1]


@pytest.mark.parametrize(
    "values",
    [7, [[0]], [[0], []], [[0], [0]], [[0], ["1"]], [[0], [-1]], [[0], [70000]], [[0], 1], {"0": [0]}],
    ids=str,
)
def test_bad_label_values_are_refused(values: Any) -> None:
    with pytest.raises(SegflowError, match="'label_values' must give"):
        Labels.from_json({"background": 0, "a": 1}, None, values)
