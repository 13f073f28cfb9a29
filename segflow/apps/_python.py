"""Commands from Python. `segflow.train` is the door to them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from segflow.apps import _edge, _job, _messages, _own_parts, _shipped, _user_files
from segflow.apps import train as command
from segflow.core.errors import SegflowError
from segflow.execution.machine import memory_limited

if TYPE_CHECKING:
    from segflow.apps._training import Trained
    from segflow.training.protocols import EpochJudge


def train(*arguments: str, judge: EpochJudge | None = None) -> Trained:
    """See `segflow.train`."""
    settings: command.Train = _composed("train", *arguments)
    if not settings.trainer.is_one_process and "LOCAL_RANK" not in os.environ:
        raise SegflowError(
            "segflow.train trains on one device",
            found=f"trainer.devices={settings.trainer.devices} trainer.num_nodes={settings.trainer.num_nodes}",
            fix="Lightning would start this whole program once for each device: run `segflow train` instead.",
        )
    _job.ignore_advice_of_lightning()
    _own_parts.use_own_reader(settings.reader)
    with memory_limited(settings.max_memory_gb):
        return command.train(settings, judge)


def _composed(name: str, *arguments: str) -> command.Train:
    """The settings, or one error in words for whatever Hydra refuses."""
    if os.getcwd() not in sys.path:  # parts of a user's own in the current folder
        sys.path.insert(0, os.getcwd())
    try:
        settings: command.Train = _edge.compose(name, *arguments)
    except SegflowError:
        raise
    except Exception as error:
        folders = [_shipped.config_dir(), *_user_files.user_folders(arguments)]
        raise SegflowError(_messages.explain(error, folders, name)[0]) from error
    return settings
