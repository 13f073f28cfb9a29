"""What a user changed: the settings of a run that differ from the defaults of ``segflow train``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from segflow.apps import _plain, _settings, _shipped
from segflow.apps._plain_values import NeedsHydraError
from segflow.apps.train import Train
from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.reporting.facts import in_words
from segflow.reporting.reported_run import Change
from segflow.storage.folds import HYDRA_FOLDER, Fold

OF_THE_PLACE = ("paths.", "dataset.", "fold.index")
"""Settings that say where a run is and on what; a page names both elsewhere."""


def changes(record: RunRecord) -> list[Change] | None:
    """The settings that differ; None if they cannot be compared, as those of nnU-Net."""
    if record.from_nnunet or not record.settings:
        return None
    try:
        composed = _plain.composed("train", [], [_shipped.config_dir()])
    except (NeedsHydraError, SegflowError):
        return None
    defaults, here = dict(leaves(_settings.plain(composed, Train))), dict(leaves(record.settings))
    return [
        Change(name, in_words(defaults[name]) if name in defaults else "", in_words(value))
        for name, value in here.items()
        if not name.startswith(OF_THE_PLACE) and not (name in defaults and defaults[name] == value)
    ]


def typed(fold: Fold) -> list[str]:
    """The settings as typed on the command line that trained a fold; empty if they are not known."""
    try:
        content = yaml.safe_load((fold.path / HYDRA_FOLDER / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [str(word) for word in content] if isinstance(content, list) else []


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name → leaf. Lists are leaves, since their entries have no names."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif not prefix.endswith("._partial_"):
        yield prefix, value
