"""What the start of a training asks of every prepared case, short enough to be read of tens of thousands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segflow.core.labels import key_text
from segflow.storage.file_stamps import FileStamp, digest_of
from segflow.storage.image_formats.placement import left_right_axis
from segflow.storage.stored_case import StoredCase

PROVENANCE = "made_from"
"""Key of a stored case's properties: the choices and files that its arrays were made from."""
VERSION = "version"
"""Key of the choices for the version of preprocessing."""

Stamps = Mapping[str, FileStamp]

_DIGITS = 16


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """Some of a case's properties.

    Attributes:
        keys: Texts of the labels and regions that it has voxels of, see `key_text`.
        left_right: Plan axis from left to right of the patient; None if the image does not say.
        choices: Digest of the choices that its arrays were made with; None if they are not recorded.
        identity: Digest of the version of preprocessing and of the content of its files; None if not recorded.
        stamps: Role → stamp of the raw files; empty if not recorded.
    """

    keys: tuple[str, ...]
    left_right: int | None
    choices: str | None
    identity: str | None
    stamps: Stamps

    def to_json(self) -> list[Any]:
        """Plain JSON."""
        return [list(self.keys), self.left_right, self.choices, self.identity, dict(self.stamps)]

    @classmethod
    def from_json(cls, value: Any) -> CaseFacts:
        """Inverse of `to_json`."""
        keys, left_right, choices, identity, stamps = value
        return cls(tuple(keys), left_right, choices, identity, stamps)


def facts_of(case: StoredCase) -> CaseFacts:
    """The facts of a case.

    Raises:
        SegflowError: Its placement in the patient cannot be used.
    """
    axis = left_right_axis(case.spatial.geometry)
    made = made_from(case.properties)
    choices, identity, stamps = None, None, {}
    if made is not None:
        files = {role: stamp.get("digest") for role, stamp in made[1].items() if isinstance(stamp, Mapping)}
        choices, stamps = digest_of(made[0])[:_DIGITS], made[1]
        identity = digest_of([made[0].get(VERSION), files])[:_DIGITS]
    return CaseFacts(
        keys=tuple(key_text(key) for key in case.foreground.keys),
        left_right=None if axis is None else case.spatial.axis_order.index(axis),
        choices=choices,
        identity=identity,
        stamps=stamps,
    )


def made_from(properties: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, FileStamp]] | None:
    """The choices and the stamps of files that a stored case was made from; None if they are not recorded."""
    stamp = properties.get(PROVENANCE)
    if not isinstance(stamp, Mapping):
        return None
    choices, files = stamp.get("choices"), stamp.get("files")
    return (choices, files) if isinstance(choices, dict) and isinstance(files, dict) else None
