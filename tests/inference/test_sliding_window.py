"""Logits of a whole image from a network that sees a patch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segflow.core.errors import SegflowError
from segflow.execution.progress import ProgressEvent
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.sliding_window import predict_logits
from segflow.inference.tiles import constant_of, gaussian_importance, tile_starts


class Counting(nn.Module):
    """A convolution that keeps the shapes of its inputs, and fails for larger batches than it is allowed."""

    def __init__(self, dims: int = 3, channels: int = 1, outputs: int = 2, largest_batch: int = 1000) -> None:
        super().__init__()
        layer = nn.Conv3d if dims == 3 else nn.Conv2d
        self.layer = layer(channels, outputs, 3, padding=1)
        self.largest_batch = largest_batch
        self.batches: list[int] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if len(image) > self.largest_batch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.batches.append(len(image))
        return self.layer(image)


def network(seed: int = 0, **options: int) -> Counting:
    torch.manual_seed(seed)
    return Counting(**options).eval()


def by_the_definition(
    net: nn.Module, image: torch.Tensor, patch: tuple[int, ...], axes: tuple[int, ...], gaussian: bool = True
) -> torch.Tensor:
    """Tile by tile and view by view, in float64, for a 3D patch that is not larger than the image."""
    weights = torch.from_numpy(gaussian_importance(patch)).double() if gaussian else torch.ones(patch).double()
    total: torch.Tensor | None = None
    norm = torch.zeros(image.shape[1:]).double()
    for start in itertools.product(*(tile_starts(n, p) for n, p in zip(image.shape[1:], patch, strict=True))):
        box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        views = [v for n in range(len(axes) + 1) for v in itertools.combinations(axes, n)]
        mean = 0
        for view in views:
            flipped = image[(slice(None), *box)].flip([a + 1 for a in view])
            with torch.no_grad():
                mean = mean + net(flipped[None])[0].flip([a + 1 for a in view]).double() / len(views)
        total = torch.zeros((mean.shape[0], *norm.shape)).double() if total is None else total
        total[(slice(None), *box)] += mean * weights
        norm[box] += weights
    return total / norm


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [(110, 64, (0, 23, 46)), (300, 128, (0, 57, 115, 172)), (129, 128, (0, 1)), (64, 64, (0,))],
)
def test_tiles_begin_where_nnunet_lets_them_begin(size: int, patch: int, starts: tuple[int, ...]) -> None:
    assert tile_starts(size, patch) == starts


@given(patch=st.integers(1, 40), extra=st.integers(0, 200), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_tiles_cover_every_voxel_and_overlap_enough(patch: int, extra: int, overlap: float) -> None:
    size = patch + extra
    starts = tile_starts(size, patch, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    steps = np.diff(starts)
    assert (steps >= 0).all()
    assert (steps <= max(np.ceil(patch * (1 - overlap)), 1)).all()


def test_importance_map_has_the_published_weights() -> None:
    half = [0.003355, 0.02188, 0.1111, 0.4395, 1.3535, 3.2461, 6.0664, 8.8281, 10]
    assert gaussian_importance((16,)) == pytest.approx(np.array(half + half[-2:0:-1]), rel=1e-3)


def test_no_voxel_of_the_importance_map_is_without_weight() -> None:
    weights = gaussian_importance((128, 128, 128))
    assert (weights == weights.min()).sum() > 8941 - 1
    assert weights.min() == pytest.approx(6e-8, rel=0.01)
    assert gaussian_importance((512, 512)).min() == pytest.approx(1.13e-6, rel=0.01)


@pytest.mark.parametrize("axes", [(), (0, 1, 2), (1, 2)])
@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
def test_result_is_the_weighted_mean_over_tiles_and_views(axes: tuple[int, ...], batch_size: int | str) -> None:
    image = torch.randn(2, 13, 9, 17, generator=torch.Generator().manual_seed(1))
    net = network(channels=2, outputs=3)
    logits = predict_logits([net], image, (8, 8, 8), axes, SlidingWindowSettings(batch_size=batch_size))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), by_the_definition(net, image, (8, 8, 8), axes), rtol=1e-5, atol=1e-5)


def test_weights_may_be_all_alike_and_mirroring_off() -> None:
    image = torch.randn(1, 13, 9, 8)
    net = network()
    chosen = SlidingWindowSettings(gaussian=False, mirroring=False)
    logits = predict_logits([net], image, (8, 8, 8), (0, 1, 2), chosen)
    expected = by_the_definition(net, image, (8, 8, 8), (), gaussian=False)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_small_image_is_padded_with_zeros_around_it_and_cut_out_again() -> None:
    image = torch.randn(1, 5, 8, 3)
    net = network()
    padded = nn.functional.pad(image, (2, 3, 0, 0, 1, 2))
    with torch.no_grad():
        expected = net(padded[None])[0][:, 1:6, :, 2:5]
    torch.testing.assert_close(predict_logits([net], image, (8, 8, 8), ()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_2d_network_sees_every_slice_by_itself(batch_size: int) -> None:
    image = torch.randn(1, 6, 20, 11)
    net = network(dims=2)
    chosen = SlidingWindowSettings(batch_size=batch_size)
    logits = predict_logits([net], image, (8, 8), (0, 1), chosen)
    assert logits.shape == (2, 6, 20, 11)
    for z in range(6):
        alone = predict_logits([net], image[:, z : z + 1], (8, 8), (0, 1), chosen)
        torch.testing.assert_close(logits[:, z : z + 1], alone, rtol=1e-5, atol=1e-5)
    full = predict_logits([net], image, (20, 11), (), chosen)
    with torch.no_grad():
        torch.testing.assert_close(full[:, 3], net(image[None, :, 3])[0], rtol=1e-5, atol=1e-5)


def test_logits_of_the_folds_are_averaged() -> None:
    image = torch.randn(1, 10, 9, 8)
    nets = [network(seed) for seed in range(3)]
    together = predict_logits(nets, image, (8, 8, 8), (0,))
    apart = torch.stack([predict_logits([net], image, (8, 8, 8), (0,)) for net in nets]).mean(0)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(13, 9, 17), (8, 6, 8)])
def test_sums_in_float16_are_those_of_nnunet(shape: tuple[int, int, int]) -> None:
    """Recipe 11.4, steps 5 to 9, operation by operation: views in float32, tiles and networks in float16."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    nets, patch = [network(seed, outputs=3) for seed in range(3)], (8, 6, 8)
    weights = torch.from_numpy(gaussian_importance(patch)).half()
    mean = None
    for net in nets:
        total, norm = torch.zeros((3, *shape), dtype=torch.half), torch.zeros(shape, dtype=torch.half)
        for start in itertools.product(*(tile_starts(n, p) for n, p in zip(shape, patch, strict=True))):
            box = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
            tile = image[(slice(None), *box)]
            with torch.no_grad():
                value = (net(tile[None])[0] + net(tile[None].flip(3))[0].flip(2)) / 2
            total[(slice(None), *box)] += value * weights
            norm[box] += weights
        total /= norm
        mean = total if mean is None else mean + total
    chosen = SlidingWindowSettings(sums="float16", batch_size=1)
    logits = predict_logits(nets, image, patch, (1,), chosen)
    assert logits.dtype == torch.float16
    assert (logits == mean / 3).float().mean() > 0.995  # the network's last bits may differ between views


