"""How a training starts: rank 0 decides, and the other processes check that they see the same files."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from segflow.core.errors import SegflowError
from segflow.storage.folds import Fold
from segflow.storage.json_files import read_json
from segflow.training.ranks import team

PATIENCE = 10.0
"""Seconds until a network's file system shows what another machine wrote."""


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a training.

    Attributes:
        is_resumed: The folder was claimed before, so that the last checkpoint is continued.
        is_finished: The training has reached its end before.
    """

    is_resumed: bool
    is_finished: bool


def start_of_rank_0(folder: Fold, claim: Callable[[], Start]) -> Start:
    """Claim the folder as rank 0, or wait for what rank 0 decides.

    Args:
        folder: The fold's folder.
        claim: Claims it.

    Raises:
        SegflowError: Rank 0 refuses, or this process sees another folder than rank 0.
    """
    if team().is_first:
        start = claim()
        team().announce("start", {**asdict(start), "files": _files(folder)})
        return start
    told = team().hear("start")
    wanted = told.pop("files")
    until = time.monotonic() + PATIENCE
    while (seen := _files(folder)) != wanted:
        if time.monotonic() > until:
            different = ", ".join(name for name in wanted if seen[name] != wanted[name])
            raise SegflowError(
                f"{folder.path} is not the same folder on {platform.node()} as for rank 0",
                found=f"another {different}",
                fix="All machines of a training need a file system in common, and the same paths.outputs.",
            )
        time.sleep(0.5)
    return Start(**told)


def _files(folder: Fold) -> dict[str, str | None]:
    """The files by which a folder is recognised: digest of its record, and size of the checkpoint to continue from."""
    record, last = folder.record_file, folder.checkpoint("last")
    digest = None
    if record.is_file():
        content = read_json(record)
        content.pop("machine", None)  # rank 0 adds it later
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        record.name: digest,
        last.name: str(last.stat().st_size) if last.is_file() else None,
    }
