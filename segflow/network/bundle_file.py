"""Our own model file: a zip of tensors and JSON, read in place, with nothing in it that could run.

``bundle.json`` lists the models (one per configuration) with their records, and each fold's file and checksum;
``<configuration>/fold_<k>.safetensors`` holds its weights. Case names and training settings stay at home.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from segflow.core.errors import SegflowError
from segflow.core.run import RunRecord
from segflow.network.weights import Folds, TrainedFold, choose_folds
from segflow.storage.json_files import written_whole

FORMAT = 1
MANIFEST = "bundle.json"
BROKEN = "It may be cut off or changed; copy it again."


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle, as far as its table of contents tells."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()


def write_bundle(target: Path, folds: Iterable[TrainedFold], facts: Mapping[str, Any] | None = None) -> None:
    """Write folds of one or several configurations, whole or not at all.

    Args:
        target: The file.
        folds: Their weights and records.
        facts: Plain JSON to keep with them, such as a licence.

    Raises:
        SegflowError: The file cannot be written.
    """
    models: dict[str, dict[str, Any]] = {}
    with written_whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for fold in folds:
            record = fold.record
            name = f"{record.configuration}/fold_{record.fold}.safetensors"
            content = save({key: value.detach().cpu().contiguous() for key, value in fold.weights.items()})
            archive.writestr(name, content)
            model = models.setdefault(record.configuration, {"record": _public(record), "folds": {}})
            model["folds"][str(record.fold)] = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
        manifest = {"format": FORMAT, "models": models, "facts": dict(facts or {})}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=4), zipfile.ZIP_DEFLATED)


def read_bundle(path: Path, folds: Folds = "all", configuration: str | None = None) -> list[TrainedFold]:
    """Read the folds of one model.

    Args:
        path: The bundle.
        folds: ``all``, or names.
        configuration: Which model, where there are several. A cascade goes before the stage that it builds on.

    Raises:
        SegflowError: The file is damaged, or has no such model or fold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            models = _models(path, archive)
            name = _choose(path, models, configuration)
            record = RunRecord.from_json(models[name]["record"])
            listed = models[name]["folds"]
            chosen = choose_folds(list(listed), folds, f"{path} ({name})")
            return [
                TrainedFold(
                    replace(record, fold=int(fold) if fold.isdigit() else fold),
                    load(_checked(path, archive, listed[fold])),
                    f"{path} ({listed[fold]['file']})",
                )
                for fold in chosen
            ]
    except (OSError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, SafetensorError) as error:
        raise SegflowError(f"cannot read the bundle {path}: {error!r}", fix=BROKEN) from error


def configurations_in(path: Path) -> list[str]:
    """Names of the models in a bundle.

    Raises:
        SegflowError: The file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_models(path, archive))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SegflowError(f"cannot read the bundle {path}: {error!r}", fix=BROKEN) from error


def _models(path: Path, archive: zipfile.ZipFile) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads(archive.read(MANIFEST))
    except (ValueError, KeyError) as error:
        raise SegflowError(f"{path} is not a bundle: {error!r}", fix=BROKEN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SegflowError(
            f"{path} was written in another format",
            found=manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__,
            expected=FORMAT,
            fix="Update segflow.",
        )
    models: dict[str, dict[str, Any]] = manifest["models"]
    return models


def _choose(path: Path, models: Mapping[str, Mapping[str, Any]], configuration: str | None) -> str:
    if configuration is not None and configuration in models:
        return configuration
    needed = {RunRecord.from_json(model["record"]).plan.previous_stage for model in models.values()}
    last = [name for name in models if name not in needed]
    if configuration is not None or len(last) != 1:
        raise SegflowError(
            f"{path} holds no model '{configuration}'" if configuration else f"{path} holds several models",
            found=", ".join(models),
            fix="Name one of these configurations.",
        )
    return last[0]


def _checked(path: Path, archive: zipfile.ZipFile, listed: Mapping[str, str]) -> bytes:
    content = archive.read(listed["file"])
    if hashlib.sha256(content).hexdigest() != listed["sha256"]:
        raise SegflowError(f"{path}: {listed['file']} is not what was written", fix=BROKEN)
    return content


def _public(record: RunRecord) -> dict[str, Any]:
    """What prediction needs; names of cases and paths of the training machine are nobody else's business."""
    return replace(record, train_cases=(), val_cases=(), settings={}).to_json()
