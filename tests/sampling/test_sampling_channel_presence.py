"""Channels that are taken away from samples, and what the network is given of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_store import FakeStore, make_case

from segflow.sampling.batch import network_input
from segflow.sampling.channel_presence import ChannelPresence
from segflow.sampling.patch_dataset import PatchDataset
from segflow.sampling.patch_sampler import PatchSampler


def _drawn(chosen: ChannelPresence, missing: tuple[int, ...] = (), times: int = 2000) -> np.ndarray:
    case, generator = SimpleNamespace(missing=missing), np.random.default_rng(0)
    return np.array([chosen(case, generator) for _ in range(times)])


def test_channels_go_with_their_probability_and_one_always_stays() -> None:
    drawn = _drawn(ChannelPresence((0.2, 0.5, 0.0)))
    assert drawn.mean(0) == pytest.approx([0.8, 0.5, 1.0], abs=0.05)
    assert _drawn(ChannelPresence((0.95, 0.95))).any(1).all()


def test_channels_of_a_group_go_together() -> None:
    drawn = _drawn(ChannelPresence((0.5, 0.5, 0.5), together=((0, 2),)))
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert drawn.any(1).all()
    assert len({tuple(row) for row in drawn.tolist()}) == 3


def test_what_a_case_lacks_stays_away() -> None:
    drawn = _drawn(ChannelPresence((0.9, 0.9, 0.9)), missing=(1,))
    assert not drawn[:, 1].any()
    assert drawn.any(1).all()
    assert (_drawn(ChannelPresence((0.0, 0.0)), missing=(0,), times=3) == [False, True]).all()


def _patches(chosen: ChannelPresence | None) -> PatchDataset:
    case = make_case(channels=3)
    case.missing = ()
    sampler = PatchSampler((8, 8, 8), (8, 8, 8))
    return PatchDataset(
        FakeStore({"fake": case}), ["fake"], batch_size=4, sampler=sampler, seed=3, batches_per_epoch=5,
        channels_present=chosen,
    )  # fmt: skip


def test_a_batch_depends_on_its_place_only_and_its_voxels_on_no_choice_of_channels() -> None:
    dropped, whole = _patches(ChannelPresence((0.5, 0.5, 0.5))), _patches(None)
    first, again = dropped[1, 2], dropped[1, 2]
    assert torch.equal(first.channels_present, again.channels_present)
    assert torch.equal(first.image, whole[1, 2].image)
    assert whole[1, 2].channels_present is None
    assert len({tuple(row.tolist()) for n in range(5) for row in dropped[0, n].channels_present}) > 3


def test_the_network_is_given_zeros_and_told() -> None:
    image = torch.randn(2, 3, 4, 5)  # two channels of the image, and one of a previous stage
    present = torch.tensor([[True, False], [True, True]])
    given = network_input(image, present, mask=True)
    assert given.shape == (2, 5, 4, 5)
    assert torch.equal(given[0, 0], image[0, 0])
    assert not given[0, 1].any()
    assert torch.equal(given[:, 2], image[:, 2])
    assert torch.equal(given[1, :3], image[1])
    assert given[:, 3:, 0, 0].tolist() == [[1.0, 0.0], [1.0, 1.0]]
    assert torch.equal(network_input(image, present, mask=False), given[:, :3])
    assert network_input(image, None, mask=False) is image
