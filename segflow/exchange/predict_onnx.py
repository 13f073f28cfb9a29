#!/usr/bin/env python3
"""Predict label maps with an exported model: ``python predict_onnx.py INPUT OUTPUT``.

INPUT is a folder of images or one image, and OUTPUT a folder for the label maps, or a file for one. Channels of a case
are files ``<case>_0000.nii.gz``, ``<case>_0001.nii.gz``, …, or lie along the fourth axis of one file. The model lies
beside this file: ``model.json`` and the networks that it names. Needed are numpy, nibabel and onnxruntime; Pillow too
for models of pictures (PNG and others). Arrays have axes (z, y, x); lengths are in mm.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Network = Callable[[np.ndarray], np.ndarray]
"""float32 (B, C, *patch) → logits (B, K, *patch)."""

FORMAT = 1
NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
STRAIGHT = 0.9
"""Cosine to the nearest axis of the patient, below which a grid is oblique."""

FLAT = 999
"""The spacing across a plane is this many times its largest spacing, so that nothing is resampled across it."""
ANISOTROPIC = 3
"""Ratio of spacings above which slices are too far apart to interpolate between them."""
VOXELS_PER_PASS = 1 << 19
"""Voxels up to which several mirrored views share a pass of the network."""


class UnusableError(Exception):
    """An input that cannot be used: what came, what was expected, what to do."""


def expect(condition: bool, message: str) -> None:
    """Raise an `UnusableError` unless a condition holds."""
    if not condition:
        raise UnusableError(message)


# Interpolation along one axis. Edges of voxels are aligned: voxel i of n has its centre at (i + 0.5) / n.


def source_coordinates(size: int, new_size: int) -> np.ndarray:
    """Coordinates of the centres of ``new_size`` voxels among ``size``, float64 (new_size,), not clipped."""
    return np.asarray((np.arange(new_size) + 0.5) * (size / new_size) - 0.5)


def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Source index of each new voxel by nearest neighbour, int64 (new_size,); half-way goes up."""
    return np.clip(np.floor(source_coordinates(size, new_size) + 0.5).astype(np.int64), 0, size - 1)


def basis_spline(x: np.ndarray, order: int) -> np.ndarray:
    """The cardinal B-spline of an order at distances ``x``, of any shape, from its centre."""
    total = np.zeros(np.shape(x))
    for k in range(order + 2):
        total += (-1) ** k * math.comb(order + 1, k) * np.maximum(x + (order + 1) / 2 - k, 0) ** order
    return total / math.factorial(order)


