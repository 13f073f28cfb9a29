"""``segflow convert``: other layouts → raw dataset."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.errors import SegflowError
from segflow.exchange.decathlon import convert_decathlon


def run(config: DictConfig) -> None:
    """Convert one dataset and say where it lies."""
    if not config.source:
        raise SegflowError("nothing to convert", fix="Name the folder: segflow convert source=/data/Task04_Hippocampus")
    paths = _edge.read(_datasets.PathSettings, config.paths)
    source = Path(config.source).expanduser()
    with _terminal.progress() as progress:
        folder = convert_decathlon(source, Path(paths.raw).expanduser(), config.dataset_id, progress=progress)
    _terminal.say(f"Written to {folder}. Next: segflow plan dataset.path={folder}")
