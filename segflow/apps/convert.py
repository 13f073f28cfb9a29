"""``segflow convert``: other layouts → raw dataset."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError
from segflow.exchange.decathlon import convert_decathlon
from segflow.exchange.file_list import convert_file_list
from segflow.exchange.nnunet_v1_dataset import convert_nnunet_v1_dataset
from segflow.exchange.renumber import renumber_dataset
from segflow.execution.progress import Progress
from segflow.storage.json_files import read_json

KINDS = ("auto", "decathlon", "nnunet_v1", "csv", "renumber")
USE = "Use: segflow convert source=/data/Task04_Hippocampus, or: segflow convert source=FILES.csv dataset_id=42"


def run(config: DictConfig) -> None:
    """Convert one dataset and say where it lies."""
    if not config.source:
        raise SegflowError("nothing to convert", fix=USE)
    if config.kind not in KINDS:
        raise SegflowError("unknown kind of source", found=config.kind, expected=", ".join(KINDS))
    source = Path(config.source).expanduser()
    if not source.exists():
        raise SegflowError(f"there is no {source}", fix=USE)
    paths = _edge.read(_datasets.PathSettings, config.paths)
    with _terminal.progress() as progress:
        folder = convert(config, source, Path(paths.raw).expanduser(), progress)
    _terminal.say(f"Written to {folder}. Next: {command_line('plan', dataset__path=folder)}")


def convert(config: DictConfig, source: Path, raw_root: Path, progress: Progress) -> Path:
    """Open the door that the source is for."""
    kind = kind_of(source) if config.kind == "auto" else config.kind
    if kind == "decathlon":
        return convert_decathlon(source, raw_root, config.dataset_id, progress=progress)
    if kind == "nnunet_v1":
        return convert_nnunet_v1_dataset(source, raw_root, config.dataset_id, progress=progress)
    if kind == "renumber":
        return renumber_dataset(source, raw_root, config.dataset_id, progress=progress)
    if config.dataset_id is None:
        raise SegflowError("a list of files has no number", fix="Give it one: dataset_id=42")
    return convert_file_list(
        source,
        raw_root,
        config.dataset_id,
        config.name or source.stem,
        labels=_edge.plain(config.labels) if config.labels else None,
        regions_class_order=list(config.regions_class_order) if config.regions_class_order else None,
        progress=progress,
    )


def kind_of(source: Path) -> str:
    """A file is a list, and a dataset in today's layout can only be renumbered.

    Of the two kinds of tasks, nnU-Net v1's has one file for each channel, ``_0000`` and on.
    """
    if source.is_file():
        return "csv"
    file = source / "dataset.json"
    content = read_json(file) if file.is_file() else None
    if isinstance(content, dict) and "file_ending" in content:
        return "renumber"
    labels = {file.name for file in (source / "labelsTr").glob("*.nii.gz")}
    first_channels = (source / "imagesTr").glob("*_0000.nii.gz")
    split = any(file.name.replace("_0000.nii.gz", ".nii.gz") in labels for file in first_channels)
    return "nnunet_v1" if split else "decathlon"
