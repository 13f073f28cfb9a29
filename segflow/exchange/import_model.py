"""Import of bundles and models of nnU-Net v2 as runs (recipe 9.4, 14.1)."""

from __future__ import annotations

import logging
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.models.bundle_file import configurations_in, read_bundle
from segflow.models.nnunet_model import no_nnunet_model
from segflow.models.open_model import ModelKind, open_model
from segflow.models.own_runs import run_path, write_runs
from segflow.models.trained_fold import Folds

logger = logging.getLogger(__name__)


def import_model(
    path: Path,
    outputs: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    configuration: str | None = None,
    run_name: str = "imported",
) -> list[Path]:
    """Make runs from a bundle or a model of nnU-Net v2.

    Args:
        path: See `import_bundle` and `import_nnunet_model`.
        outputs: Folder of the runs.
        folds, checkpoint, configuration: See `import_nnunet_model`. All of a bundle is imported.
        run_name: Name of the runs.

    Returns:
        One folder per configuration. A model of nnU-Net gives one.

    Raises:
        SegflowError: There is no such model, it cannot be read, or a run exists.
    """
    if path.exists() and open_model(path).kind is ModelKind.BUNDLE:
        return import_bundle(path, outputs, run_name=run_name)
    return [
        import_nnunet_model(
            path, outputs, folds=folds, checkpoint=checkpoint, configuration=configuration, run_name=run_name
        )
    ]


def import_bundle(path: Path, outputs: Path, *, run_name: str = "imported") -> list[Path]:
    """Make runs from a bundle.

    Args:
        path: The bundle.
        outputs: Folder of the runs.
        run_name: Name of the runs.

    Returns:
        One folder per configuration, in the bundle's order.

    Raises:
        SegflowError: The bundle cannot be read, or a run exists.
    """
    models = [read_bundle(path, configuration=name) for name in configurations_in(path)]
    for model in models:
        if (place := run_path(outputs, model[0].record, run_name)).exists():
            raise SegflowError(f"there is a run {place} already", fix="Choose another run_name, or remove it.")
    return write_runs(outputs, models, run_name)


def import_nnunet_model(
    path: Path,
    outputs: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    configuration: str | None = None,
    run_name: str = "imported",
) -> Path:
    """Make a run from a model of nnU-Net v2. For a cascade the previous stage is imported too, if it exists.

    Args:
        path: Its folder, a folder above it, nnU-Net's export as a zip, or one of its checkpoints.
        outputs: Folder of the runs.
        folds: ``all``, or a list.
        checkpoint: ``final``, ``best`` or ``last``.
        configuration: Configuration to take if there are several models.
        run_name: Name of the run.

    Returns:
        The run's folder, ``<outputs>/<dataset>/<plans>/<configuration>/<run_name>``.

    Raises:
        SegflowError: The model cannot be read, or the run exists.
    """
    if not path.exists():
        raise SegflowError(f"there is no {path}", expected="a bundle, or a model of nnU-Net v2")
    opened = open_model(path, checkpoint=checkpoint, configuration=configuration)
    if opened.kind not in (ModelKind.NNUNET_MODEL, ModelKind.NNUNET_CHECKPOINT):
        raise no_nnunet_model(path)
    trained = opened.read(folds)
    record = trained[0].record
    models = [trained]
    previous = record.plan.previous_stage
    if previous and not run_path(outputs, record, run_name, previous).exists():
        try:
            place, name = opened.previous_stage(record)
            models.append(open_model(place, checkpoint=checkpoint, configuration=name).read(folds))
        except SegflowError as error:
            logger.warning("the previous stage '%s' was not imported: %s", previous, error)
    return write_runs(outputs, models, run_name)[0]
