"""Cases of a BIDS dataset: images of the subjects, and label maps of its derivatives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.names import is_number
from segflow.core.wording import some
from segflow.exchange.listed_cases import LABEL, CaseList, matched
from segflow.storage.image_formats.nifti_files import NIFTI_ENDINGS
from segflow.storage.tables import Line, column_of, read_table

ANATOMY = "anat"
PLACES = ("sub-*/*/*", "sub-*/ses-*/*/*")
"""Places of images below the dataset, and of label maps below a pipeline's folder."""
CHOOSE = "Choose by what follows sub- and ses- in the names: {setting}"


@dataclass(frozen=True, slots=True)
class _File:
    """A NIfTI with a name of BIDS.

    Attributes:
        path: The file.
        case_id: ``sub-01``, or ``sub-01_ses-1``.
        subject: ``sub-01``.
        entities: The further parts of its name, such as ``acq-3d``.
        suffix: The last part, such as ``T1w``.
        pipeline: Folder of the derivatives that it is from; empty for raw data.
    """

    path: Path
    case_id: str
    subject: str
    entities: frozenset[str]
    suffix: str
    pipeline: str

    @classmethod
    def of(cls, path: Path, pipeline: str) -> _File | None:
        """Read a name; None if it is not one of BIDS."""
        ending = next((ending for ending in sorted(NIFTI_ENDINGS, key=len)[::-1] if path.name.endswith(ending)), None)
        if ending is None or not path.is_file():
            return None
        subject, *entities, suffix = ("", *path.name.removesuffix(ending).split("_"))[1:] or ("", "")
        if not subject.startswith("sub-") or not all("-" in entity for entity in entities) or "-" in suffix:
            return None
        session = [entity for entity in entities if entity.startswith("ses-")][:1]
        others = frozenset(entities) - {*session}
        return cls(path, "_".join([subject, *session]), subject, others, suffix, pipeline)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Names to look for: ``T1w``, ``acq-3d_T1w``, or ``pipeline/desc-tumour_dseg``."""

    text: str

    def takes(self, file: _File) -> bool:
        pipeline, _, name = self.text.rpartition("/")
        *entities, suffix = name.split("_")
        return file.suffix == suffix and {*entities} <= file.entities and pipeline in ("", file.pipeline)

    def chosen(self, files: Iterable[_File]) -> dict[str, list[Path]]:
        """Case → its files. One without parts that were not asked for comes before all others."""
        entities = frozenset(self.text.rpartition("/")[2].split("_")[:-1])
        by_case: dict[str, list[_File]] = {}
        for file in files:
            if self.takes(file):
                by_case.setdefault(file.case_id, []).append(file)
        plain = {case: [file for file in found if file.entities == entities] for case, found in by_case.items()}
        return {case: [file.path for file in (plain[case] or found)] for case, found in by_case.items()}


def is_bids(folder: Path) -> bool:
    """Whether a folder looks like a BIDS dataset."""
    return (folder / "dataset_description.json").is_file() or any(folder.glob("sub-*/"))


def find_bids(
    folder: Path,
    channels: Sequence[str] | None = None,
    label: str | None = None,
    *,
    skip_incomplete: bool = False,
) -> CaseList:
    """The cases of a BIDS dataset: each subject, or each session of one. Sessions of a subject are one group.

    Args:
        folder: The dataset, with ``sub-*/[ses-*/]anat/*_T1w.nii.gz`` and label maps below ``derivatives``.
        channels: Ends of the images' names in channel order, such as ``T1w`` or ``acq-3d_T1w``. None takes all
            suffixes in ``anat`` of the cases that have a label map, sorted.
        label: End of the label maps' names, such as ``dseg`` (the default) or ``desc-tumour_mask``, perhaps after the
            folder of a pipeline: ``manual/dseg``.
        skip_incomplete: Leave out cases that lack a channel or a label map.

    Raises:
        SegflowError: There are no label maps or images, or cases lack files or have several. All problems of the cases
            are listed together.
    """
    folder = folder.resolve()
    images = list(_files(folder, PLACES, ""))
    maps = list(_label_files(folder))
    wanted_label = _Wanted(label or "dseg")
    labels = wanted_label.chosen(maps)
    if not labels:
        there = sorted({_named(file) for file in maps})
        raise SegflowError(
            f"{folder} has no label maps {wanted_label.text}",
            found=some(there) or "none below derivatives",
            expected="derivatives/…/sub-01/anat/sub-01_dseg.nii.gz",
            fix=CHOOSE.format(setting=f"label={there[0]}") if there else None,
        )
    names = list(
        channels or sorted({f.suffix for f in images if f.path.parent.name == ANATOMY and f.case_id in labels})
    )
    if not names:
        raise SegflowError(f"{folder} has no images of the cases with label maps", found=some(sorted(labels)))
    found = {name: _Wanted(name).chosen(images) for name in names} | {LABEL: labels}
    groups = {file.case_id: file.subject for file in (*images, *maps)}
    ends = some(sorted({_named(file) for file in images})) or "nothing that BIDS knows"
    choice = f"channels=[{','.join(_of_all(found, labels) or names)}] label={wanted_label.text}"
    listed = matched(
        str(folder), found, lambda role, case: _expected(role, case, wanted_label.text), groups,
        skip_incomplete=skip_incomplete,
        advice=f"The names of images end with {ends}. {CHOOSE.format(setting=choice)}",
    )  # fmt: skip
    return replace(listed, names=_names_of_labels(folder))


def _of_all(found: Mapping[str, Mapping[str, Sequence[Path]]], cases: Iterable[str]) -> list[str]:
    """The channels that every one of the cases has."""
    return [name for name, of_channel in found.items() if name != LABEL and {*cases} <= of_channel.keys()]


def _expected(role: str, case_id: str, label: str) -> str:
    return f"{case_id}_…{label if role == LABEL else role}.nii.gz"


def _files(folder: Path, places: Iterable[str], pipeline: str) -> Iterable[_File]:
    for place in places:
        for path in sorted(folder.glob(place)):
            file = _File.of(path, pipeline)
            if file is not None:
                yield file


def _label_files(folder: Path) -> Iterable[_File]:
    """Files of the derivatives: directly there, or below the folder of a pipeline."""
    derivatives = folder / "derivatives"
    yield from _files(derivatives, PLACES, "")
    for pipeline in sorted(derivatives.glob("[!.]*/")):
        if not pipeline.name.startswith("sub-"):
            yield from _files(pipeline, PLACES, pipeline.name)


def _named(file: _File) -> str:
    name = "_".join([*sorted(file.entities), file.suffix])
    return f"{file.pipeline}/{name}" if file.pipeline else name


def _names_of_labels(folder: Path) -> Mapping[int, str]:
    """Value → name, from the table of labels, if the dataset has one (``dseg.tsv``) and only one."""
    tables = [*folder.glob("*dseg.tsv"), *folder.glob("derivatives/*dseg.tsv"), *folder.glob("derivatives/*/*dseg.tsv")]
    if len(tables) != 1:
        return {}
    header, *lines = read_table(tables[0], separator="\t") or [Line(1, ())]
    index, name = column_of(header.cells, ("index",)), column_of(header.cells, ("name",))
    if index is None or name is None:
        return {}
    rows = [line.cells for line in lines if len(line.cells) > max(index, name) and is_number(line.cells[index])]
    names = {int(cells[index]): cells[name] for cells in rows if cells[name] not in ("", "background", "ignore")}
    return names if len(set(names.values())) == len(names) else {}
