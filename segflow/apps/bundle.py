"""``segflow bundle``: runs ↔ model files of segflow and nnU-Net v2."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._parts import Part
from segflow.apps._records import Command, needed, within_memory
from segflow.core.errors import SegflowError
from segflow.storage.find_folds import refuse_missing

USE = (
    "Use: segflow bundle action=export model=RUN_FOLDER output=liver.segflow, "
    "or with format=nnunet, onnx or monai and output=FOLDER_OR_ZIP, "
    "or: segflow bundle action=import model=FILE_OR_FOLDER, "
    "or: segflow bundle action=average model=RUN_FOLDER,RUN_FOLDER output=mean.segflow"
)

ACTIONS = ("export", "import", "average")

FORMATS = ("segflow", "nnunet", "onnx", "monai")


@dataclass(kw_only=True, slots=True)
class BundleSettings:
    """Settings in a section, since a top-level ``configuration=`` chooses an option of the group of that name.

    Attributes:
        configuration: Model to import if there are several; null if there is one.
    """

    configuration: str | None = None


@dataclass(kw_only=True)
class Bundle(Command):
    """Settings of ``segflow bundle``.

    Attributes:
        action: ``export``, ``import``, or ``average``, which writes the mean of the weights of all folds that are named
            as one model.
        model: Run folder to export; or bundle, or folder or zip of nnU-Net v2, to import; or one or several of them to
            average: ``model=A,B``.
        output: File or folder to write.
        format: ``segflow`` (one file of tensors and JSON); or, as a folder or a ``.zip``, ``nnunet``, ``onnx`` (the
            networks and a script that predicts without segflow and torch) or ``monai`` (a MONAI bundle).
        folds: ``all``, one fold, or a list.
        checkpoint: ``final``, ``best`` or ``last``.
        postprocessing: The postprocessing.json whose steps ``onnx`` and ``monai`` apply to label maps; null applies
            none.
        facts: What to keep with a bundle, such as ``{licence: CC BY 4.0, intended_use: research}``.
        network: The network; needed only to export a user's own as ``onnx`` or ``monai``.
        run_name: Name of imported runs.
        bundle: Choice of the model.
    """

    SECTION: ClassVar = "bundle"

    action: str = "export"
    model: list[Path] | None = None
    output: Path | None = None
    format: str = "segflow"
    folds: str | list[str] = "all"
    checkpoint: str = "final"
    postprocessing: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    network: Part
    run_name: str = "imported"
    bundle: BundleSettings = field(default_factory=BundleSettings)

    def __post_init__(self) -> None:
        for name, known in (("action", ACTIONS), ("format", FORMATS)):
            if getattr(self, name) not in known:
                raise SegflowError(f"unknown {name}", found=getattr(self, name), expected=" or ".join(known), fix=USE)


@within_memory
def run(settings: Bundle) -> None:
    """Export, import or average."""
    if not settings.model or (settings.action != "import" and not settings.output):
        raise SegflowError("nothing to do", fix=USE)
    for model in settings.model:
        refuse_missing(model)
    if settings.action == "average":
        _average(settings, settings.model, needed(settings.output, "output", USE))
        return
    model, *others = settings.model
    if others:
        raise SegflowError(
            f"action={settings.action} takes one model",
            found=[str(path) for path in settings.model],
            fix="action=average makes one of several.",
        )
    if settings.action == "export":
        written = _export(settings, model, needed(settings.output, "output", USE))
        _terminal.say(f"Written to {written}.")
        if settings.format == "segflow":
            _next.say(_next.with_model(written, settings.paths, of=model))
        return
    for folder in _import(settings, model):
        _terminal.say(f"Written to {folder}.")
        _next.say(_next.with_model(folder, settings.paths))


def _average(settings: Bundle, models: list[Path], output: Path) -> None:
    if settings.format != "segflow" or settings.postprocessing is not None:
        raise SegflowError(
            "action=average writes a bundle, without steps of postprocessing",
            found=f"format={settings.format}, postprocessing={settings.postprocessing}",
            fix="Write it with action=average, and then in another format: action=export model=FILE.",
        )
    from segflow.exchange.average_model import average_models  # slow: torch

    chosen: dict[str, Any] = {"folds": settings.folds, "checkpoint": settings.checkpoint}
    written = average_models(models, output, **chosen, facts=settings.facts)
    _terminal.say(f"Written to {written}.")
    _terminal.say("Every case that one of its members was trained on is seen data: it has no cross-validation.")
    _next.say(_next.with_model(written, settings.paths, of=models[0]))


def _export(settings: Bundle, model: Path, output: Path) -> Path:
    if settings.facts and settings.format != "segflow":
        fix = "Leave them out, or put them into dataset.json."
        raise SegflowError(f"format={settings.format} keeps no facts=", found=list(settings.facts), fix=fix)
    if settings.format in ("onnx", "monai"):
        return _export_for_others(settings, model, output)
    if settings.postprocessing is not None:
        raise SegflowError(
            f"format={settings.format} holds no steps of postprocessing",
            found=f"postprocessing={settings.postprocessing}",
            fix="Leave it out: segflow postprocess applies the file, or format=onnx or monai holds the steps.",
        )
    from segflow.exchange.export_model import export_bundle, export_nnunet_model  # slow: torch

    chosen: dict[str, Any] = {"folds": settings.folds, "checkpoint": settings.checkpoint}
    if settings.format == "nnunet":
        return export_nnunet_model(model, output, **chosen)
    return export_bundle(model, output, **chosen, facts=settings.facts)


def _export_for_others(settings: Bundle, model: Path, output: Path) -> Path:
    from segflow.exchange.export_monai import export_monai  # slow: torch
    from segflow.exchange.export_onnx import export_onnx, refuse_missing_packages
    from segflow.exchange.runner_model import RunnerModel
    from segflow.postprocessing.apply_postprocessing import read_choice

    if settings.format == "onnx":
        refuse_missing_packages()
    loaded = RunnerModel.load(
        model,
        folds=settings.folds,
        checkpoint=settings.checkpoint,
        build=settings.network.build(),
        steps=read_choice(settings.postprocessing).steps if settings.postprocessing else (),
    )
    return (export_onnx if settings.format == "onnx" else export_monai)(loaded, output)


def _import(settings: Bundle, model: Path) -> list[Path]:
    from segflow.exchange.import_model import import_model

    return import_model(
        model,
        settings.paths.outputs,
        folds=settings.folds,
        checkpoint=settings.checkpoint,
        configuration=settings.bundle.configuration,
        run_name=settings.run_name,
    )
