"""A plug-in of TensorBoard that gives runs short names. It adds no page.

TensorBoard calls a run after the folder of its event files, and its lists cut off the end, which is where runs differ.
The files stay in the folder of the run, so that it can be moved, copied and deleted as a whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tensorboard.data.provider import DataProvider, Run, RunTagFilter
from tensorboard.plugins import base_plugin

from segflow.training.run_names import name_on_board

KEYED_BY_RUN = (
    *("list_scalars", "read_scalars", "read_last_scalars", "list_tensors", "read_tensors"),
    *("list_blob_sequences", "read_blob_sequences"),
)
"""Methods of TensorBoard's data provider that take a choice of runs and give a mapping of run → content."""


class ShortNames(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no types
    """Loaded by TensorBoard itself, which finds it among the entry points of installed packages."""

    def load(self, context: base_plugin.TBContext) -> None:
        """Let the data provider, which all pages share, take and give short names."""
        data: DataProvider | None = context.data_provider
        if data is None:
            return
        names = _Names()
        data.list_runs = names.of_runs(data.list_runs)
        for method in KEYED_BY_RUN:
            setattr(data, method, names.of_content(getattr(data, method)))


class _Names:
    """Folder → name, and back."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def name(self, folder: str) -> str:
        name = name_on_board(folder)
        if self._folders.setdefault(name, folder) != folder:  # another run has the same short name
            return folder
        return name

    def folder(self, name: str) -> str:
        return self._folders.get(name, name)

    def of_runs(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def renamed(*arguments: Any, **options: Any) -> Any:
            runs = method(*arguments, **options)
            return [Run(self.name(run.run_id), self.name(run.run_name), run.start_time) for run in runs]

        return renamed

    def of_content(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def renamed(*arguments: Any, run_tag_filter: RunTagFilter | None = None, **options: Any) -> Any:
            wanted = run_tag_filter
            if wanted is not None and wanted.runs is not None:
                wanted = RunTagFilter(runs=[self.folder(name) for name in wanted.runs], tags=wanted.tags)
            found = method(*arguments, run_tag_filter=wanted, **options)
            return {self.name(folder): content for folder, content in found.items()}

        return renamed