def test_the_finest_of_a_list_of_logits_counts() -> None:
    class Listing(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image * 2, image[..., ::2, ::2, ::2]]

    image = torch.randn(1, 8, 8, 12)
    torch.testing.assert_close(predict_logits([Listing()], image, (8, 8, 8), ()), image * 2)


def test_running_out_of_memory_halves_the_batch_and_repeats_nothing() -> None:
    image = torch.randn(1, 20, 8, 8)
    net = network(largest_batch=3)
    logits = predict_logits([net], image, (8, 8, 8), (0, 1), SlidingWindowSettings(batch_size=16))
    assert net.batches == [2] * 8  # 4 tiles in 4 views, each seen once
    torch.testing.assert_close(logits.double(), by_the_definition(net, image, (8, 8, 8), (0, 1)), rtol=1e-5, atol=1e-5)


def test_memory_for_not_even_one_tile_says_so() -> None:
    with pytest.raises(SegflowError, match=r"memory does not suffice.*on cpu\. End other programs\.$"):
        predict_logits([network(largest_batch=0)], torch.randn(1, 8, 8, 8), (8, 8, 8), ())


def test_other_failures_of_the_network_are_not_taken_for_want_of_memory() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        predict_logits([network()], torch.randn(3, 8, 8, 8), (8, 8, 8), ())


