"""Weights of a fold with their record, and loading them into a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.core.wording import some

Folds = str | int | Sequence[int | str]
"""``all``, one fold, or several; see `choose_folds`."""

FAR_MORE = 4
"""Ratio of network size to weights above which the weights cannot be those of the network."""

SHOWN = 8
"""Number of tensors that a message lists."""


@dataclass(frozen=True, slots=True)
class TrainedFold:
    """Weights of a fold, with everything else that prediction needs.

    Attributes:
        record: Record of the fold.
        weights: Tensors by the names that `segflow.network.build.build_network` gives them.
        source: Origin of the weights, for messages.
        folder: The fold's folder with pictures and scores of the training, or None.
    """

    record: RunRecord
    weights: Mapping[str, Tensor]
    source: str
    folder: Path | None = None


def choose_folds(present: Sequence[str], folds: Folds, source: str) -> list[str]:
    """The folds to predict with.

    Args:
        present: Names of the folds that have weights: ``0``, ``1``, …, ``all``.
        folds: Names; or ``all``, which means every numbered fold, or fold ``all`` if there is no other.
        source: Place of the folds, for messages.

    Raises:
        SegflowError: A fold does not exist.
    """
    numbered = sorted((name for name in present if is_number(name)), key=int)
    if folds == "all":
        chosen = numbered or list(present)
    else:
        chosen = [str(fold) for fold in ([folds] if isinstance(folds, (int, str)) else folds)]
    missing = [fold for fold in chosen if fold not in present]
    if missing or not chosen:
        raise SegflowError(
            f"{source} has no weights of fold {', '.join(missing) or 'any'}",
            found=", ".join(sorted(present)) or "none",
            fix=None if present else "Train first: segflow train",
        )
    return chosen


def load_weights(network: nn.Module, fold: TrainedFold) -> nn.Module:
    """Put a fold's weights into a network.

    Raises:
        SegflowError: They belong to another network. The error names the tensors that differ.
    """
    own = network.state_dict()
    problems = [f"lacks {key}" for key in own if key not in fold.weights]
    problems += [f"has {key} too many" for key in fold.weights if key not in own]
    problems += [
        f"{key} is {list(value.shape)} instead of {list(own[key].shape)}"
        for key, value in fold.weights.items()
        if key in own and value.shape != own[key].shape
    ]
    if problems:
        raise SegflowError(
            f"the weights in {fold.source} do not fit the network of configuration '{fold.record.configuration}'",
            found=some(problems, SHOWN, "; "),
            fix=_other_network(fold),
        )
    network.load_state_dict(dict(fold.weights))
    return network


def check_size(fold: TrainedFold) -> None:
    """Compare the size of the plans' network with the weights before it is built.

    If the sizes are of the same order, the network is built, and `load_weights` names the differences.

    Raises:
        SegflowError: The network is far larger.
    """
    record = fold.record
    topology = record.plan.topology
    wanted = topology.size(record.in_channels, record.dataset.labels.num_outputs)
    held = sum(value.numel() for value in fold.weights.values())
    if wanted > FAR_MORE * held or topology.blocks > FAR_MORE * len(fold.weights):
        raise SegflowError(
            f"the weights in {fold.source} do not fit the network of configuration '{record.configuration}', "
            "which is far larger",
            found=f"{wanted:,} numbers in {topology.blocks} blocks",
            expected=f"about {held:,} numbers in {len(fold.weights)} tensors",
            fix=_other_network(fold),
        )


def _other_network(fold: TrainedFold) -> str:
    """Advice for a network that does not fit. A user's own network must be named, since files may not name code."""
    settings = fold.record.settings.get("network")
    trained = settings.get("_target_") if isinstance(settings, Mapping) else None
    changed = "the plans beside the weights were changed after the training"
    if trained is None:
        return f"Either {changed}, or the trainer built another network."
    return (
        f"They were trained with a network of '{trained}': give this command the network= that the training was given "
        f"(and its --config-dir, for a network of your own). If that is already so, {changed}."
    )
