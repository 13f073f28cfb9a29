"""The files of a case that does not fit into memory, written as the logits come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.preprocessed_case import SpatialRecord
from segflow.core.voxels import VoxelSink
from segflow.inference.label_builder import LabelBuilder
from segflow.inference.maps import DISAGREEMENT, ENDING, ENTROPY, Entropy, Maps, disagreement, probability_file
from segflow.inference.sliding_window import LogitSlab
from segflow.preprocessing.restore import RestoredPart, Restorer, outside_probability, placed_in_image
from segflow.preprocessing.slabs import Range
from segflow.storage.image_formats.contract import ImageIO
from segflow.storage.open_volumes import label_sink, map_sink


@dataclass(frozen=True, slots=True)
class CaseTargets:
    """What is written for a case, and where.

    Attributes:
        case_id: Name of the case.
        spatial: How it came to plan space.
        maps: The maps beside the label map.
        reader: The reader of the images, which also writes the label map.
        file: Name of the label map's file.
        networks: Number of networks whose disagreement is written.
        place: Opens the folder for the files, which come whole to their place when it is closed; see
            `StampedFolder.written`.
        grids: Label maps in memory that are made too, such as for a cascade.
    """

    case_id: str
    spatial: SpatialRecord
    maps: Maps
    reader: ImageIO
    file: str
    networks: int
    place: Callable[[], AbstractContextManager[Path]]
    grids: tuple[LabelBuilder, ...] = ()


class StreamedFiles:
    """Writes the files of a case box by box; see `SlabWriter`.

    Args:
        case: What is written, and where.
    """

    def __init__(self, case: CaseTargets) -> None:
        self._case = case
        self._open: _OpenFiles | None = None

    def take(self, slab: LogitSlab) -> None:
        """See `SlabWriter.take`."""
        if slab.start == 0:
            if self._open is not None:  # the image is predicted again, in another precision
                self.abandon(RuntimeError("predicted again"))
            self._open = _OpenFiles(self._case)
        if self._open is None:
            raise ValueError("the first slab is missing")
        self._open.take(slab)
        for grid in self._case.grids:
            grid.take(slab)

    def finish(self) -> None:
        """See `SlabWriter.finish`."""
        if self._open is not None:
            self._open.stack.close()

    def abandon(self, error: BaseException) -> None:
        """See `SlabWriter.abandon`."""
        if self._open is not None:
            with suppress(BaseException):  # the error itself is told by others
                self._open.stack.__exit__(type(error), error, error.__traceback__)


class _OpenFiles:
    def __init__(self, case: CaseTargets) -> None:
        self._case = case
        labels, plan = case.maps.labels, case.maps.plan
        self._restorer = Restorer.to_image(case.spatial, plan, labels)
        self._votes = [Restorer.to_image(case.spatial, plan, labels) for _ in range(case.networks)]
        self.stack = ExitStack()
        try:
            place = self.stack.enter_context(case.place())
            self._label = self._sink_of_labels(place)
            wanted = case.maps.wanted
            numbers = range(labels.num_outputs if wanted.probabilities else 0)
            self._probabilities = [self._sink(probability_file(place, case.case_id, number)) for number in numbers]
            name = f"{case.case_id}{ENDING}"
            self._entropy = self._sink(place / ENTROPY / name) if wanted.entropy else None
            self._disagreement = self._sink(place / DISAGREEMENT / name) if wanted.disagreement else None
        except BaseException as error:
            with suppress(BaseException):
                self.stack.__exit__(type(error), error, error.__traceback__)
            raise

    def take(self, slab: LogitSlab) -> None:
        part = self._restorer.take(slab.start, slab.logits, slab.release)
        each = zip(self._votes, slab.of_networks, strict=False)
        votes = [restorer.take(slab.start, logits, slab.release) for restorer, logits in each]
        if part is None:
            return
        label = part.decide()
        self._write(self._label, label, part.rows)
        if self._disagreement is not None:
            values = disagreement(label, (vote.decide() for vote in votes if vote is not None))
            self._write(self._disagreement, values, part.rows)
        if self._probabilities or self._entropy is not None:
            self._take_probabilities(part)

    def _take_probabilities(self, part: RestoredPart) -> None:
        labels = self._case.maps.labels
        undecided = None if self._entropy is None else Entropy(part.shape, labels)
        for output in range(labels.num_outputs):
            values = part.probability(output)
            if self._probabilities:
                self._write(self._probabilities[output], values, part.rows, outside_probability(output, labels))
            if undecided is not None:
                undecided.add(values)
        if undecided is not None and self._entropy is not None:
            self._write(self._entropy, undecided.value(), part.rows)

    def _write(self, sink: VoxelSink, values: np.ndarray, rows: Range, outside: float = 0) -> None:
        for box, placed in placed_in_image(values, rows, self._case.spatial, outside):
            sink.write(box, placed)

    def _sink_of_labels(self, place: Path) -> VoxelSink:
        case, highest = self._case, self._case.maps.labels.highest_written
        shape, geometry = _grid(case.spatial)
        return self.stack.enter_context(label_sink(place / case.file, shape, geometry, case.reader, highest=highest))

    def _sink(self, file: Path) -> VoxelSink:
        file.parent.mkdir(parents=True, exist_ok=True)
        shape, geometry = _grid(self._case.spatial)
        return self.stack.enter_context(map_sink(file, shape, geometry, self._case.maps.writer))


def _grid(spatial: SpatialRecord) -> tuple[tuple[int, int, int], Geometry]:
    z, y, x = spatial.shape_original
    return (z, y, x), spatial.geometry
