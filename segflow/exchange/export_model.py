"""Export of trained models: as a bundle, or as a model of nnU-Net v2 (recipe 9.4, 14.1)."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.missing_channels import names_of_missing
from segflow.core.run_record import RunRecord
from segflow.core.system_errors import system_error
from segflow.exchange.exported_folder import is_zip_name, write_zip
from segflow.models.bundle_file import write_bundle
from segflow.models.nnunet_checkpoint import TRAINER
from segflow.models.nnunet_model import write_nnunet_model
from segflow.models.open_model import open_model
from segflow.models.trained_fold import Folds, TrainedFold
from segflow.storage.readers import NNUNET_READERS
from segflow.storage.runs import Run

log = logging.getLogger(__name__)

OF_A_FOLD = ("progress.png", "validation/summary.json")
"""Files that nnU-Net keeps beside a checkpoint, which have the same names in segflow."""


def export_bundle(
    models: Path | Sequence[Path],
    target: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write models as a bundle, which `Predictor.load` reads directly.

    Args:
        models: Models of different configurations, see `open_model`. A cascade includes its previous stage.
        target: The file, such as ``liver.segflow``.
        folds: ``all``, or names.
        checkpoint: ``final``, ``best`` or ``last``.
        facts: Plain JSON to keep with the models, such as licence and authors.

    Returns:
        The file.

    Raises:
        SegflowError: A model cannot be read, or the file exists or cannot be written.
    """
    refuse_existing(target)
    trained = read_with_stages(
        [(path, None) for path in ([models] if isinstance(models, Path) else models)], folds, checkpoint
    )
    return write_model(target, trained, facts)


def refuse_existing(target: Path) -> None:
    """Refuse to replace a file.

    Raises:
        SegflowError: It exists.
    """
    if target.exists():
        raise SegflowError(f"{target} exists already", fix="Remove it, or choose another name.")


def read_with_stages(
    models: Sequence[tuple[Path, str | None]], folds: Folds = "all", checkpoint: str = "final"
) -> list[TrainedFold]:
    """Read models, each followed by the previous stages of its cascade. A configuration is read once.

    Args:
        models: Path, and configuration or None for the only one.
        folds, checkpoint: See `export_bundle`.

    Raises:
        SegflowError: A model cannot be read.
    """
    trained: list[TrainedFold] = []
    waiting = list(models)
    while waiting:
        path, configuration = waiting.pop(0)
        opened = open_model(path, checkpoint=checkpoint, configuration=configuration)
        members = opened.read(folds)
        record = members[0].record
        if any(record.configuration == other.record.configuration for other in trained):
            continue
        trained += members
        if record.plan.previous_stage:
            waiting.append(opened.previous_stage(record))
    return trained


def write_model(target: Path, folds: Sequence[TrainedFold], facts: Mapping[str, Any] | None) -> Path:
    """Write folds as a bundle, with the version of segflow among its facts.

    Raises:
        SegflowError: The file cannot be written.
    """
    write_bundle(target, folds, {"segflow": version("segflow"), **(facts or {})})
    return target


def export_nnunet_model(model: Path, target: Path, *, folds: Folds = "all", checkpoint: str = "final") -> Path:
    """Write a model in nnU-Net v2's layout, so that nnU-Net can predict with it.

    Args:
        model: See `open_model`.
        target: A folder such as nnUNet_results, or a name that ends in ``.zip``, for nnU-Net's own import.
        folds: ``all``, or a list.
        checkpoint: ``final``, ``best`` or ``last``.

    Returns:
        The model's folder ``<target>/<dataset>/nnUNetTrainer__<plans>__<configuration>``, or the zip.

    Raises:
        SegflowError: The model cannot be read, or the target exists or cannot be written.
    """
    trained = open_model(model, checkpoint=checkpoint).read(folds)
    record = trained[0].record
    if record.plans.reader not in NNUNET_READERS:
        log.warning(
            "nnU-Net has no reader '%s': before it can predict, put one of its own into plans.json "
            "(image_reader_writer) and the ending of its images into dataset.json (file_ending)",
            record.plans.reader,
        )
    if record.dataset.own_label_ending is not None:
        log.warning(
            "nnU-Net knows one ending for images and label maps: it writes predictions as %s, not as %s. It reads no "
            "JPEG; convert such images to .png and put that into dataset.json (file_ending)",
            record.dataset.file_ending,
            record.dataset.label_ending,
        )
    _check_missing(record)
    relative = Path(record.dataset.name) / f"{TRAINER}__{record.plans.plans_name}__{record.configuration}"
    zipped = is_zip_name(target)
    place = target if zipped else target / relative
    if place.exists():
        raise SegflowError(f"{place} exists already", fix="Remove it, or choose another target.")
    home = target.parent if zipped else target  # the folder above may be on another disk or not writable
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=home) as temporary:
            written = Path(temporary) / relative
            write_nnunet_model(written, trained)
            for fold in trained:
                _copy_results(fold, Run(written).fold(fold.record.fold).path)
            if zipped:
                write_zip(Path(temporary), target)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                written.rename(place)
    except OSError as error:
        raise system_error(error, f"cannot write {place}", place=home) from error
    except RuntimeError as error:  # raised by torch.save without a reason
        raise SegflowError(f"cannot write {place}: {error}") from error
    return place


def _check_missing(record: RunRecord) -> None:
    """Refuse a model that is told which channels are there, which nnU-Net cannot; tell of one that does without some.

    Raises:
        SegflowError: It is told so.
    """
    if record.has_channel_mask:
        raise SegflowError(
            "nnU-Net cannot tell a network which channels of an image are there, as this one was trained",
            found="training.channel_mask=true",
            fix="Export it with format=onnx, for images with all channels, or train without the mask.",
        )
    if record.missing is not None and record.missing.may_lack:
        names = names_of_missing(record.missing.may_lack, record.dataset.channels)
        log.warning("the model does without %s, and nnU-Net does not: it needs all channels of an image", names)


def _copy_results(fold: TrainedFold, place: Path) -> None:
    if fold.folder is None:
        return
    for name in OF_A_FOLD:
        if (file := fold.folder / name).is_file():
            (place / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place / name)
