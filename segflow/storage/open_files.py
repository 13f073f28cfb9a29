"""Files that stay open between reads, within the limit of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from segflow.execution.machine import open_files_limit, raise_open_files_limit

_SHARE = 4
"""Share of the process's open files that one store takes. Several stores are read at once, and libraries and worker
processes need files too."""
_MAX_OPEN = 1024  # an open array keeps about 0.2 MB, and opening it again takes less than a millisecond


class OpenFiles:
    """Keeps recently read files open, and closes those that were not read for the longest time.

    Args:
        limit: Number of open files; None takes a share of the system's limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            raise_open_files_limit()
            limit = max(8, min(_MAX_OPEN, open_files_limit() // _SHARE))
        self._limit = limit
        self._opened: dict[str, Any] = {}  # the most recently read one is last
        self._lock = threading.Lock()

    def get(self, name: str, open_file: Callable[[], Any]) -> Any:
        """The result of ``open_file`` for this name; the file is opened again if it was closed.

        A caller may keep the result: it is closed when nobody refers to it any more.
        """
        with self._lock:
            opened = self._opened.pop(name, None)
            if opened is not None:
                self._opened[name] = opened
                return opened
        opened = open_file()
        with self._lock:
            self._opened[name] = opened
            while len(self._opened) > self._limit:
                del self._opened[next(iter(self._opened))]
        return opened

    def forget(self, name: str) -> None:
        """Close a file that is about to be replaced."""
        with self._lock:
            self._opened.pop(name, None)

    def __len__(self) -> int:
        return len(self._opened)
