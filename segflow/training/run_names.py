"""Names of runs that begin with what tells them apart, for lists that show only the beginning."""

from __future__ import annotations

import re
from pathlib import PurePath

from segflow.storage.file_names import FOLD_PREFIX

_SECTIONS = re.compile(r"(?<![A-Za-z0-9.-])[a-z]+\.(?:[a-z0-9_]+\.)*(?=[a-z0-9_]+-)")
"""The sections of a swept setting in a run name: ``optimizer.`` in ``optimizer.lr-0.01``."""


def short_name(fold: PurePath) -> str:
    """Short name of a fold.

    Args:
        fold: Its folder, which ends with ``<configuration>/<run_name>/fold_<k>``.

    Returns:
        Such as ``lr-0.01_loss-dice 3d_fullres fold_0``. The run name ``default`` is left out, and so are the sections
        of settings, such as ``optimizer.``, which may make two names equal.
    """
    configuration, run, last = fold.parts[-3:]
    return " ".join((*(() if run == "default" else (_SECTIONS.sub("", run),)), configuration, last))


def name_on_board(folder: str) -> str:
    """Name of a run in TensorBoard: the short name, and then the rest of the path.

    Args:
        folder: Folder of the event files, relative to that which TensorBoard shows.

    Returns:
        Such as ``3d_fullres fold_0 in Dataset001_Phantom/nnUNetPlans``; the folder itself unless it is that of a fold
        and names its configuration.
    """
    path = PurePath(folder)
    for fold in (path, *path.parents):
        if fold.name.startswith(FOLD_PREFIX) and len(fold.parts) >= 3:
            inner = path.relative_to(fold).parts  # that of a logger with a folder of its own
            above = "/".join(fold.parts[:-3])
            return "/".join((short_name(fold), *inner)) + (f" in {above}" if above else "")
    return folder