def test_constant_tiles_pass_the_network_once_without_effect_on_the_result() -> None:
    image = torch.zeros(1, 40, 8, 8)
    image[:, :8] = torch.randn(1, 8, 8, 8)
    net = network()
    logits = predict_logits([net], image, (8, 8, 8), (), SlidingWindowSettings(batch_size=1))
    assert len(net.batches) == 3  # of 9 tiles: two with content, one for all seven without
    torch.testing.assert_close(logits.double(), by_the_definition(net, image, (8, 8, 8), ()), rtol=1e-5, atol=1e-5)


def test_tiles_of_different_constants_are_kept_apart() -> None:
    image = torch.zeros(1, 40, 8, 8)
    image[:, 16:] = 1
    net = network()
    logits = predict_logits([net], image, (8, 8, 8), (), SlidingWindowSettings(batch_size=1))
    assert len(net.batches) == 3  # zeros, the border, and ones
    torch.testing.assert_close(logits.double(), by_the_definition(net, image, (8, 8, 8), ()), rtol=1e-5, atol=1e-5)


def test_equal_corners_do_not_make_a_tile_constant() -> None:
    tile = torch.zeros(2, 8, 8, 8)
    tile[1] = 3
    assert constant_of(tile) == (0, 3)
    tile[0, 3, 3, 3] = 1
    assert constant_of(tile) is None


@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(*[st.integers(1, 14)] * 3), axes=st.sets(st.integers(0, 2)))
def test_a_network_without_context_gives_the_same_with_and_without_tiles(
    shape: tuple[int, int, int], axes: set[int]
) -> None:
    torch.manual_seed(0)
    net = nn.Conv3d(1, 2, 1)
    image = torch.randn(1, *shape)
    with torch.no_grad():
        expected = net(image[None])[0]
    torch.testing.assert_close(predict_logits([net], image, (4, 6, 8), sorted(axes)), expected, rtol=1e-4, atol=1e-5)


def test_nan_is_an_error_and_not_a_label_map() -> None:
    image = torch.randn(1, 8, 8, 8)
    image[0, 4, 4, 4] = float("nan")
    with pytest.raises(SegflowError, match="not finite"):
        predict_logits([network()], image, (8, 8, 8), ())


def test_result_may_be_changed_in_place() -> None:
    predict_logits([network()], torch.randn(1, 8, 8, 8), (8, 8, 8), ()).add_(1)


def test_progress_counts_tiles_up_to_the_last() -> None:
    events: list[ProgressEvent] = []
    predict_logits([network()], torch.randn(1, 20, 8, 8), (8, 8, 8), (0,), progress=events.append)
    assert events[0].done == 0
    assert (events[-1].done, events[-1].total) == (4, 4)


@pytest.mark.parametrize(
    "wrong", [{"overlap": 1.0}, {"overlap": -0.1}, {"batch_size": 0}, {"batch_size": "many"}, {"sums": "int8"}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SegflowError):
        SlidingWindowSettings(**wrong)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(SegflowError, match="nothing to predict"):
        predict_logits([network()], torch.zeros(1, 0, 8, 8), (8, 8, 8), ())
