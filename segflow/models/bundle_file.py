"""Bundles, segflow's own model file: a zip of tensors and JSON without code, read in place.

``bundle.json`` lists the models (one per configuration) with their records, and each fold's file and checksum.
``<configuration>/fold_<k>.safetensors`` holds its weights. Names of cases and training settings are left out. Other
keys of dataset.json, such as a licence, are kept.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.names import check_fold, is_number, shortened
from segflow.core.run_record import RunRecord
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.json_files import build_as, parse_json, written_whole
from segflow.storage.zip_files import BROKEN, is_zip, open_zip, read_member

FORMAT = 1
MANIFEST = "bundle.json"


def is_bundle(path: Path) -> bool:
    """Whether the table of contents of a file is that of a bundle."""
    if not is_zip(path):
        return False
    with open_zip(path) as archive:
        return MANIFEST in archive.namelist()


def write_bundle(target: Path, folds: Iterable[TrainedFold], facts: Mapping[str, Any] | None = None) -> None:
    """Write folds of one or several configurations, as a whole or not at all.

    Args:
        target: The file.
        folds: Weights and records.
        facts: Plain JSON to store with them, such as a licence.

    Raises:
        SegflowError: The file cannot be written.
    """
    models: dict[str, dict[str, Any]] = {}
    folds = list(folds)
    needed = sum(value.nbytes for fold in folds for value in fold.weights.values())
    with (
        written_whole(target, needed=needed) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
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
        configuration: Configuration to take if there are several models. None prefers a cascade to its previous stage.

    Raises:
        SegflowError: The file is damaged, or has no such model or fold.
    """
    with open_zip(path) as archive:
        models = _models(path, archive)
        name = _choose(path, models, configuration)
        record, listed = models[name]
        chosen = choose_folds(list(listed), folds, f"{path} ({name})")
        return [
            TrainedFold(
                replace(record, fold=int(fold) if is_number(fold) else fold),
                _weights(path, archive, listed[fold]),
                f"{path} ({listed[fold].file})",
            )
            for fold in chosen
        ]


def bundle_folds(path: Path, configuration: str | None = None) -> list[str]:
    """Names of the folds that `read_bundle` reads for ``all``.

    Raises:
        SegflowError: The file is damaged, or has no such model.
    """
    with open_zip(path) as archive:
        models = _models(path, archive)
    name = _choose(path, models, configuration)
    return choose_folds(list(models[name][1]), "all", f"{path} ({name})")


def configurations_in(path: Path) -> list[str]:
    """Names of the models in a bundle.

    Raises:
        SegflowError: The file is damaged.
    """
    with open_zip(path) as archive:
        return list(_models(path, archive))


@dataclass(frozen=True, slots=True)
class _Listed:
    """A fold's file within the bundle, and the checksum of its content."""

    file: str
    sha256: str


def _models(path: Path, archive: zipfile.ZipFile) -> dict[str, tuple[RunRecord, dict[str, _Listed]]]:
    """Configuration → record and folds, after all checks."""
    manifest = parse_json(f"{path}, {MANIFEST}", read_member(archive, MANIFEST), BROKEN)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SegflowError(
            f"{path} was written in another format",
            found=shortened(manifest.get("format") if isinstance(manifest, dict) else manifest),
            expected=FORMAT,
            fix="Update segflow.",
        )
    return build_as(f"{path}, {MANIFEST}", manifest, _read_models, BROKEN)


def _read_models(manifest: Mapping[str, Any]) -> dict[str, tuple[RunRecord, dict[str, _Listed]]]:
    models = {}
    for name, model in manifest["models"].items():
        record = RunRecord.from_json(model["record"])
        if record.configuration != name:
            raise SegflowError(
                "a model is listed under another name", found=shortened(name), expected=record.configuration
            )
        for fold in model["folds"]:
            check_fold(fold)
        models[name] = (record, {f: _Listed(str(v["file"]), str(v["sha256"])) for f, v in model["folds"].items()})
    return models


def _choose(
    path: Path, models: Mapping[str, tuple[RunRecord, Mapping[str, _Listed]]], configuration: str | None
) -> str:
    if configuration is not None and configuration in models:
        return configuration
    needed = {record.plan.previous_stage for record, _ in models.values()}
    last = [name for name in models if name not in needed]
    if configuration is not None or len(last) != 1:
        raise SegflowError(
            f"{path} holds no model '{configuration}'" if configuration else f"{path} holds several models",
            found=", ".join(models),
            fix="Name one of these configurations.",
        )
    return last[0]


def _weights(path: Path, archive: zipfile.ZipFile, listed: _Listed) -> dict[str, Tensor]:
    content = read_member(archive, listed.file)
    if hashlib.sha256(content).hexdigest() != listed.sha256:
        raise SegflowError(f"{path}: {listed.file} is not what was written", fix=BROKEN)
    try:
        return load(content)
    except (SafetensorError, *UNUSABLE) as error:
        raise SegflowError(f"cannot read the bundle {path}: {shortened(error, 200)}", fix=BROKEN) from error


def _public(record: RunRecord) -> dict[str, Any]:
    """The parts of a record that prediction needs, without names of cases and paths of the training machine."""
    settings = {"trainer": record.settings["trainer"]} if record.from_nnunet else {}  # it decides how logits are summed
    precision = record.trained_precision
    machine = {} if precision is None else {"precision": precision}  # in which it predicts
    dataset = replace(record.dataset, raw=record.dataset.without_cases())
    own: dict[str, Any] = {"settings": settings, "machine": machine, "initial_weights": {}}
    return replace(record, dataset=dataset, train_cases=(), val_cases=(), **own).to_json()
