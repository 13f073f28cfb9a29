"""Origins of label maps, for their stamps (see ``storage/stamps.py``)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from segflow.core.preprocessed_case import PreprocessedCase, PreprocessedSources
from segflow.core.run_record import RunRecord
from segflow.inference.predict_settings import AUTO, SlidingWindowSettings
from segflow.storage.file_stamps import FileStamp, digest_of

WINDOW_SETTINGS = ("overlap", "gaussian", "mirroring", "sums", "precision")
"""Settings of the sliding window that change label maps. The batch size does not."""


@dataclass(frozen=True, slots=True)
class StampedCase:
    """A case to be predicted.

    Attributes:
        preprocessed: The preprocessed case, or one that is prepared as it is read.
        inputs: Stamps of its files, taken before they were read.
        close: Closes its files.
    """

    preprocessed: PreprocessedCase | PreprocessedSources
    inputs: dict[str, FileStamp]
    close: Callable[[], object] = lambda: None


def window_choices(settings: SlidingWindowSettings) -> dict[str, Any]:
    """The settings of the sliding window for a stamp.

    A precision counts if it was asked for. What ``auto`` takes depends on the device, which counts as little as ever:
    machines of several kinds may share the cases of a folder.
    """
    choices = {name: getattr(settings, name) for name in WINDOW_SETTINGS}
    if settings.precision == AUTO:
        del choices["precision"]
    return choices


def weights_digest(networks: Iterable[nn.Module]) -> str:
    """A checksum of all parameters and buffers, as text. Other weights give another text."""
    digest = hashlib.blake2b(digest_size=16)
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def record_digest(*records: RunRecord) -> str:
    """A checksum of everything in records that decides how images are prepared and what outputs mean."""
    return digest_of(
        [
            {
                "dataset": record.dataset.to_json(),
                "plans": record.plans.to_json(),
                "configuration": record.configuration,
                "mirror_axes": list(record.mirror_axes),
            }
            for record in records
        ]
    )


def described(build: Any) -> Any:
    """The builder of a network as plain JSON: its name, and options that are plain."""
    if isinstance(build, partial):
        options = {str(k): v for k, v in (*enumerate(build.args), *build.keywords.items())}
        return {"name": described(build.func), "options": {key: _plain(value) for key, value in options.items()}}
    return f"{getattr(build, '__module__', '')}.{getattr(build, '__qualname__', type(build).__qualname__)}"


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return described(value) if callable(value) else type(value).__qualname__
