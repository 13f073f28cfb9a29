"""A fold's folder belongs to one set of settings: the same command continues it, other settings are refused.

Before its first checkpoint it belongs to none, since there is nothing yet that another start could spoil.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.core.wording import some
from segflow.preprocessing.check_arrays import check_choices, identify_arrays, other_arrays
from segflow.storage.folds import TRAIN_FIRST, Fold
from segflow.storage.json_files import read_json, read_json_as
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.runs import Run

FREE_SETTINGS = (
    "settings.paths*",
    "settings.dataset*",  # its place; its content is compared separately
    "settings.save_probabilities",
    "settings.verbose",
    "settings.logger*",
    "settings.hydra*",
    "settings.inference*",
    "settings.validation*",
    "settings.objective",
    "settings.reader*",  # its name stands in the plans
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
    "training_images*",  # of the same arrays, which are compared separately
)
"""Shell patterns of what may change between two starts: it decides where and how fast a run trains, or less."""

LENGTH_SETTING = "settings.trainer.max_epochs"

logger = logging.getLogger(__name__)


def release_folder(folder: Fold) -> None:
    """Clear a folder without checkpoints for a new start, and log it. Half-written files go in any case."""
    folder.clear_unfinished()
    if not folder.has_weights() and folder.clear_start():
        logger.info("%s: an earlier start ended before its first checkpoint; this one begins anew", folder.path)


def check_arrays_of_run(
    folder: Fold,
    record: RunRecord,
    store: PreprocessedStore,
    preprocess: str,
    previous_stage: PreprocessedStore | None = None,
) -> Mapping[str, Any]:
    """Refuse arrays that do not belong to the plans, or that differ from those of the run's trained folds.

    Args:
        folder: The fold's folder; the run's other folds lie beside it.
        record: Record of the fold.
        store: The arrays.
        preprocess: The command that makes them, for messages.
        previous_stage: Label maps of the previous stage, for a cascade.

    Returns:
        Origin of the arrays, for `RunRecord.arrays`.

    Raises:
        SegflowError: They differ. The error says how.
    """
    what = (store, (*record.train_cases, *record.val_cases), record.plans, record.configuration, record.dataset.labels)
    check_choices(*what, preprocess)
    arrays = identify_arrays(*what, previous_stage)
    unknown = []
    for fold in Run.of(folder.path).trained_folds():
        before = read_json_as(fold.record_file, lambda content: dict(content.get("arrays") or {}))
        try:
            difference = other_arrays(before, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise SegflowError(f"{fold.record_file}: 'arrays' cannot be used", found=repr(error)) from error
        if difference is not None:
            raise SegflowError(
                f"{fold.path} was trained on other arrays than there are now",
                found=difference,
                fix="Bring back the plans and files that they were made from, and preprocess; or train all folds on "
                "the present arrays, with a run_name of their own.",
            )
        if arrays and not before:
            unknown.append(fold.path.name)
    if unknown:
        logger.info("%s does not say which arrays it was trained on: not compared", ", ".join(unknown))
    return arrays


def claim_folder(folder: Fold, record: RunRecord, *, free: Sequence[str] = FREE_SETTINGS, extend: bool = False) -> bool:
    """Write ``run.json``, or check that the existing one has the same settings. Without checkpoints it is replaced.

    Args:
        folder: The fold's folder.
        record: Record of the fold to train.
        free: Shell patterns of dotted names that may differ.
        extend: ``trainer.max_epochs`` may differ too.

    Returns:
        Whether the folder was claimed before.

    Raises:
        SegflowError: It belongs to a run with other settings. The error names them.
    """
    if folder.record_file.is_file():
        release_folder(folder)
    if not folder.record_file.is_file():
        folder.write_record(record)
        return False
    content = read_json(folder.record_file, fix=TRAIN_FIRST)
    # Arrays are those of the first start, see `check_arrays_of_run`; the machine is that of the last training.
    arrays, machine, first = (content.get(name) or {} for name in ("arrays", "machine", "initial_weights"))
    record = replace(record, arrays=arrays, machine=machine, initial_weights=first)
    stored, wanted = _flat(content), _flat(record.to_json())
    differences = _differences(stored, wanted, (*free, LENGTH_SETTING) if extend else tuple(free))
    if differences:
        only_length = all(text.startswith("trainer.max_epochs ") for text in differences)
        raise SegflowError(
            f"{folder.path} holds a run with other settings",
            found=some(differences, separator="; "),
            fix="Continue it to the new length with training.extend=true."
            if only_length
            else "Give the new run its own run_name, or remove the folder.",
        )
    if stored != wanted:
        folder.write_record(record)
    return True


def is_claimed(folder: Fold, record: RunRecord) -> bool:
    """Whether the folder belongs to a run with the settings of a record, as `claim_folder` demands.

    Mirror axes, the identity of arrays and the machine are not compared: training takes them from other settings, from
    the arrays themselves and from where it runs.
    """
    stored, wanted = _flat(read_json(folder.record_file, fix=TRAIN_FIRST)), _flat(record.to_json())
    return not _differences(stored, wanted, (*FREE_SETTINGS, "mirror_axes*", "arrays*", "machine*", "initial_weights*"))


def _flat(content: Any) -> dict[str, Any]:
    return dict(_flatten(json.loads(json.dumps(content))))


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], free: Sequence[str]) -> list[str]:
    return [
        f"{name.removeprefix('settings.')} was {_shown(stored, name)} and is now {_shown(wanted, name)}"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name, _ABSENT) != wanted.get(name, _ABSENT)
        and not any(fnmatchcase(name, pattern) for pattern in free)
    ]


_ABSENT = object()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "absent"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name → leaf. Lists are leaves, since their entries have no names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