def spline_weights(at: np.ndarray, size: int, order: int, fold: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Weights of ``size`` spline coefficients for values at coordinates ``at``: float64 (n, size).

    Args:
        at: Coordinates (n,).
        size: Number of coefficients.
        order: Of the spline, from 1.
        fold: Brings indices beyond the ends back.
    """
    first = np.floor(at + (0 if order % 2 else 0.5)).astype(np.int64) - order // 2
    taps = first[:, None] + np.arange(order + 1)
    result = np.zeros((len(at), size))
    np.add.at(result, (np.arange(len(at))[:, None], fold(taps)), basis_spline(at[:, None] - taps, order))
    return result


@lru_cache(maxsize=64)
def axis_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """The matrix that resizes an axis by an interpolating spline whose borders are repeated: float32 (new, old)."""
    if order == 0:
        return np.asarray(np.eye(size, dtype=np.float32)[nearest_indices(size, new_size)])
    margin = 12 if order > 1 else 0  # so far the border is repeated before the spline is fitted
    padded = size + 2 * margin
    samples = np.eye(size)[np.clip(np.arange(padded) - margin, 0, size - 1)]
    if order > 1:

        def mirrored(index: np.ndarray) -> np.ndarray:
            index = np.mod(index, 2 * padded)
            return np.asarray(np.minimum(index, 2 * padded - 1 - index))

        samples = np.linalg.solve(spline_weights(np.arange(padded), padded, order, mirrored), samples)
    at = np.clip(source_coordinates(size, new_size) + margin, 0, padded - 1)
    matrix = spline_weights(at, padded, order, lambda index: np.clip(index, 0, padded - 1)) @ samples
    matrix[np.abs(matrix) < 1e-8] = 0
    return matrix.astype(np.float32)


def bands(size: int, new_size: int, order: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Blocks of the axis matrix without columns of zeros: their rows and columns, and values (rows, columns)."""
    matrix = axis_matrix(size, new_size, order)
    for start in range(0, new_size, 32):
        rows = matrix[start : start + 32]
        used = np.flatnonzero(rows.any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        yield slice(start, start + len(rows)), columns, rows[:, columns]


def resize_first_axis(values: np.ndarray, new_size: int, order: int) -> np.ndarray:
    """Resize the first axis of a float32 array (n, Y, X)."""
    if len(values) == new_size:
        return values
    result = np.empty((new_size, *values.shape[1:]), np.float32)
    flat = values.reshape(len(values), -1)
    for rows, columns, matrix in bands(len(values), new_size, order):
        result[rows] = (matrix @ flat[columns]).reshape(-1, *values.shape[1:])
    return result


def resize_planes(values: np.ndarray, new_shape: Sequence[int], order: int) -> np.ndarray:
    """Resize the last two axes of a float32 array (n, Y, X)."""
    (height, width), (new_height, new_width) = values.shape[1:], new_shape
    if new_height != height:
        between = np.empty((len(values), new_height, width), np.float32)
        for rows, columns, matrix in bands(height, new_height, order):
            between[:, rows] = matrix @ values[:, columns]
        values = between
    if new_width != width:
        between = np.empty((len(values), new_height, new_width), np.float32)
        for rows, columns, matrix in bands(width, new_width, order):
            between[:, :, rows] = values[:, :, columns] @ matrix.T
        values = between
    return values


# Resampling as the plans describe it.


class Interpolation(NamedTuple):
    """Spline order, order along the axis that is treated separately, that axis or None, and whether to clip."""

    order: int
    order_through: int
    separate: int | None
    clip: bool

    def along(self, axis: int) -> int:
        """The order along an axis."""
        return self.order_through if axis == self.separate else self.order


def interpolation_of(plan: Mapping[str, Any], spacing: Sequence[float], new: Sequence[float]) -> Interpolation | None:
    """The interpolation that a plan means from one spacing to another, mm along (z, y, x); None for no resampling."""
    options = plan["options"]
    separate = separate_axis(spacing, new, options.get("force_separate_z"))
    if plan["method"] == "resample_data_or_seg_to_shape":
        return Interpolation(int(options.get("order", 3)), int(options.get("order_z", 0)), separate, True)
    if plan["method"] == "resample_torch_fornnunet":
        return Interpolation(1, 0, separate, False)
    expect(plan["method"] == "no_resampling_hack", f"model.json names an unknown resampling: {plan['method']}")
    return None


def separate_axis(spacing: Sequence[float], new: Sequence[float], force: bool | None) -> int | None:
    """The axis along which slices are too far apart to interpolate, by spacings in mm along (z, y, x); or None."""
    if force is False:
        return None
    for candidate in (spacing,) if force else (spacing, new):
        largest = max(candidate)
        if force or largest / min(candidate) > ANISOTROPIC:
            axes = [axis for axis, value in enumerate(candidate) if value == largest]
            return axes[0] if len(axes) == 1 else None
    return None


def resample_channel(channel: np.ndarray, new_shape: Sequence[int], how: Interpolation) -> np.ndarray:
    """A float32 channel (Z, Y, X) on another grid."""
    clips = how.clip and how.order > 1
    if how.separate is None:
        result = resize_planes(resize_first_axis(channel, new_shape[0], how.order), new_shape[1:], how.order)
        return np.clip(result, channel.min(), channel.max()) if clips else result
    slices = np.ascontiguousarray(np.moveaxis(channel, how.separate, 0))
    count, *plane = np.moveaxis(np.empty(new_shape, bool), how.separate, 0).shape
    resized = np.empty((len(slices), *plane), np.float32)
    for number, slice_ in enumerate(slices):
        flat = resize_planes(slice_[None], plane, how.order)[0]
        resized[number] = np.clip(flat, slice_.min(), slice_.max()) if clips else flat
    return np.moveaxis(resize_first_axis(resized, count, how.order_through), 0, how.separate)


# Connected components, by the stretches of a mask along x.


class Runs(NamedTuple):
    """Stretches of a mask (Z, Y, X) along x: number of the row, first voxel, and the one after the last."""

    shape: tuple[int, ...]
    row: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> Runs:
        """The stretches in order."""
        depth, height, width = mask.shape
        edged = np.zeros((depth * height, width + 2), bool)
        edged[:, 1:-1] = mask.reshape(-1, width)
        row, column = np.divmod(np.flatnonzero(edged[:, 1:] != edged[:, :-1]), width + 1)
        return cls(mask.shape, row[::2], column[::2], column[1::2])

    def mask_of(self, chosen: np.ndarray) -> np.ndarray:
        """The mask of some of the stretches, bool (Z, Y, X)."""
        depth, height, width = self.shape
        steps = np.zeros((depth * height, width + 1), np.int8)
        steps[self.row[chosen], self.first[chosen]] = 1
        steps[self.row[chosen], self.last[chosen]] = -1
        return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].astype(bool).reshape(self.shape)

    def touch_border(self, axes: Sequence[int]) -> np.ndarray:
        """Which stretches touch the border across some of the axes."""
        depth, height, width = self.shape
        z, y = np.divmod(self.row, height)
        across = ((z == 0) | (z == depth - 1), (y == 0) | (y == height - 1), (self.first == 0) | (self.last == width))
        return np.asarray(np.logical_or.reduce([across[axis] for axis in axes]))

    def components(self, *, diagonal: bool) -> np.ndarray:
        """For each stretch the number of its component: that of the component's first stretch.

        Args:
            diagonal: Voxels that share an edge or a corner are connected too.
        """
        pairs = [
            self._touching(dz, dy, int(diagonal))
            for dz, dy in ((0, 1), (1, 0), *(((1, -1), (1, 1)) if diagonal else ()))
        ]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        root = np.arange(len(self.row))
        while True:
            lowest = np.minimum(root[a], root[b])
            joined = root.copy()
            np.minimum.at(joined, root[a], lowest)
            np.minimum.at(joined, root[b], lowest)
            while not np.array_equal(joined, joined[joined]):
                joined = joined[joined]
            if np.array_equal(joined, root):
                return root
            root = joined

    def _touching(self, dz: int, dy: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of stretches that touch, in rows so many slices and lines apart."""
        depth, height, width = self.shape
        z, y = np.divmod(self.row, height)
        here = np.flatnonzero((z + dz < depth) & (y + dy >= 0) & (y + dy < height))
        pitch = width + 2
        begin, end = self.row * pitch + self.first, self.row * pitch + self.last
        step = (dz * height + dy) * pitch
        low = np.searchsorted(end, begin[here] + step - reach, side="right")
        high = np.searchsorted(begin, end[here] + step + reach, side="left")
        counts = np.maximum(high - low, 0)
        others = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        return np.repeat(here, counts), others


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask (Z, Y, X) with background that no path of faces joins to the border; in the plane of a flat image."""
    runs = Runs.of(~mask)
    group = runs.components(diagonal=False)
    is_open = np.zeros(len(group), bool)
    is_open[group[runs.touch_border((1, 2) if mask.shape[0] == 1 else (0, 1, 2))]] = True
    return np.asarray(mask | runs.mask_of(~is_open[group]))


def components_of_size(mask: np.ndarray, least: float | None) -> np.ndarray:
    """The components of a mask (Z, Y, X) of at least so many voxels; None keeps the largest, and others as large."""
    runs = Runs.of(mask)
    group = runs.components(diagonal=True)
    sizes = np.bincount(group, weights=runs.last - runs.first, minlength=len(group))
    return runs.mask_of(sizes[group] >= (sizes.max(initial=0) if least is None else least))


def postprocess(labels: np.ndarray, steps: Iterable[Mapping[str, Any]], spacing: Sequence[float]) -> np.ndarray:
    """Apply the chosen steps to a label map (Z, Y, X) with a spacing in mm, in place."""
    flat = labels.shape[0] == 1 and spacing[0] > 100 * max(spacing[1:])
    volume = math.prod(spacing[1:] if flat else spacing)
    for step in steps:
        mask = np.isin(labels, step["labels"])
        if not mask.any():
            continue
        if step["kind"] == "keep_largest":
            labels[mask & ~components_of_size(mask, None)] = 0
        elif step["kind"] == "remove_small":
            labels[mask & ~components_of_size(mask, step["min_volume_mm3"] / volume)] = 0
        else:
            expect(step["kind"] == "fill_holes", f"model.json names an unknown step of postprocessing: {step['kind']}")
            labels[fill_holes(mask) & (labels == 0)] = step["fill_with"]
    return labels


# From the image to the network's grid, and back.


def normalize(
    channel: np.ndarray, scheme: str, inside: np.ndarray | None, statistics: Mapping[str, float] | None
) -> None:
    """Normalise a float32 channel (Z, Y, X) in place; z-scores of the voxels ``inside`` only, if given."""
    if scheme == "ZScoreNormalization":
        values = channel if inside is None else channel[inside]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        mean = np.float32(values.mean(dtype=np.float64))
        squares = sum(float(np.square((part - mean).astype(np.float64)).sum()) for part in values)
        deviation = max((squares / values.size) ** 0.5, 1e-8 * max(abs(low), abs(high)))
        values = (values - mean) / np.float32(deviation) if low < high else np.zeros_like(values)
        channel[... if inside is None else inside] = values
    elif scheme == "CTNormalization":
        expect(statistics is not None, "model.json lacks the intensities that CT normalisation needs")
        known = statistics or {}
        low, high = known["percentile_00_5"], known["percentile_99_5"]
        np.clip(channel, low, high, out=channel)
        channel -= np.float32(known["mean"])
        channel /= np.float32(max(known["std"], 1e-8 * max(abs(low), abs(high))) or 1)
    elif scheme == "RescaleTo01Normalization":
        low, high = channel.min(), channel.max()
        channel -= low
        channel /= (high - low) or 1
    elif scheme == "RGBTo01Normalization":
        expect(channel.min() >= 0 and channel.max() <= 255, "a channel of colours holds values beyond 0 to 255")
        channel /= 255
    else:
        expect(scheme == "NoNormalization", f"model.json names an unknown normalisation: {scheme}")


class Prepared(NamedTuple):
    """An image on the network's grid: float32 (C, Z, Y, X), its box in the turned image, and both spacings."""

    image: np.ndarray
    crop: tuple[slice, ...]
    spacing: tuple[float, ...]
    new_spacing: tuple[float, ...]


def prepare(model: Mapping[str, Any], image: np.ndarray, spacing: Sequence[float]) -> Prepared:
    """Turn an image (C, Z, Y, X) to the model's axes, crop to the part that is not zero, normalise and resample.

    Args:
        model: Content of ``model.json``.
        image: float32 (C, Z, Y, X), as read.
        spacing: mm along z, y, x.

    Raises:
        UnusableError: The image does not suit the model.
    """
    expect(
        len(image) == len(model["channels"]),
        f"the image has {len(image)} channels; the model needs {len(model['channels'])}: "
        + ", ".join(map(str, model["channels"])),
    )
    low, high = image.min(axis=(1, 2, 3)), image.max(axis=(1, 2, 3))
    expect(bool(np.isfinite(low).all() and np.isfinite(high).all()), "the image holds NaN or infinite values")
    expect(bool((low < high).any()), f"the image is constant, {low[0]:g} everywhere: there is nothing to segment")
    axes = model["axis_order"]
    image = image.transpose(0, *(axis + 1 for axis in axes))
    mask = np.any(image, axis=0)
    ends = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
    crop = tuple(slice(int(first), int(last) + 1) for first, last in ends)
    image = np.array(image[(slice(None), *crop)], np.float32, order="C")
    inside = fill_holes(mask[crop]) if any(one["use_mask"] for one in model["normalization"]) else None
    for channel, one in zip(image, model["normalization"], strict=True):
        normalize(channel, one["scheme"], inside if one["use_mask"] else None, one.get("intensities"))
    own = tuple(float(spacing[axis]) for axis in axes)
    new = tuple(model["spacing"]) if len(model["spacing"]) == 3 else (own[0], *model["spacing"])
    how = interpolation_of(model["resampling"]["image"], own, new)
    shape = image.shape[1:]
    if how is not None:
        new_shape = tuple(round(s / t * n) for n, s, t in zip(shape, own, new, strict=True))
        expect(min(new_shape) > 0, f"nothing is left of the image at the model's spacing of {list(new)} mm")
        if new_shape != shape:
            image = np.stack([resample_channel(channel, new_shape, how) for channel in image])
    return Prepared(image, crop, own, new)


def decide(model: Mapping[str, Any], logits: np.ndarray, shape: Sequence[int], how: Interpolation | None) -> np.ndarray:
    """Bring logits (K, Z, Y, X) to another grid and decide the label of each voxel: uint8 or uint16, of ``shape``."""
    values = np.array(model["outputs"], np.uint8 if max(model["outputs"]) < 256 else np.uint16)
    result = np.zeros(shape, values.dtype)
    taps = []
    for axis, (size, new_size) in enumerate(zip(logits.shape[1:], shape, strict=True)):
        at = np.clip(source_coordinates(size, new_size), 0, size - 1)
        low = np.floor(at).astype(np.int64)
        weight = (at - low).astype(np.float32)
        if size != new_size:
            expect(how is not None and how.along(axis) < 2, "model.json asks for an unknown resampling of logits")
            if how is not None and how.along(axis) == 0:
                low, weight = nearest_indices(size, new_size), np.zeros(new_size, np.float32)
        taps.append((low, np.minimum(low + 1, size - 1), weight))
    through, rows, columns = taps

    @lru_cache(maxsize=2)
    def plane(number: int) -> np.ndarray:
        values = logits[:, number].astype(np.float32, copy=False)
        for axis, (low, high, weight) in ((2, columns), (1, rows)):
            if weight.any() or values.shape[axis] != len(low):
                first = np.take(values, low, axis=axis)
                step = np.take(values, high, axis=axis) - first
                values = first + step * (weight if axis == 2 else weight[:, None])
        return values

    for number, (low, high, weight) in enumerate(zip(*through, strict=True)):
        here = plane(int(low))
        here = here + (plane(int(high)) - here) * weight if weight else here
        if model["regions"]:
            for value, score in zip(values, here, strict=True):
                result[number][score > 0] = value  # a later region is painted over an earlier one
        else:
            result[number] = values[here.argmax(axis=0)]
    return result


# The sliding window.


def tile_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First voxel of every tile along an axis, evenly spread."""
    count = math.ceil((size - patch) / (patch * (1 - overlap))) + 1
    return [round((size - patch) / max(count - 1, 1) * index) for index in range(count)]


def gaussian_importance(patch: Sequence[int]) -> np.ndarray:
    """Weight of each voxel of a patch, of this shape: a Gaussian, sigma = an eighth of the patch, 10 at its middle."""
    result = np.ones((1,) * len(patch))
    for axis, size in enumerate(patch):
        distance = np.arange(size) - size // 2
        line = np.exp(-0.5 * (distance / (size / 8)) ** 2)
        line[np.abs(distance) > int(size / 2 + 0.5)] = 0
        result = result * np.expand_dims(line, tuple(other for other in range(len(patch)) if other != axis))
    rounded = (result / result.max() * 10).astype(np.float16)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    return np.asarray(rounded, np.float32)


class Options(NamedTuple):
    """How an image is covered: overlap of tiles, mirrored views, bytes of sums that are kept in main memory."""

    overlap: float = 0.5
    mirroring: bool = True
    memory: float = 4e9


def zeros(shape: Sequence[int], memory: float) -> np.ndarray:
    """Zeros, float32 of this shape, in a temporary file if they take more bytes than ``memory``."""
    if 4 * math.prod(shape) <= memory:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile() as file:  # the map outlives the name
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


def predict_logits(
    model: Mapping[str, Any], networks: Sequence[Network], image: np.ndarray, options: Options | None = None
) -> np.ndarray:
    """The mean logits (K, Z, Y, X) over tiles, mirrored views and networks, for an image (C, Z, Y, X)."""
    options = options or Options()
    flat = len(model["patch_size"]) == 2
    patch = (1, *model["patch_size"]) if flat else tuple(model["patch_size"])
    shape = image.shape[1:]
    missing = [max(p - n, 0) for p, n in zip(patch, shape, strict=True)]
    before = [m // 2 for m in missing]
    if any(missing):
        image = np.pad(image, [(0, 0), *((b, m - b) for b, m in zip(before, missing, strict=True))])
    starts = [tile_starts(n, p, options.overlap) for n, p in zip(image.shape[1:], patch, strict=True)]
    if flat:
        starts[0] = list(range(image.shape[1]))
    axes = sorted(model["mirror_axes"]) if options.mirroring else []
    views = [view for count in range(len(axes) + 1) for view in itertools.combinations(axes, count)]
    importance = gaussian_importance(model["patch_size"]).reshape(patch)
    outputs = len(model["outputs"])
    sums = zeros((outputs, *image.shape[1:]), options.memory)
    weights = np.zeros(image.shape[1:], np.float32)
    for start in itertools.product(*starts):
        place = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        tile = image[(slice(None), *place)]
        logits = sum_of_views(networks, tile[:, 0] if flat else tile, views).reshape(outputs, *patch)
        logits *= importance / np.float32(len(views) * len(networks))
        for total, one in zip(sums, logits, strict=True):
            total[place] += one
        weights[place] += importance
    for total in sums:
        total /= weights
        expect(bool(np.isfinite(total.sum(dtype=np.float64))), "the network gives values that are not finite")
    inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    result: np.ndarray = sums[(slice(None), *inside)]
    return result


def sum_of_views(networks: Sequence[Network], tile: np.ndarray, views: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The logits (K, *patch) of a tile (C, *patch), summed over networks and mirrored views."""
    together = max(1, VOXELS_PER_PASS // math.prod(tile.shape[1:]))
    total: np.ndarray | None = None
    for first in range(0, len(views), together):
        some = views[first : first + together]
        batch = np.stack([np.flip(tile, tuple(axis + 1 for axis in view)) for view in some])
        for network in networks:
            for view, logits in zip(some, network(batch), strict=True):
                logits = np.flip(logits, tuple(axis + 1 for axis in view))
                total = np.array(logits, np.float32) if total is None else np.add(total, logits, out=total)
    return np.zeros(0) if total is None else total


def segment(
    model: Mapping[str, Any],
    networks: Sequence[Network],
    image: np.ndarray,
    spacing: Sequence[float],
    options: Options | None = None,
) -> np.ndarray:
    """The label map (Z, Y, X) of an image, uint8 or uint16, with the values that users see.

    Args:
        model: Content of ``model.json``.
        networks: One per fold.
        image: float32 (C, Z, Y, X), as read, in the axes of the training images.
        spacing: mm along z, y, x.
        options: See `Options`.

    Raises:
        UnusableError: The image does not suit the model.
    """
    prepared = prepare(model, image, spacing)
    logits = predict_logits(model, networks, prepared.image, options)
    how = interpolation_of(model["resampling"]["probabilities"], prepared.new_spacing, prepared.spacing)
    result = np.zeros(image.shape[1:], np.uint8 if max(model["outputs"]) < 256 else np.uint16)
    inside = result.transpose(model["axis_order"])[prepared.crop]
    inside[...] = decide(model, logits, inside.shape, how)
    return as_users_see(model, postprocess(result, model["postprocessing"], spacing))


def as_users_see(model: Mapping[str, Any], labels: np.ndarray) -> np.ndarray:
    """A label map (Z, Y, X) with the values of the user's own files, where the model counts others."""
    table = {int(label): int(value) for label, value in model.get("values", {}).items()}
    if not table:
        return labels
    values = np.arange(max(labels.max(initial=0), *table) + 1)
    for label, value in table.items():
        values[label] = value
    return np.asarray(values.astype(np.uint16)[labels])


# Files.


class Image(NamedTuple):
    """Channels float32 (C, Z, Y, X), spacing along z, y, x in mm, and what writes a label map (Z, Y, X) to a file."""

    voxels: np.ndarray
    spacing: tuple[float, ...]
    write: Callable[[np.ndarray, Path], None]


def read_image(model: Mapping[str, Any], files: Sequence[Path]) -> Image:
    """The image of a case, from one file per channel or files of several channels."""
    parts = [(read_picture if file.name.lower().endswith(PICTURES) else read_nifti)(model, file) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        same = part.voxels.shape[1:] == first.voxels.shape[1:] and np.allclose(part.spacing, first.spacing)
        expect(same, f"{file.name} and {files[0].name} lie on different grids: resample all channels to one")
    return first._replace(voxels=np.concatenate([part.voxels for part in parts]))


def read_nifti(model: Mapping[str, Any], file: Path) -> Image:
    """A NIfTI file; further axes than three are channels."""
    import nibabel

    try:
        stored: Any = nibabel.load(file)
        raw = np.asarray(stored.dataobj.get_unscaled())
    except Exception as error:  # nibabel passes on what gzip and numpy raise
        raise UnusableError(f"cannot read {file}: {error}") from error
    expect(raw.ndim >= 2 and raw.dtype.kind in "iufb", f"{file.name} holds no image: {raw.ndim} axes of {raw.dtype}")
    slope, intercept = float(stored.dataobj.slope), float(stored.dataobj.inter)
    size = (*raw.shape, 1)[:3]
    channels = raw.T.reshape(-1, *size[::-1])
    voxels = np.empty(channels.shape, np.float32)
    for target, source in zip(voxels, channels, strict=True):
        target[...] = source if (slope, intercept) == (1, 0) else source * np.float64(slope) + intercept
    factor = {"meter": 1000, "micron": 1e-3}.get(stored.header.get_xyzt_units()[0], 1)
    zooms = [float(zoom) * factor for zoom in stored.header.get_zooms()[: min(raw.ndim, 3)]]
    affine = np.array(stored.affine, np.float64)
    affine[:3] *= factor
    image = oriented(model, voxels.transpose(0, 3, 2, 1).reshape(-1, *raw.shape[:3]), affine, zooms)

    def write(labels: np.ndarray, target: Path) -> None:
        own = np.ascontiguousarray(image.back(labels))
        result = stored.__class__(own, stored.affine, stored.header)
        result.set_data_dtype(own.dtype)
        result.header["cal_min"] = result.header["cal_max"] = 0
        nibabel.save(result, target)

    return Image(image.voxels, image.spacing, write)


class Oriented(NamedTuple):
    """An image in the axes of the training images.

    Attributes:
        voxels: float32 (C, Z, Y, X).
        spacing: mm along z, y, x.
        back: Brings a label map (Z, Y, X) back to the axes of the file, (x, y, z) or (x, y).
    """

    voxels: np.ndarray
    spacing: tuple[float, ...]
    back: Callable[[np.ndarray], np.ndarray]


def oriented(
    model: Mapping[str, Any], voxels: np.ndarray, affine: np.ndarray, zooms: Sequence[float] | None = None
) -> Oriented:
    """Bring an image to the axes of the training images.

    It is turned to RAS if those were, and to their usual orientation if none of them had the image's.

    Args:
        model: Content of ``model.json``.
        voxels: float32 (C, x, y, z) or (C, x, y).
        affine: (4, 4), index (x, y, z) → RAS+ mm.
        zooms: mm along the axes; None takes those of the affine.
    """
    import nibabel

    ndim = voxels.ndim - 1
    by_affine = [float(np.float32(size)) for size in nibabel.affines.voxel_sizes(affine)][:ndim]
    zooms = list(by_affine if zooms is None else zooms)
    expect(all(0 < zoom < math.inf for zoom in zooms), f"the image has an impossible spacing: {zooms}")
    to = wanted_orientation(model, affine) if ndim == 3 else None
    zooms = by_affine if ndim == 3 and model["turn_to_ras"] == "affine" else [*zooms, max(zooms) * FLAT][:3]
    steps = np.array([[0, 1], [1, 1], [2, 1]])
    if to is not None:
        own = nibabel.io_orientation(affine)
        steps = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(to))
    order = [int(target) for target in steps[:, 0]]
    shape = voxels.shape[1:]
    solid = voxels.reshape(len(voxels), *(*shape, 1)[:3])
    channels = np.stack([turn(channel.T, steps) for channel in solid])
    spacing = tuple(zooms[order.index(axis)] for axis in (2, 1, 0))
    return Oriented(channels, spacing, lambda labels: np.asarray(turn_back(labels, steps).T.reshape(shape)))


def wanted_orientation(model: Mapping[str, Any], affine: np.ndarray) -> str | None:
    """Directions such as RAS to which an image is turned; None if it stays as it is, as oblique ones do.

    Args:
        model: Content of ``model.json``.
        affine: (4, 4), index (x, y, z) → RAS+ mm.
    """
    import nibabel

    if model["turn_to_ras"]:
        return "RAS"
    usual = model.get("usual_orientation")
    cosines = np.abs(affine[:3, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    own = "".join(nibabel.aff2axcodes(affine))
    return None if own in model.get("orientations", ()) or cosines.max(axis=0).min() <= STRAIGHT else usual


def turn(voxels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """An array (Z, Y, X) turned by nibabel's orientation of (x, y, z)."""
    order = np.argsort(steps[:, 0])
    flipped = np.flip(voxels.T, tuple(axis for axis in range(3) if steps[axis, 1] < 0))
    return np.asarray(flipped.transpose(order).T)


def turn_back(voxels: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Undo `turn` for an array (Z, Y, X)."""
    back = voxels.T.transpose(steps[:, 0].astype(int))
    return np.asarray(np.flip(back, tuple(axis for axis in range(3) if steps[axis, 1] < 0)).T)


def read_picture(model: Mapping[str, Any], file: Path) -> Image:
    """A PNG or another picture: one channel, or three or four of colours."""
    try:
        from PIL import Image as Pictures
    except ImportError:
        raise UnusableError("Pillow is needed to read pictures: pip install pillow") from None
    try:
        with Pictures.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB") if picture.mode in ("P", "CMYK", "YCbCr") else picture)
    except Exception as error:  # Pillow passes on many kinds
        raise UnusableError(f"cannot read {file}: {error}") from error
    voxels = (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))[:, None].astype(np.float32)
    return Image(voxels, (FLAT, 1, 1), lambda labels, target: Pictures.fromarray(labels[0]).save(target))


def ending_of(name: str) -> str:
    """The ending of a file's name, such as ``.nii.gz``; empty if it is not an image's."""
    return next((end for end in (*NIFTI, *PICTURES) if name.lower().endswith(end)), "")


def find_cases(source: Path, channels: int) -> dict[str, list[Path]]:
    """Case → its files in the order of channels, from a folder or one file."""
    expect(source.exists(), f"there is no {source}")
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    found: dict[str, dict[int, Path]] = {}
    for file in files:
        if file.name.startswith(".") or not ending_of(file.name):
            continue
        stem = file.name[: -len(ending_of(file.name))]
        numbered = re.fullmatch(r"(.+)_(\d{4})", stem)
        number = int(numbered[2]) if numbered else 0
        name = numbered[1] if numbered and number < max(channels, 1) else stem
        number = number if name != stem else 0
        expect(number not in found.get(name, {}), f"channel {number} of case {name} is there twice: {file.name}")
        found.setdefault(name, {})[number] = file
    expect(bool(found), f"{source} holds no image, such as case_0000{NIFTI[0]}")
    return {name: [numbers[number] for number in sorted(numbers)] for name, numbers in found.items()}


def target_of(output: Path, name: str, files: Sequence[Path]) -> Path:
    """The file for a case's label map: ``output`` itself if it names one, otherwise one in that folder."""
    ending = ending_of(files[0].name)
    ending = ".png" if ending in PICTURES[3:] else ending  # without loss
    return output if ending_of(output.name) else output / f"{name}{ending}"


def refuse_replacing(images: Iterable[Path], targets: Iterable[Path]) -> None:
    """Refuse label maps that would be written in place of images."""
    known = {image.resolve() for image in images}
    for target in targets:
        expect(target.resolve() not in known, f"{target} is an image: label maps need another folder or name")


def write_whole(image: Image, labels: np.ndarray, target: Path) -> None:
    """Write a label map (Z, Y, X) as a whole or not at all."""
    unfinished = target.with_name(f".unfinished-{os.getpid()}-{target.name}")
    try:
        image.write(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16), unfinished)
        unfinished.replace(target)
    except OSError as error:
        raise UnusableError(f"cannot write {target}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read_model(folder: Path) -> dict[str, Any]:
    """The content of ``model.json``."""
    try:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableError(f"cannot read the model in {folder}: {error}") from error
    found = model.get("format") if isinstance(model, dict) else None
    expect(found == FORMAT, f"{folder / 'model.json'} is of format {found}; this file reads format {FORMAT}")
    return dict(model)


def open_networks(folder: Path, model: Mapping[str, Any], folds: str, device: str, threads: int) -> list[Network]:
    """The networks of some folds in onnxruntime."""
    import onnxruntime

    known = {str(one["fold"]): one["file"] for one in model["networks"]}
    chosen = list(known) if folds == "all" else folds.split(",")
    unknown = [fold for fold in chosen if fold not in known]
    expect(not unknown, f"there is no fold {', '.join(unknown)}; there are {', '.join(known)}")
    present = onnxruntime.get_available_providers()
    gpu = "CUDAExecutionProvider" in present and device != "cpu"
    expect(gpu or device != "cuda", f"onnxruntime has no CUDA here; it has {', '.join(present)}")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    providers = [*(["CUDAExecutionProvider"] if gpu else []), "CPUExecutionProvider"]
    networks: list[Network] = []
    for fold in chosen:
        session = onnxruntime.InferenceSession(str(folder / known[fold]), settings, providers=providers)
        networks.append(network_of(session))
    return networks


def network_of(session: Any) -> Network:
    """A session of onnxruntime as a network."""
    return lambda batch: np.asarray(session.run(None, {"image": np.ascontiguousarray(batch)})[0])


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("input", type=Path, help="folder of images, or one image")
    parser.add_argument("output", type=Path, help="folder for the label maps, or a file for one")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="folder of model.json")
    parser.add_argument("--folds", default="all", help="all, or numbers such as 0,1")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime on a CPU; 0 lets it choose")
    parser.add_argument("--overlap", type=float, default=0.5, help="share of a tile that it shares with the next")
    parser.add_argument("--no-mirroring", action="store_true", help="predict only the view as it is")
    parser.add_argument("--memory", type=float, default=4, help="GB of sums in main memory; more lie in a file")
    return parser.parse_args(given)


def run(options: argparse.Namespace) -> int:
    """Predict all cases. Returns how many failed."""
    expect(0 <= options.overlap < 1, f"--overlap is {options.overlap}; it must be from 0 to below 1")
    model = read_model(options.model)
    cases = find_cases(options.input, len(model["channels"]))
    single = bool(ending_of(options.output.name))
    expect(not single or len(cases) == 1, f"{len(cases)} cases need a folder as output, not {options.output.name}")
    targets = {name: target_of(options.output, name, files) for name, files in cases.items()}
    refuse_replacing(itertools.chain(*cases.values()), targets.values())
    (options.output.parent if single else options.output).mkdir(parents=True, exist_ok=True)
    networks = open_networks(options.model, model, options.folds, options.device, options.threads)
    window = Options(options.overlap, not options.no_mirroring, options.memory * 1e9)
    failed = 0
    for name, files in cases.items():
        target = targets[name]
        try:
            image = read_image(model, files)
            write_whole(image, segment(model, networks, image.voxels, image.spacing, window), target)
            sys.stdout.write(f"{target}\n")
        except UnusableError as error:
            failed += 1
            sys.stderr.write(f"Error: case {name}: {error}\n")
    return failed


def main(given: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    try:
        return 1 if run(arguments_of(given)) else 0
    except UnusableError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
