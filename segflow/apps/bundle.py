"""``segflow bundle``: runs ↔ model files, ours and nnU-Net v2's."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle, export_nnunet_model
from segflow.exchange.import_model import import_model

USE = (
    "Use: segflow bundle action=export model=RUN_FOLDER output=liver.segflow, "
    "or with format=nnunet output=FOLDER_OR_ZIP, or: segflow bundle action=import model=FILE_OR_FOLDER"
)


def run(config: DictConfig) -> None:
    """Export or import."""
    if not config.model or (config.action == "export" and not config.output):
        raise SegflowError("nothing to do", fix=USE)
    model = Path(config.model).expanduser()
    folds = list(map(str, config.folds)) if OmegaConf.is_list(config.folds) else str(config.folds)
    if config.action == "export":
        output = Path(config.output).expanduser()
        checkpoint = config.checkpoint
        if config.format == "segflow":
            written = export_bundle(model, output, folds=folds, checkpoint=checkpoint)
        elif config.format == "nnunet":
            written = export_nnunet_model(model, output, folds=folds, checkpoint=checkpoint)
        else:
            raise SegflowError("unknown format", found=config.format, expected="segflow or nnunet", fix=USE)
        _terminal.say(f"Written to {written}.")
    elif config.action == "import":
        outputs = Path(_edge.read(_datasets.PathSettings, config.paths).outputs).expanduser()
        runs = import_model(
            model,
            outputs,
            folds=folds,
            checkpoint=config.checkpoint,
            configuration=config.bundle.configuration,
            run_name=config.run_name,
        )
        for folder in runs:
            _terminal.say(
                f"Written to {folder}. Next: {command_line('predict', model=folder, input='DIR', output='DIR')}"
            )
    else:
        raise SegflowError("unknown action", found=config.action, expected="export or import", fix=USE)
