"""``segflow convert``: other layouts → raw dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, within_memory
from segflow.core.errors import SegflowError
from segflow.execution.progress import Progress
from segflow.storage.file_names import DESCRIPTION_FILE

KINDS = ("auto", "decathlon", "nnunet_v1", "csv", "renumber")
USE = "Use: segflow convert source=/data/Task04_Hippocampus, or: segflow convert source=FILES.csv dataset_id=42"


@dataclass(kw_only=True)
class Convert(Command):
    """Settings of ``segflow convert``.

    Attributes:
        source: Folder of a task; or a CSV with columns case, one for each channel (CT, T1, …), and label.
        kind: ``decathlon``, ``nnunet_v1``, ``csv``, or ``renumber`` (label values such as 0 and 255). ``auto`` detects
            it.
        dataset_id: Number of the new dataset; null takes the task's.
        name: Name of a CSV's dataset; null takes the file's name.
        labels: Labels of a CSV's dataset, ``{background: 0, liver: 1}``; null finds them in all label maps.
        regions_class_order: Order of a CSV's regions, if labels are regions such as ``tumour: [1, 2]``.
    """

    source: Path | None = None
    kind: str = "auto"
    dataset_id: int | None = None
    name: str | None = None
    labels: dict[str, int | list[int]] | None = None
    regions_class_order: list[int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SegflowError("unknown kind of source", found=self.kind, expected=", ".join(KINDS))


@within_memory
def run(settings: Convert) -> None:
    """Convert a dataset and print its folder."""
    if not settings.source:
        raise SegflowError("nothing to convert", fix=USE)
    if not settings.source.exists():
        raise SegflowError(f"there is no {settings.source}", fix=USE)
    with _terminal.progress() as progress:
        folder = convert(settings, settings.source, progress)
    _terminal.say(f"Written to {folder}.")
    _next.say(_next.after_convert(settings, folder))


def convert(settings: Convert, source: Path, progress: Progress) -> Path:
    """Convert a source by its kind."""
    from segflow.exchange.decathlon import convert_decathlon
    from segflow.exchange.file_list import convert_file_list
    from segflow.exchange.nnunet_v1_dataset import convert_nnunet_v1_dataset
    from segflow.exchange.renumber import renumber_dataset

    kind = kind_of(source) if settings.kind == "auto" else settings.kind
    raw_root, number = settings.paths.raw, settings.dataset_id
    if kind == "decathlon":
        return convert_decathlon(source, raw_root, number, progress=progress)
    if kind == "nnunet_v1":
        return convert_nnunet_v1_dataset(source, raw_root, number, progress=progress)
    if kind == "renumber":
        return renumber_dataset(source, raw_root, number, progress=progress)
    if number is None:
        raise SegflowError("a list of files has no number", fix="Give it one: dataset_id=42")
    return convert_file_list(
        source,
        raw_root,
        number,
        settings.name or source.stem,
        labels=settings.labels or None,
        regions_class_order=settings.regions_class_order or None,
        progress=progress,
    )


def kind_of(source: Path) -> str:
    """The kind of a source. A file is a list, and a dataset in today's layout can only be renumbered.

    Among tasks, those of nnU-Net v1 have one file per channel, from ``_0000`` on.
    """
    if source.is_file():
        return "csv"
    from segflow.storage.json_files import read_json

    file = source / DESCRIPTION_FILE
    content = read_json(file) if file.is_file() else None
    if isinstance(content, dict) and "file_ending" in content:
        return "renumber"
    labels = {file.name for file in (source / "labelsTr").glob("*.nii.gz")}
    first_channels = (source / "imagesTr").glob("*_0000.nii.gz")
    split = any(file.name.replace("_0000.nii.gz", ".nii.gz") in labels for file in first_channels)
    return "nnunet_v1" if split else "decathlon"
