"""Channels that an image lacks: how a dataset allows them, how a model was trained for them, and images without them.

A missing channel is 0 after normalisation, its mean by z-scores, as is usual in the literature on missing modalities.
Before, it holds zeros that no statistics see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box
from segflow.core.names import shortened
from segflow.core.voxels import VoxelSource
from segflow.core.wording import counted, some

ALLOW_MISSING = "allow_missing_channels"
"""Our key of dataset.json: whether training cases may lack channels. nnU-Net does not know it."""

MISSING_CHANNELS = "missing_channels"
"""Key in the record of a run, and in the properties of a preprocessed case, where it lists numbers."""


@dataclass(frozen=True, slots=True)
class MissingChannels:
    """How a model was trained for images that lack channels.

    Attributes:
        may_lack: Numbers of the channels that an image may lack, ascending.
        mask: Whether the network is told which channels are there, by one more input for each: 1 where it is, else 0.
    """

    may_lack: tuple[int, ...]
    mask: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"may_lack": list(self.may_lack), "mask": self.mask}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], channels: int) -> MissingChannels:
        """Inverse of `to_json`.

        Args:
            value: What `to_json` gave.
            channels: Number of the model's channels.

        Raises:
            SegflowError: A value cannot be used.
        """
        found = cls(tuple(value["may_lack"]), value["mask"])
        if not isinstance(found.mask, bool) or not set(found.may_lack) <= set(range(channels)):
            raise SegflowError(
                f"'{MISSING_CHANNELS}' cannot be used",
                found=shortened(dict(value)),
                expected=f"'may_lack' from 0 to {channels - 1}, and 'mask' true or false",
            )
        return found


def missing_in_all(models: Sequence[MissingChannels | None]) -> MissingChannels | None:
    """What images may lack for all of some models; None if one of them needs all channels and is not told of them."""
    known = [model for model in models if model is not None]
    if not known or len(known) < len(models):
        return None
    return replace(known[0], may_lack=tuple(n for n in known[0].may_lack if all(n in one.may_lack for one in known)))


def channel_number(name: str, channels: Sequence[str], setting: str) -> int:
    """The number of a channel, by its name, or by its number.

    Raises:
        SegflowError: There is none, or several have the name.
    """
    found = [number for number, channel in enumerate(channels) if channel == name]
    if not found and name.isdecimal() and int(name) < len(channels):
        return int(name)
    if len(found) == 1:
        return found[0]
    near = get_close_matches(name, channels, n=1)
    raise SegflowError(
        f"{setting} names {'several channels' if found else 'no channel'} of the dataset",
        found=name,
        expected=", ".join(f"{channel} (or {number})" for number, channel in enumerate(channels)),
        fix="Give its number." if found else f"Did you mean '{near[0]}'?" if near else None,
    )


def with_missing(image: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """An image with zeros in place of the channels that it lacks.

    Args:
        image: The channels that are there, (C, *spatial).
        missing: Numbers of the others among all.
    """
    if not missing:
        return image
    result = np.zeros((len(image) + len(missing), *image.shape[1:]), image.dtype)
    result[[number for number in range(len(result)) if number not in missing]] = image
    return result


class WithMissing:
    """Like `with_missing`, for an image that is read box by box. A `VoxelSource`."""

    def __init__(self, image: VoxelSource, missing: Sequence[int]) -> None:
        self._image, self._missing = image, tuple(missing)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        channels, z, y, x = self._image.shape
        return channels + len(self._missing), z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `VoxelSource`."""
        return with_missing(self._image.read(box), self._missing)


class WithPresence:
    """An image with one more channel for each of its own, which says whether that is there. A `VoxelSource`.

    Args:
        image: (C, Z, Y, X), and what may follow the image's own channels.
        present: For each of the image's own channels, whether it is there.
    """

    def __init__(self, image: VoxelSource, present: Sequence[bool]) -> None:
        self._image, self._present = image, np.asarray(present, np.float32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        channels, z, y, x = self._image.shape
        return channels + len(self._present), z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `VoxelSource`."""
        image = self._image.read(box)
        mask = np.broadcast_to(self._present[:, None, None, None], (len(self._present), *box.shape))
        return np.concatenate((image, mask))


def names_of_missing(missing: Iterable[int], channels: Sequence[str]) -> str:
    """The channels for people, such as ``T2 (channel 1), FLAIR (channel 2)``."""
    return ", ".join(f"{channels[number]} (channel {number})" for number in missing)


def missing_told(missing: Mapping[str, Sequence[int]], channels: Sequence[str]) -> list[str]:
    """Which cases lack which channels: one sentence for each channel.

    Args:
        missing: Case → numbers of the channels that it lacks, for all cases.
        channels: Names of the channels.
    """
    told = []
    for number in range(len(channels)):
        lacking = [case_id for case_id, numbers in missing.items() if number in numbers]
        if lacking:
            name = names_of_missing([number], channels)
            told.append(f"{name} is missing in {len(lacking)} of {counted(len(missing), 'case')}: {some(lacking)}")
    return told
