"""The result of preprocessing a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PreprocessReport:
    """Result of preprocessing a dataset.

    Attributes:
        folder: Folder with the folders of arrays.
        arrays: Data identifiers of the arrays.
        done: Cases for which arrays were made.
        skipped: Cases that were up to date.
        removed: Cases that the dataset no longer has; their arrays were deleted.
        failed: Case → message. All other cases are done.
    """

    folder: Path
    arrays: tuple[str, ...]
    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """A summary for the user in a line or two."""
        parts = [f"{len(self.done)} cases preprocessed for {', '.join(self.arrays)}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} were up to date")
        if self.removed:
            parts.append(f"{len(self.removed)} are gone from the dataset and were deleted: {', '.join(self.removed)}")
        if self.failed:
            parts.append(f"{len(self.failed)} failed: {', '.join(self.failed)}")
        return "; ".join(parts) + "."
