"""Files that stay open between reads, few enough that the process may have them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from segflow.execution.machine import open_files_limit, raise_open_files_limit

_SHARE = 4
"""One store takes this part of the files that the process may have open: several stores are read at once, and
libraries and worker processes need some too."""
_MAX_OPEN = 4096  # each is a map of memory too, of which Linux gives a process 65530


class OpenFiles:
    """Keeps open what was read last, and closes what was not read for the longest time.

    Args:
        limit: How many; None takes a share of what the system lets the process have open.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is None:
            raise_open_files_limit()
            limit = max(8, min(_MAX_OPEN, open_files_limit() // _SHARE))
        self._limit = limit
        self._opened: dict[str, Any] = {}  # the one that was read last stands last
        self._lock = threading.Lock()

    def get(self, name: str, open_file: Callable[[], Any]) -> Any:
        """What ``open_file`` returned for this name, opened again where it was closed since.

        Who holds the result may go on using it: it is closed when nobody does any more.
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
