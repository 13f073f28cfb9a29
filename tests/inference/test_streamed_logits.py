"""Logits that come slab by slab: the same values as those of the whole image, from a few planes in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segflow.core.errors import NoSpaceError
from segflow.core.geometry import Box
from segflow.core.voxels import ArraySource
from segflow.inference.planes import Room
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.sliding_window import LogitSlab, gathered, logit_slabs
from segflow.storage import scratch_array

PLENTY = Room(sums=2**30, image=2**30)
NOTHING = Room(sums=1, image=1)  # what is kept lies in files


class Reading:
    """A source that notes which planes were read, and is no array."""

    def __init__(self, image: torch.Tensor) -> None:
        self._array = ArraySource(image.numpy())
        self.shape = self._array.shape
        self.planes: list[int] = []

    def read(self, box: Box) -> np.ndarray:
        self.planes += range(box.start[0], box.stop[0])
        return self._array.read(box)


def networks(dims: int, count: int = 1) -> list[nn.Module]:
    torch.manual_seed(0)
    layer = nn.Conv3d if dims == 3 else nn.Conv2d
    return [layer(2, 3, 3, padding=1).eval() for _ in range(count)]


def an_image(*shape: int) -> torch.Tensor:
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    image[:, shape[0] // 2 :, : shape[1] // 2] = 1  # constant tiles, in several rows of tiles
    return image


# Where a row of tiles is not a multiple of the batch, slabs have other batches than the whole image, in which a network
# may round otherwise. There the batches are of one tile.
PROBLEMS: dict[str, dict[str, Any]] = {
    "3d": {"shape": (41, 13, 9), "patch": (8, 8, 8)},
    "uneven": {"shape": (23, 9, 14), "patch": (8, 6, 8), "overlap": 0.6},
    "apart": {"shape": (32, 8, 9), "patch": (8, 8, 8), "overlap": 0.0},
    "mirrored": {"shape": (30, 13, 9), "patch": (8, 8, 8), "axes": (0, 2), "batch_size": 3},
    "padded": {"shape": (5, 30, 5), "patch": (8, 8, 8)},
    "padded planes": {"shape": (30, 5, 5), "patch": (8, 8, 8), "batch_size": 1},
    "folds": {"shape": (30, 9, 9), "patch": (8, 8, 8), "folds": 3},
    "float16": {"shape": (30, 9, 9), "patch": (8, 8, 8), "folds": 2, "sums": "float16", "axes": (1,)},
    "2d": {"shape": (17, 12, 9), "patch": (8, 8), "axes": (0, 1), "batch_size": 1},
    "all alike": {"shape": (30, 9, 9), "patch": (8, 8, 8), "gaussian": False},
}


def slabs(problem: dict[str, Any], source: Any, room: Room, **options: Any) -> tuple[int, Any]:
    chosen = SlidingWindowSettings(
        **{key: problem[key] for key in ("overlap", "batch_size", "sums", "gaussian") if key in problem}
    )
    nets = networks(len(problem["patch"]), problem.get("folds", 1))
    what = logit_slabs(nets, source, problem["patch"], problem.get("axes", ()), chosen, room=room, **options)
    return source.shape[1], what


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("room", [NOTHING, Room(sums=40_000, image=1)], ids=["file", "memory"])
def test_slabs_are_the_whole_images_logits_to_the_bit(name: str, room: Room) -> None:
    problem = PROBLEMS[name]
    image = an_image(*problem["shape"])
    planes, whole = slabs(problem, ArraySource(image.numpy()), PLENTY)
    (only,) = whole
    source = Reading(image)
    _, parts = slabs(problem, source, room)
    copies = [LogitSlab(slab.start, slab.logits.clone()) for slab in parts]
    assert len(copies) > 2 or name == "padded" or room is not NOTHING
    assert [slab.start for slab in copies] == list(np.cumsum([0, *(slab.logits.shape[1] for slab in copies[:-1])]))
    assert torch.equal(gathered(copies, planes), only.logits)
    assert source.planes == list(range(planes))  # each once, in order


def test_the_slabs_of_each_network_are_those_of_separate_predictions() -> None:
    problem = PROBLEMS["folds"]
    image = an_image(*problem["shape"])
    planes, parts = slabs(problem, Reading(image), NOTHING, of_networks=True)
    found = [(slab.start, slab.logits.clone(), [one.clone() for one in slab.of_networks]) for slab in parts]
    for number, net in enumerate(networks(3, 3)):
        (alone,) = logit_slabs([net], ArraySource(image.numpy()), problem["patch"], (), room=PLENTY)
        assert torch.equal(torch.cat([each[number] for *_, each in found], 1), alone.logits)
    mean = torch.cat([logits for _, logits, _ in found], 1)
    each = [torch.cat([each[number] for *_, each in found], 1) for number in range(3)]
    assert torch.equal(mean, (each[0] + each[1] + each[2]) / 3)
    assert mean.shape[1] == planes


def test_a_full_disk_is_told_(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(file: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scratch_array, "_take_space", full)
    problem = PROBLEMS["3d"]
    _, parts = slabs(problem, ArraySource(an_image(*problem["shape"]).numpy()), Room(1, 1, tmp_path))
    with pytest.raises(NoSpaceError, match=r"cannot keep 0\.0 GiB in a temporary file in .*Make room there"):
        next(parts)


def test_a_scratch_array_keeps_what_memory_forgets(tmp_path: Path) -> None:
    array = scratch_array.ScratchArray((3, 5000), np.float32, tmp_path)
    assert not array.array.any()
    array.array[1] = np.arange(5000)
    array.release()
    assert np.array_equal(array.array[1], np.arange(5000))
    assert list(tmp_path.iterdir()) == []  # its file has no name
