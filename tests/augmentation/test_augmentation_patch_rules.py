"""What the shape of a patch decides, against the numbers of the recipe (6.3, B11)."""

from __future__ import annotations

import pytest

from segflow.augmentation.batch_augmentation import Augmentation
from segflow.augmentation.patch_rules import interchangeable_axes, is_dummy_2d, loader_patch_size, rotation_limit
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

LABELS = Labels({"background": 0, "a": 1})


@pytest.mark.parametrize(
    ("patch", "rotation", "dummy", "loaded"),
    [
        ((128, 128, 128), 30, False, (205, 205, 205)),
        ((40, 56, 40), 30, False, (73, 80, 64)),
        ((512, 512), 180, False, (602, 602)),
        ((320, 256), 180, False, (376, 376)),
        ((512, 256), 15, False, (659, 301)),
        ((20, 320, 256), 180, True, (20, 376, 376)),
    ],
)
def test_rules_give_the_loader_patches_of_the_recipe(patch, rotation, dummy, loaded):
    augmentation = Augmentation()(patch, labels=LABELS, use_mask_for_norm=[False], previous_stage=False)
    assert is_dummy_2d(patch) == dummy
    assert rotation_limit(patch, dummy) == rotation
    assert augmentation.loader_patch_size == loaded
    assert augmentation.mirror_axes == tuple(range(len(patch)))


def test_without_dummy_2d_the_first_axis_grows_too():
    assert loader_patch_size((20, 320, 256), 180, 0.85, False) == (376, 376, 376)


@pytest.mark.parametrize(("patch", "dummy"), [((40, 128, 120), True), ((48, 128, 128), False), ((128, 20, 20), False)])
def test_dummy_2d_asks_the_first_axis_only(patch, dummy):
    assert is_dummy_2d(patch) == dummy


def test_axes_that_may_trade_places_have_equal_length():
    assert interchangeable_axes((20, 256, 256)) == (1, 2)
    assert interchangeable_axes((64, 64, 64)) == (0, 1, 2)
    assert interchangeable_axes((20, 256, 192)) == ()


def build(patch, **spatial):
    settings = Augmentation()
    for name, value in spatial.items():
        setattr(settings.spatial, name, value)
    return settings(patch, labels=LABELS, use_mask_for_norm=[False], previous_stage=False)


def test_every_rule_can_be_overridden():
    assert build((20, 320, 256), dummy_2d=False).spatial.rotation_degrees == 30
    assert build((40, 56, 40), rotation_degrees=0.0).loader_patch_size == (47, 65, 47)
    assert build((40, 56, 40), loader_patch_size=[50, 60, 50]).loader_patch_size == (50, 60, 50)
    assert build((40, 56, 40), rotation_probability=0.0, scaling_probability=0.0).loader_patch_size == (40, 56, 40)


def test_a_loader_patch_smaller_than_the_patch_is_refused():
    with pytest.raises(SegflowError, match="at least"):
        build((40, 56, 40), loader_patch_size=[50, 50, 50])
