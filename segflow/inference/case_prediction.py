"""A case's prediction on its way from the network to the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.inference.sliding_window import LogitSlab
from segflow.preprocessing.restore import restore_labels


class SlabWriter(Protocol):
    """Writes the files of a case from slabs of logits."""

    def take(self, slab: LogitSlab) -> None:
        """Write what can be written now. A slab that begins with the first plane begins anew."""

    def finish(self) -> None:
        """All slabs came: make the files whole."""

    def abandon(self, error: BaseException) -> None:
        """Remove what was written."""


class CasePrediction:
    """Takes the logits of a case, and is what waits to be written.

    An image that comes as one slab is restored by whoever writes it, beside the next case's computation; on an
    accelerator it is decided at once, which is quick there, so that nothing that waits holds its memory. Slabs of an
    image that does not fit are written as they come.

    Args:
        spatial: How the case came to plan space.
        plan: The configuration.
        labels: The label definition.
        writer: Makes the writer of an image that comes in several slabs.
        keep_logits: More than the label map will be made of the logits.

    Attributes:
        logits: float (K, Z, Y, X) in main memory; None if they are not kept.
        votes: Give the label maps of the single networks, where their logits came.
        streamed: The files are written, and wait for `SlabWriter.finish`.
    """

    def __init__(
        self,
        spatial: SpatialRecord,
        plan: ConfigurationPlan,
        labels: Labels,
        writer: Callable[[], SlabWriter],
        *,
        keep_logits: bool,
    ) -> None:
        self.logits: Tensor | None = None
        self.votes: Sequence[Callable[[], np.ndarray]] = ()
        self.streamed: SlabWriter | None = None
        self._what = (spatial, plan, labels)
        self._writer = writer
        self._keep_logits = keep_logits
        self._label: Callable[[], np.ndarray] | None = None

    @classmethod
    def of(
        cls, logits: Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels, *, keep_logits: bool
    ) -> Self:
        """Of an image that came as a whole."""
        made = cls(spatial, plan, labels, _no_writer, keep_logits=keep_logits)
        made._take_whole(LogitSlab(0, logits))
        return made

    def take_all(self, slabs: Iterable[LogitSlab]) -> None:
        """Take all slabs. If that fails, nothing is left of them."""
        try:
            for slab in slabs:
                if slab.logits.shape[1] == self._what[0].shape_plan[0]:
                    self._take_whole(slab)
                else:
                    self.streamed = self.streamed or self._writer()
                    self.streamed.take(slab)
        except BaseException as error:
            if self.streamed is not None:
                self.streamed.abandon(error)
            raise

    def label_map(self) -> np.ndarray:
        """uint8 or uint16 (Z, Y, X) in image space."""
        if self._label is None:
            raise ValueError("the logits came in slabs, which are written already")
        return self._label()

    def _take_whole(self, slab: LogitSlab) -> None:
        each = [partial(restore_labels, logits, *self._what) for logits in (slab.logits, *slab.of_networks)]
        if slab.logits.device.type == "cpu":
            self.logits = slab.logits
        else:
            each = [partial(np.asarray, decide()) for decide in each]
            self.logits = slab.logits.cpu() if self._keep_logits else None
        self._label, *self.votes = each


def _no_writer() -> SlabWriter:
    raise ValueError("the logits came as a whole")
