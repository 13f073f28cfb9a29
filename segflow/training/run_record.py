"""A run's folder belongs to one configuration: the same command continues it, another one is refused.

It belongs to none before its first checkpoint: what ended earlier taught nothing that another start could spoil.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.run import RunRecord
from segflow.storage.json_files import read_json
from segflow.storage.run_folder import TRAIN_FIRST, RunFolder

FREE_SETTINGS = (
    "settings.paths*",
    "settings.dataset*",  # where it lies; what it is, is compared by itself
    "settings.save_probabilities",
    "settings.verbose",
    "settings.logger*",
    "settings.hydra*",
    "settings.inference*",
    "settings.validation*",
    "settings.*overwrite*",
    "settings.*processes*",
    "settings.training.num_workers",
    "settings.training.augmentation_device",
    "settings.training.compile",
    "settings.training.picture_*",
    "settings.training.volume_*",
    "settings.training.extend",
    "settings.training.skip_limit",
    "settings.trainer.accelerator",
    "settings.trainer.devices",
    "settings.trainer.num_nodes",
    "settings.trainer.strategy",
    "settings.trainer.precision",
    "settings.trainer.max_time",
    "settings.trainer.benchmark",
    "settings.trainer.deterministic",
    "settings.trainer.profiler",
    "settings.trainer.enable_*",
    "settings.trainer.log_every_n_steps",
)
"""Shell patterns of what may change between two starts of a run: where and how quickly it runs, not what it learns."""

LENGTH_SETTING = "settings.trainer.max_epochs"
SHOWN = 5

logger = logging.getLogger(__name__)


def release_folder(folder: RunFolder) -> None:
    """Make room for a start anew where no checkpoint binds the folder, and say so."""
    if not folder.has_weights() and folder.clear_start():
        logger.info("%s: an earlier start ended before its first checkpoint; this one begins anew", folder.path)


def claim_folder(
    folder: RunFolder, record: RunRecord, *, free: Sequence[str] = FREE_SETTINGS, extend: bool = False
) -> bool:
    """Write ``run.json``, or check that the one that is there says the same; without checkpoints it is replaced.

    Args:
        folder: The run's folder.
        record: What is to be trained.
        free: Shell patterns of dotted names that may differ.
        extend: Whether ``trainer.max_epochs`` may differ too.

    Returns:
        Whether the folder had been claimed before.

    Raises:
        SegflowError: It belongs to a run with other settings; names them.
    """
    if folder.record_file.is_file():
        release_folder(folder)
    if not folder.record_file.is_file():
        folder.write_record(record)
        return False
    stored = dict(_flatten(read_json(folder.record_file, fix=TRAIN_FIRST)))
    wanted = dict(_flatten(json.loads(json.dumps(record.to_json()))))
    allowed = (*free, LENGTH_SETTING) if extend else tuple(free)
    differences = [
        f"{name.removeprefix('settings.')} was {_shown(stored, name)} and is now {_shown(wanted, name)}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name, _ABSENT) != wanted.get(name, _ABSENT)
        and not any(fnmatchcase(name, pattern) for pattern in allowed)
    ]
    if differences:
        only_length = all(text.startswith("trainer.max_epochs ") for text in differences)
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise SegflowError(
            f"{folder.path} holds a run with other settings",
            found="; ".join(differences[:SHOWN]) + more,
            fix="Continue it to the new length with training.extend=true."
            if only_length
            else "Give the new run its own run_name, or remove the folder.",
        )
    if stored != wanted:
        folder.write_record(record)
    return True


_ABSENT = object()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "absent"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name → leaf. Lists are leaves: their entries have no names to speak of."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
