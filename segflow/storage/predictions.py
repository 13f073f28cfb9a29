"""A folder of label maps, one for each case, with stamps of their origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.wording import some
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.file_names import DESCRIPTION_FILE
from segflow.storage.file_stamps import FileStamp, Origin
from segflow.storage.folder_files import remove_image
from segflow.storage.json_files import read_json_as, write_json
from segflow.storage.stamps import ANOTHER_FOLDER, StampedFolder, say_why

DESCRIPTIONS = (DESCRIPTION_FILE, "plans.json")
"""Documents beside the label maps, as nnU-Net writes them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The result to make for a case.

    Attributes:
        origin: The files, weights and settings that it is made from.
        maps: Files beside the label map.
    """

    origin: Origin
    maps: tuple[Path, ...] = ()


class Predictions:
    """Label maps ``<case><ending>`` of one folder, with the maps and documents beside them, and a stamp for each.

    Args:
        path: The folder. It is made only when a method writes.
        file_ending: Ending of the label maps, with its dot.
        own: The folder belongs to a run, where only segflow writes. Results that are out of date are then made
            anew, and results of other cases are deleted.
    """

    def __init__(self, path: Path, file_ending: str, *, own: bool = False) -> None:
        self.path = path
        self.own = own
        self.file_ending = file_ending
        self._folder = StampedFolder(path)

    def file(self, case_id: str) -> Path:
        """File of a case's label map."""
        return self.path / self._name(case_id)

    def _name(self, case_id: str) -> str:
        return f"{case_id}{self.file_ending}"

    def case_ids(self) -> list[str]:
        """The cases that have a stamp."""
        names = [name for name in self._folder.stamps() if name.endswith(self.file_ending)]
        return [name.removesuffix(self.file_ending) for name in names]

    def stamp_of(self, case_id: str) -> dict[str, Any] | None:
        """The stamp of a case, or None."""
        return self._folder.stamp_of(self._name(case_id))

    def is_intact(self, case_id: str) -> bool:
        """Whether the label map of a case is still the one that was stamped."""
        return not self._folder.foreign({self._name(case_id): [self.file(case_id)]})

    def prepare(
        self,
        wanted: Mapping[str, Wanted],
        *,
        what: str = "predictions",
        maker: str = "model",
        documents: Iterable[str] = (),
        family: Iterable[str] = (),
        resume: bool = True,
    ) -> set[str]:
        """Check the folder before anything is made, and delete results that are out of date.

        Nothing is deleted if there is an error.

        Args:
            wanted: Case → its result.
            what: Name of the results in messages.
            maker: Name of what makes them, in messages.
            documents: Names of further files that will be written.
            family: Further cases that will be made, such as the part of another machine.
            resume: Keep finished results. Results of other settings are then refused, not replaced.

        Returns:
            The cases that are done.

        Raises:
            SegflowError: A file in the way is an input or was not written by segflow, or the folder holds results of
                other settings.
        """
        folder = StampedFolder(self.path, remember=True)
        if not self.own:
            self._refuse_inputs(wanted, documents)
            folder.refuse_foreign(self._files(wanted), documents)
            self._refuse_others(folder.stamps(), wanted, set(family), f"{what} of another {maker}", resume=resume)
        reasons = {}
        for case_id, result in wanted.items():
            reason = folder.why_stale(self._name(case_id), result.origin, result.maps) if resume else "asked for"
            if reason is not None:
                reasons[case_id] = reason
        if resume:
            say_why(what, reasons, len(wanted))
        gone = set(self.case_ids()) - {*wanted, *family} if self.own else set()
        self._folder.discard(*(self._name(case_id) for case_id in {*reasons, *gone}))
        return set(wanted) - set(reasons)

    def finished(self, wanted: Mapping[str, Wanted]) -> set[str]:
        """The cases whose results are there and up to date."""
        folder = StampedFolder(self.path)
        return {
            case_id
            for case_id, result in wanted.items()
            if folder.why_stale(self._name(case_id), result.origin, result.maps) is None
        }

    def clear_way(self, wanted: Mapping[str, Wanted]) -> None:
        """Delete files of these cases that segflow did not write, or that were changed since."""
        for file in self._folder.foreign(self._files(wanted)):
            remove_image(file)

    @contextmanager
    def written(self, case_id: str, origin: Origin, inputs: Mapping[str, FileStamp] | None = None) -> Iterator[Path]:
        """Yield a folder for the files of a case, and store them if the block succeeds; see `StampedFolder`."""
        with self._folder.written(self._name(case_id), origin, inputs) as place:
            yield place

    def write_document(self, name: str, content: Any, way: str) -> None:
        """Write JSON about the folder as a whole, with a stamp that marks it as segflow's."""
        with self._folder.written(name, Origin(way, 1)) as place:
            write_json(place / name, content)

    def describe(self, record: RunRecord) -> None:
        """Write ``dataset.json`` and ``plans.json`` of the model beside the label maps, as nnU-Net does."""
        for name, content in zip(DESCRIPTIONS, (record.dataset.to_json(), record.plans.to_json()), strict=True):
            write_json(self.path / name, content)

    def _files(self, wanted: Mapping[str, Wanted]) -> dict[str, list[Path]]:
        return {self._name(case_id): [self.file(case_id), *result.maps] for case_id, result in wanted.items()}

    def _refuse_inputs(self, wanted: Mapping[str, Wanted], documents: Iterable[str]) -> None:
        inputs = {path.resolve() for result in wanted.values() for path in result.origin.inputs.values()}
        files = [file for files in self._files(wanted).values() for file in files]
        files += [self.path / name for name in documents]
        hit = [file for file in files if file.resolve() in inputs]
        if hit:
            raise SegflowError(
                "an output would replace an input",
                found=some([str(file) for file in hit]),
                fix="Choose another output folder.",
            )

    def _refuse_others(
        self,
        stamps: Mapping[str, Mapping[str, Any]],
        wanted: Mapping[str, Wanted],
        family: set[str],
        what: str,
        *,
        resume: bool,
    ) -> None:
        """Refuse a folder with results of other settings."""
        origins = [result.origin for result in wanted.values()]
        if not origins:
            return
        asked_for = {*wanted, *family}
        for name, stamp in stamps.items():
            case_id = name.removesuffix(self.file_ending)
            if not name.endswith(self.file_ending) or (not resume and case_id in asked_for):
                continue
            origin = wanted[case_id].origin if case_id in wanted else origins[0]
            key = "way" if stamp.get("way") != origin.way else origin.changed_setting(stamp)
            if key is not None:
                raise SegflowError(
                    f"{self.path} holds {what}, with another '{key}'",
                    case=case_id,
                    found=stamp.get("way") if key == "way" else stamp["settings"].get(key),
                    expected=origin.way if key == "way" else origin.settings.get(key),
                    fix=ANOTHER_FOLDER
                    if case_id not in asked_for
                    else "Choose another output folder, or make everything anew with resume=false.",
                )


def read_descriptions(folder: Path, fix: str | None = None) -> tuple[DatasetDescription, Plans]:
    """Read what `Predictions.describe` wrote beside label maps.

    Args:
        folder: Folder of the label maps.
        fix: Advice if a file is missing or cannot be used.

    Raises:
        SegflowError: A file is missing, or its content cannot be used.
    """
    dataset, plans = (folder / name for name in DESCRIPTIONS)
    return read_dataset_json(dataset, folder.name, fix), read_json_as(plans, Plans.from_json, fix)
