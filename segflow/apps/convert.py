"""``segflow convert``: other layouts → raw dataset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from segflow.apps import _next, _terminal
from segflow.apps._convert_dicom import convert_tree, tell_missing
from segflow.apps._records import Command, ReadsDicom, within_memory
from segflow.core.errors import SegflowError
from segflow.execution.progress import Progress
from segflow.storage.file_names import DESCRIPTION_FILE

KINDS = ("auto", "decathlon", "nnunet_v1", "csv", "json", "bids", "dicom", "renumber")
USE = "Use: segflow convert source=/data/Task04_Hippocampus, or: segflow convert source=FILES.csv dataset_id=42"
INCOMPLETE = ("refuse", "skip")


@dataclass(kw_only=True)
class Convert(ReadsDicom, Command):
    """Settings of ``segflow convert``.

    Attributes:
        source: Folder of a task, of a BIDS dataset, or of DICOM in any nesting; or a list of files, which stay where
            they are: a CSV with columns case, one for each channel (CT, T1, …), label, and perhaps group (a patient,
            whose cases splits keep together), or a JSON with the same keys.
        images: In place of a source, channel → pattern of its files: ``images.T1=/data/{case}_T1w.nii.gz``. In it,
            ``{case}`` stands for the case's name, ``{group}`` for a patient's, ``*`` for any text in a name, and
            ``**/`` for any folders. The files stay where they are.
        label: Pattern of the label maps; for DICOM ``{case}`` is the patient, and null takes DICOM-SEG and RTSTRUCT. Of
            a BIDS dataset it is the end of their names: ``dseg``, ``desc-tumour_mask`` or ``manual/dseg``, after the
            folder of a pipeline.
        channels: Channels in order: of a BIDS dataset the ends of the images' names, such as ``[T1w,FLAIR]``; of a list
            or of patterns their names, where a file holds several or a JSON names none. Null takes what there is.
        incomplete: ``refuse`` cases of patterns or of a BIDS dataset that lack a file, or ``skip`` them.
        segments: Label → names of segments of DICOM-SEG and structures of RTSTRUCT, with ``*``:
            ``{tumour: [GTV*, lesion]}``. Null takes the names of ``labels``, or all.
        overlaps: ``refuse`` segments of DICOM that overlap, or let them become ``regions``.
        processes: Cases of DICOM at once; null uses all processors, 0 works in this process.
        kind: ``decathlon``, ``nnunet_v1``, ``csv``, ``json``, ``bids``, ``dicom``, or ``renumber`` (copies of
            label maps with 0, 1, 2, …, for other programs). ``auto`` detects it.
        dataset_id: Number of the new dataset; null takes the task's.
        name: Name of the dataset of a list, of patterns, of BIDS or of DICOM; null takes that of the file or folder.
        labels: Labels of such a dataset, ``{background: 0, liver: 1}``; null finds them in all label maps.
        regions_class_order: Label that each of its regions is painted with, where that does not follow from inclusion;
            with it, lists such as ``tumour: [1, 2]`` are regions.
    """

    source: Path | None = None
    images: dict[str, str] = field(default_factory=dict)
    label: str | None = None
    channels: list[str] | None = None
    incomplete: str = "refuse"
    segments: dict[str, str | list[str]] | None = None
    overlaps: str = "refuse"
    processes: int | None = None
    kind: str = "auto"
    dataset_id: int | None = None
    name: str | None = None
    labels: dict[str, int | list[int]] | None = None
    regions_class_order: list[int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SegflowError("unknown kind of source", found=self.kind, expected=", ".join(KINDS))
        if self.incomplete not in INCOMPLETE:
            raise SegflowError("unknown incomplete=", found=self.incomplete, expected=", ".join(INCOMPLETE))


@within_memory
def run(settings: Convert) -> None:
    """Convert a dataset and print its folder."""
    if not settings.source and not settings.images:
        raise SegflowError("nothing to convert", fix=USE)
    if settings.source and settings.images:
        raise SegflowError("source and images are two ways to name files", fix="Leave one out.")
    if settings.source and not settings.source.exists():
        raise SegflowError(f"there is no {settings.source}", fix=USE)
    kind = _kind(settings)
    if kind != "dicom" and (settings.series or settings.resample):
        raise SegflowError("series= and resample= are for DICOM", found=f"kind={kind}")
    converted = None
    with _terminal.progress() as progress:
        if kind == "dicom" and settings.source:
            converted = convert_tree(settings, settings.source, progress)
            folder = converted.folder
        elif settings.source:
            folder = convert(settings, settings.source, progress, kind)
        else:
            folder = _listed(settings, progress)
    _terminal.say(f"Written to {folder}.")
    _next.say(_next.after_convert(settings, folder))
    if converted is not None:
        tell_missing(converted)


def _kind(settings: Convert) -> str:
    if settings.source is None or settings.kind != "auto":
        return settings.kind
    return kind_of(settings.source)


def convert(settings: Convert, source: Path, progress: Progress, kind: str) -> Path:
    """Convert a source of a kind but DICOM."""
    from segflow.exchange.decathlon import convert_decathlon
    from segflow.exchange.nnunet_v1_dataset import convert_nnunet_v1_dataset
    from segflow.exchange.renumber import renumber_dataset

    raw_root, number = settings.paths.raw, settings.dataset_id
    if kind == "decathlon":
        return convert_decathlon(source, raw_root, number, progress=progress)
    if kind == "nnunet_v1":
        return convert_nnunet_v1_dataset(source, raw_root, number, progress=progress)
    if kind == "renumber":
        return renumber_dataset(source, raw_root, number, progress=progress)
    return _listed(settings, progress, kind)


def _listed(settings: Convert, progress: Progress, kind: str = "") -> Path:
    """A dataset that lists files where they lie: of patterns, a BIDS dataset, or a table."""
    from segflow.exchange.bids import find_bids
    from segflow.exchange.file_list import read_file_list
    from segflow.exchange.file_patterns import find_by_patterns
    from segflow.exchange.listed_cases import NewDataset, write_listed

    source, skip = settings.source, settings.incomplete == "skip"
    if settings.dataset_id is None:
        raise SegflowError("a list of files has no number", fix="Give it one: dataset_id=42")
    name = settings.name or (source.resolve().stem if source else "")
    if not name:
        raise SegflowError("a dataset of patterns has no name", fix="Give it one: name=Liver")
    if source is None:
        if not settings.label:
            raise SegflowError("the patterns lack the label maps", fix="Add theirs: label=/data/{case}_seg.nii.gz")
        listed = find_by_patterns(settings.images, settings.label, skip_incomplete=skip)
        listed = replace(listed, channels=tuple(settings.channels or ()))
    elif kind == "bids":
        listed = find_bids(source, settings.channels, settings.label, skip_incomplete=skip)
    else:
        listed = read_file_list(source, settings.channels)
    order = settings.regions_class_order or None
    new = NewDataset(settings.paths.raw, settings.dataset_id, name, settings.labels or None, order)
    return write_listed(listed, new, progress)


def kind_of(source: Path) -> str:
    """The kind of a source. A file is a list, and a dataset in today's layout can only be renumbered.

    Among tasks, those of nnU-Net v1 have one file per channel, from ``_0000`` on.
    """
    if source.is_file():
        return "json" if source.suffix.lower() == ".json" else "csv"
    from segflow.exchange.bids import is_bids
    from segflow.storage.dicom.series import holds_dicom
    from segflow.storage.json_files import read_json

    file = source / DESCRIPTION_FILE
    content = read_json(file) if file.is_file() else None
    if isinstance(content, dict) and "file_ending" in content:
        return "renumber"
    if content is None and is_bids(source):
        return "bids"
    if content is None and holds_dicom(source):
        return "dicom"
    labels = {file.name for file in (source / "labelsTr").glob("*.nii.gz")}
    first_channels = (source / "imagesTr").glob("*_0000.nii.gz")
    split = any(file.name.replace("_0000.nii.gz", ".nii.gz") in labels for file in first_channels)
    return "nnunet_v1" if split else "decathlon"
