"""Commands from Python: `segflow.plan`, `segflow.preprocess`, `segflow.train`, and so on, lead here.

Nothing of Hydra, Lightning or torch is imported before the command needs it: ``evaluate`` and ``compare`` work in a
light install.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segflow.apps import _command_line, _edge, _first_words, _job, _messages, _own_parts, _plain, _shipped, _user_files
from segflow.apps._plain_values import NeedsHydraError
from segflow.core.command_line import setting_text
from segflow.core.errors import SegflowError
from segflow.execution.machine import memory_limited

if TYPE_CHECKING:
    from segflow.apps._records import Command
    from segflow.apps._training import Trained
    from segflow.core.comparison import Comparison
    from segflow.core.metrics import Summary
    from segflow.planning.plan_dataset import PlanReport
    from segflow.preprocessing.preprocess_report import PreprocessReport
    from segflow.training.protocols import EpochJudge


def plan(*arguments: str, **settings: object) -> PlanReport:
    """See `segflow.plan`."""
    with _ready("plan", arguments, settings) as ready:
        from segflow.apps import plan as command

        return command.plan(ready)


def preprocess(*arguments: str, **settings: object) -> PreprocessReport:
    """See `segflow.preprocess`."""
    with _ready("preprocess", arguments, settings) as ready:
        from segflow.apps import preprocess as command

        return command.preprocess(ready)


def train(*arguments: str, judge: EpochJudge | None = None, **settings: object) -> Trained:
    """See `segflow.train`."""
    with _ready("train", arguments, settings) as ready:
        from segflow.apps import train as command

        trainer = ready.trainer
        if not trainer.is_one_process and "LOCAL_RANK" not in os.environ:
            raise SegflowError(
                "segflow.train trains on one device",
                found=f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}",
                fix="Lightning would start this whole program once for each device: run `segflow train` instead.",
            )
        return command.train(ready, judge)


def evaluate(*arguments: str, **settings: object) -> Summary:
    """See `segflow.evaluate`."""
    with _ready("evaluate", arguments, settings) as ready:
        from segflow.apps import evaluate as command

        summary = command.evaluate(ready)
        command.check_failed(summary)
        return summary


def compare(*arguments: str, **settings: object) -> Comparison:
    """See `segflow.compare`."""
    with _ready("compare", arguments, settings) as ready:
        from segflow.apps import compare as command

        return command.compare(ready)


@contextmanager
def _ready(command: str, arguments: tuple[str, ...], settings: Mapping[str, object]) -> Iterator[Any]:
    """The command's record, while its limit of memory and its reader hold."""
    if command not in _plain.COMMANDS:
        _edge.refuse_without_training(f"segflow.{command}")
    typed = [*arguments, *_typed(command, settings)]
    record = _composed(command, typed)
    _check_here(command, record, typed)
    _job.ignore_advice_of_lightning()
    _own_parts.use_own_reader(record.reader)
    with memory_limited(record.max_memory_gb):
        yield record


def _typed(command: str, settings: Mapping[str, object]) -> Iterator[str]:
    """Keywords as typed on a command line."""
    groups = dict(_shipped.groups_of(command, _shipped.config_dir()))
    for name, value in settings.items():
        key = name.replace("__", ".")
        is_number = key in groups and isinstance(value, str) and value.isdecimal()  # fold="0", dataset="42"
        try:
            yield f"{key}={value if is_number else setting_text(value)}"
        except TypeError as error:
            expected = "a text, path, number, truth value, None, or a list of them"
            raise SegflowError(f"'{name}': {error}", expected=expected) from error


def _composed(command: str, arguments: list[str]) -> Command:
    """The settings, or one error in words for whatever is wrong with them."""
    if os.getcwd() not in sys.path:  # parts of a user's own in the current folder
        sys.path.insert(0, os.getcwd())
    folders = [_shipped.config_dir(), *_user_files.user_folders(arguments)]
    _first_words.check(command, arguments, folders)
    typed = _command_line.rewrite(command, arguments, folders)
    try:
        if command in _plain.COMMANDS:
            try:
                return _plain.composed(command, typed, folders)  # type: ignore[no-any-return]
            except NeedsHydraError as beyond:
                _edge.refuse_without_training(f"'{_command_line.unmarked(str(beyond))}'")
        return _edge.compose(command, *arguments)  # type: ignore[no-any-return]
    except SegflowError:
        raise
    except Exception as error:
        raise SegflowError(_messages.explain(error, folders, command)[0]) from error


def _check_here(command: str, record: Any, typed: Sequence[str]) -> None:
    """Refuse what only the command line can do, and a dataset that was probably forgotten."""
    if getattr(record, "shards", 1) != 1:
        raise SegflowError(
            f"segflow.{command} works in this process",
            found=f"shards={record.shards}",
            fix=f"Run `segflow {command}`, which starts the jobs.",
        )
    named = any(_command_line.key_of(word).partition(".")[0] == "dataset" for word in typed)
    if hasattr(record, "dataset") and not named:
        from segflow.apps import _datasets

        _datasets.announce(record, command, silent=True)
